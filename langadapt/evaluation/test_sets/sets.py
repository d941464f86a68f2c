"""What a model is evaluated on, whatever files it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langadapt.files.records import Record


@dataclass(frozen=True)
class TextSet:
    """Texts of one language, in its normal form and none empty, and the id of each."""

    name: str
    language: str
    ids: list[str]
    texts: list[str]


@dataclass(frozen=True)
class TranslationSet:
    """Translations to be made, as records of stage 1: each with its reference under ``output``.

    ``examples`` may stand in a prompt: no source or reference of the test set is among theirs. A record has
    ``neighbour``, the same item in a neighbour language of the target, where the test set has one.
    """

    name: str
    direction: str
    records: list[Record]
    examples: list[Record]


@dataclass(frozen=True)
class TestSets:
    """Everything a model is evaluated on.

    ``missing`` says what was asked for and is not there, or not as asked, and why, by ``likelihood.<set>.<language>``
    and ``translation.<set>.<direction>``.
    """

    __test__ = False  # for pytest, which takes the name for a test's

    texts: list[TextSet]
    translations: list[TranslationSet]
    missing: dict[str, str]
    files: dict[str, str]  # path -> SHA-256


def sha256_of_items(items: Sequence[Any]) -> str:
    """Return a hash by which two evaluations know that they scored the same items, in whatever order."""
    lines = sorted(json.dumps(item, ensure_ascii=False) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
