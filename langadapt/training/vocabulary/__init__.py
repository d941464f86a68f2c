"""More vocabulary for a model that is about to be trained: pieces of a script that its tokenizer cuts to shreds, or
tokens of languages that a translator does not know.
"""

from langadapt.training.vocabulary.extension import VOCABULARY_FILE, extend_tokenizer, extend_vocabulary
from langadapt.training.vocabulary.languages import LANGUAGES_FILE, extend_languages, with_languages

__all__ = [
    "LANGUAGES_FILE",
    "VOCABULARY_FILE",
    "extend_languages",
    "extend_tokenizer",
    "extend_vocabulary",
    "with_languages",
]
