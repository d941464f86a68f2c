"""Ground: what text is made of - normal forms, scripts, units. Knows no file and no model."""

from langadapt.text.normalization import normalize
from langadapt.text.scripts import latin_words, main_script, numbers, script_share
from langadapt.text.segmentation import bleu_units, cut_to_fit, sentences, units, whole_sentences

__all__ = [
    "bleu_units",
    "cut_to_fit",
    "latin_words",
    "main_script",
    "normalize",
    "numbers",
    "script_share",
    "sentences",
    "units",
    "whole_sentences",
]
