"""More vocabulary for a model that is about to be trained: pieces of a script that its tokenizer cuts to shreds."""

from langadapt.training.vocabulary.extension import VOCABULARY_FILE, extend_tokenizer, extend_vocabulary

__all__ = ["VOCABULARY_FILE", "extend_tokenizer", "extend_vocabulary"]
