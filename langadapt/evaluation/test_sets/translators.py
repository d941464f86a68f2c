"""What of a recipe's test sets can be measured on an encoder-decoder translator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from langadapt.errors import UserError
from langadapt.evaluation.test_sets.sets import TestSets
from langadapt.models.translation import TranslationTokenizer

_NO_LIKELIHOOD = "not defined for a translator: it gives a text a likelihood only as the translation of another"
_NO_CHOICES = "not asked: a translator has no prompt to put a question in"


def what_a_translator_can(tokenizer: TranslationTokenizer, test: TestSets, choice_sets: Iterable[str]) -> TestSets:
    """Return the translations of ``test`` in the directions that a translator has; the rest is in ``missing``."""
    missing = {f"likelihood.{texts.name}.{texts.language}": _NO_LIKELIHOOD for texts in test.texts}
    missing |= {f"choices.{name}": _NO_CHOICES for name in choice_sets}
    possible = []
    for each in test.translations:
        source, _, target = each.direction.partition("-")
        try:
            tokenizer.check_direction(source, target)
            possible.append(each)
        except UserError as error:
            missing[f"translation.{each.name}.{each.direction}"] = str(error)
    return replace(test, texts=[], translations=possible, missing=test.missing | missing)
