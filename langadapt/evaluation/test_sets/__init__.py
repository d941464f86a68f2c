"""The test sets of stage 4: what stage 1 held out, and published or private sets from local files."""

from langadapt.evaluation.test_sets.reading import read_test_sets
from langadapt.evaluation.test_sets.sets import TestSets, TextSet, TranslationSet, sha256_of_items
from langadapt.evaluation.test_sets.translators import what_a_translator_can

__all__ = ["TestSets", "TextSet", "TranslationSet", "read_test_sets", "sha256_of_items", "what_a_translator_can"]
