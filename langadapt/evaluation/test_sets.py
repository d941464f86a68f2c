"""The held-out records of stage 1, as stage 4 uses them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from langadapt.errors import UserError
from langadapt.files import check_vouched, read_json_array
from langadapt.files.records import Record
from langadapt.recipe import Language, load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.text import normalize

Item = TypeVar("Item")


@dataclass(frozen=True)
class TestSets:
    """What a model is evaluated on. ``missing`` says for each thing asked for and not there why it is not."""

    __test__ = False  # for pytest, which takes the name for a test's

    texts: list[str]
    translations: dict[str, list[Record]]  # every direction asked for, also where there are no records
    missing: dict[str, str]
    files: dict[str, str]  # path -> SHA-256


def read_test_sets(settings: EvaluationSettings, way_out: str) -> TestSets:
    """Read both test sets and draw the records of `limit`; ``way_out`` is said of a file that is not there."""
    folder = Path(settings.dataset_dir)
    likelihood, translation = folder / settings.likelihood_file, folder / settings.translation_file
    texts = draw(read_texts(likelihood, way_out, load_language(settings.language)), settings.limit, settings.seed)
    found = read_translations(translation, way_out)
    wanted = settings.directions if settings.directions is not None else list(found)
    for direction in wanted:
        for language in direction.split("-"):
            load_language(language)
    missing = {f"translation.{d}": f"{translation} holds no {d} records" for d in wanted if d not in found}
    if not wanted:
        missing["translation"] = f"{translation} holds no translation records"
    if not texts:
        missing["perplexity"] = f"{likelihood} holds no text"
    return TestSets(
        texts=texts,
        translations={d: draw(found.get(d, []), settings.limit, settings.seed) for d in wanted},
        missing=missing,
        files={str(path): check_vouched(path) for path in (likelihood, translation)},
    )


def read_texts(path: Path, way_out: str, language: Language) -> list[str]:
    """Return the texts of a file of ``lm`` records in the language's normal form, leaving out those without any."""
    records = read_json_array(path, way_out)
    _require_keys(path, records, ("text",))
    return [text for text in (normalize(record["text"], language.normalization) for record in records) if text]


def read_translations(path: Path, way_out: str) -> dict[str, list[Record]]:
    """Return the translation records of a file by direction (``zh-bo``), in the file's order."""
    records = read_json_array(path, way_out)
    _require_keys(path, records, ("task",))
    translations = [record for record in records if record["task"] == "translation"]
    _require_keys(path, translations, ("id", "instruction", "output", "source_lang", "target_lang", "source_text"))
    directions: dict[str, list[Record]] = {}
    for record in translations:
        directions.setdefault(direction_of(record), []).append(record)
    return directions


def direction_of(record: Record) -> str:
    """Return the direction of a translation record, e.g. ``zh-bo``."""
    return f"{record['source_lang']}-{record['target_lang']}"


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """Return all items, or ``limit`` of them drawn at random with a fixed seed."""
    if limit is None or limit >= len(items):
        return list(items)
    return random.Random(seed).sample(items, limit)


def sha256_of_items(items: Sequence[Any]) -> str:
    """Return a hash by which two evaluations know that they scored the same items, in whatever order."""
    lines = sorted(json.dumps(item, ensure_ascii=False) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _require_keys(path: Path, records: Sequence[Record], keys: Sequence[str]) -> None:
    for position, record in enumerate(records, start=1):
        wrong = [key for key in keys if not isinstance(record.get(key), str)]
        if wrong:
            raise UserError(
                f"{path}: record {position} ({record.get('id', 'no id')}) has no text under the key `{wrong[0]}`. "
                "Stage 4 reads what 1_preprocess.py writes."
            )
