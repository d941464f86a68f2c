"""The held-out records of stage 1."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from langadapt.errors import UserError
from langadapt.evaluation.test_sets.sets import TestSets, TextSet, TranslationSet
from langadapt.files import check_vouched, read_json_array
from langadapt.files.records import Record
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.test_sets import OWN
from langadapt.text import normalize

_Item = TypeVar("_Item")
_TRANSLATION_KEYS = ("id", "instruction", "output", "source_lang", "target_lang", "source_text")


def read_own_set(settings: EvaluationSettings, way_out: str, *, with_examples: bool) -> TestSets:
    """Read `likelihood_file` and `translation_file`, unless they are null, and, ``with_examples``, `fewshot_file`.

    A training record that shares a text with any test record, of whatever direction, is no example.
    """
    folder = Path(settings.dataset_dir)
    files, missing, texts = [], {}, []
    if settings.likelihood_file is not None:
        likelihood = folder / settings.likelihood_file
        files.append(likelihood)
        held_out = _texts(likelihood, way_out, settings)
        if held_out.texts:
            texts.append(held_out)
        else:
            missing[f"likelihood.{OWN}.{settings.language}"] = f"{likelihood} holds no text"

    tests: dict[str, list[Record]] = {}
    wanted: list[str] = []
    if settings.translation_file is not None:
        translation = folder / settings.translation_file
        files.append(translation)
        tests = _translations(translation, way_out)
        for records in tests.values():
            _require_unique_ids(translation, records)
        wanted = list(tests) if settings.directions is None else settings.directions
        for direction in wanted:
            for language in direction.split("-"):
                load_language(language)
        missing |= {f"translation.{OWN}.{d}": f"{translation} holds no {d} records" for d in wanted if d not in tests}
        if not tests:
            missing[f"translation.{OWN}"] = f"{translation} holds no translation records"

    training: dict[str, list[Record]] = {}
    if with_examples and not tests.keys().isdisjoint(wanted):
        tested = {text for records in tests.values() for record in records for text in _texts_of(record)}
        fewshot = folder / settings.fewshot_file
        files.append(fewshot)
        for direction, records in _translations(fewshot, way_out).items():
            training[direction] = [record for record in records if tested.isdisjoint(_texts_of(record))]

    return TestSets(
        texts=texts,
        translations=[
            TranslationSet(OWN, d, _draw(tests[d], settings.limit, settings.seed), training.get(d, []))
            for d in wanted
            if d in tests
        ],
        missing=missing,
        files={str(path): check_vouched(path) for path in files},
    )


def _texts(path: Path, way_out: str, settings: EvaluationSettings) -> TextSet:
    records = read_json_array(path, way_out)
    _require_keys(path, records, ("id", "text"))
    _require_unique_ids(path, records)
    form = load_language(settings.language).normalization
    texts = [(str(record["id"]), normalize(record["text"], form)) for record in records]
    drawn = _draw([(key, text) for key, text in texts if text], settings.limit, settings.seed)
    return TextSet(OWN, settings.language, [key for key, _ in drawn], [text for _, text in drawn])


def _translations(path: Path, way_out: str) -> dict[str, list[Record]]:
    """Return the translation records of a file by direction (``zh-bo``), in the file's order."""
    records = read_json_array(path, way_out)
    _require_keys(path, records, ("task",))
    translations = [record for record in records if record["task"] == "translation"]
    _require_keys(path, translations, _TRANSLATION_KEYS)
    directions: dict[str, list[Record]] = {}
    for record in translations:
        directions.setdefault(f"{record['source_lang']}-{record['target_lang']}", []).append(record)
    return directions


def _texts_of(record: Record) -> set[str]:
    return {record["source_text"], record["output"]}


def _draw(items: Sequence[_Item], limit: int | None, seed: int) -> list[_Item]:
    """Return all items, or ``limit`` of them drawn at random with a fixed seed."""
    if limit is None or limit >= len(items):
        return list(items)
    return random.Random(seed).sample(items, limit)


def _require_keys(path: Path, records: Sequence[Record], keys: Sequence[str]) -> None:
    for position, record in enumerate(records, start=1):
        wrong = [key for key in keys if not isinstance(record.get(key), str)]
        if wrong:
            raise UserError(
                f"{path}: record {position} ({record.get('id', 'no id')}) has no text under the key `{wrong[0]}`. "
                "Stage 4 reads what 1_preprocess.py writes."
            )


def _require_unique_ids(path: Path, records: Sequence[Record]) -> None:
    """Results are kept by id: of two records with one id, one would be lost."""
    counts = Counter(record["id"] for record in records)
    key, count = counts.most_common(1)[0] if counts else ("", 1)
    if count > 1:
        raise UserError(f"{path}: {count} records have the id {key!r}. Give each its own.")
