"""What the tests of encoder-decoder training share: a small model of each family, and records of stage 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from babel import Locale

from langadapt.files import write_json_array
from langadapt.models.small_translator import Family, make_small_translator

FAMILIES = get_args(Family)


def place_names(count: int = 120) -> list[tuple[str, str]]:
    """Names of territories in English and French."""
    english, french = (Locale(language).territories for language in ("en", "fr"))
    return [(english[code], french[code]) for code in sorted(english) if code.isalpha() and code in french][:count]


def make_translators(folder: Path) -> dict[str, Path]:
    """A folder for each family, between English and French."""
    pairs = place_names()
    texts = {"en": [pair[0] for pair in pairs], "fr": [pair[1] for pair in pairs]}
    for family in FAMILIES:
        make_small_translator(family, texts, folder / family, vocab_size=300, hidden_size=32)
    return {family: folder / family for family in FAMILIES}


def write_records(path: Path, pairs: list[tuple[str, str]], others: int = 0) -> Path:
    """Every pair both ways as stage 1 writes it, and records of another task."""
    records: list[dict[str, Any]] = []
    for english, french in pairs:
        for languages, texts in ((("en", "fr"), (english, french)), (("fr", "en"), (french, english))):
            source, target = dict(zip(languages, texts, strict=True)).items()
            record = {"task": "translation", "source_lang": source[0], "target_lang": target[0]}
            records.append(
                record | {"source_text": source[1], "instruction": source[1], "input": "", "output": target[1]}
            )
    records += [{"task": "instruction", "instruction": "x", "input": "", "output": "y"}] * others
    write_json_array(path, records)
    return path


def seq2seq_keys(**changes: Any) -> dict[str, Any]:
    """Keys for `runs.recipe`, of a run out of English."""
    keys: dict[str, Any] = {"stage": "seq2seq", "source_languages": ["en"], "label_smoothing_factor": 0.1}
    return keys | changes
