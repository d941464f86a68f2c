"""All test sets of a recipe."""

from __future__ import annotations

from langadapt.evaluation.test_sets.aligned import read_aligned_set
from langadapt.evaluation.test_sets.own import read_own_set
from langadapt.evaluation.test_sets.sets import TestSets
from langadapt.recipe.evaluation import EvaluationSettings


def read_test_sets(settings: EvaluationSettings, way_out: str) -> TestSets:
    """Read what stage 1 held out and every set that the recipe lists, and draw the items of `limit`.

    ``way_out`` is said of a file of stage 1 that is not there. Raises `UserError` for files that are missing, broken
    or do not belong together, before any model is loaded.
    """
    with_examples = settings.prompt_format != "chat" and settings.shots[-1] > 0
    parts = [read_own_set(settings, way_out, with_examples=with_examples)]
    for name, test_set in settings.test_sets.items():
        parts.append(read_aligned_set(name, test_set, settings, with_examples=with_examples))
    return TestSets(
        texts=[texts for part in parts for texts in part.texts],
        translations=[translations for part in parts for translations in part.translations],
        missing={key: reason for part in parts for key, reason in part.missing.items()},
        files={path: sha256 for part in parts for path, sha256 in part.files.items()},
    )
