"""Lay real text out as a recipe reads it, for its small form: sets of pairs and of documents, as JSON lines.

    python benchmarks/sample_layouts.py RECIPES SAMPLES FOLDER
    make recipe R=csas_all SMALL=1 then takes it:    python -m langadapt.runs csas_all --small DATA=FOLDER

RECIPES is one of csas, tibetan, mongolian, minimind. SAMPLES is a folder with, for each, a file of pairs keyed by
language (``{"en": "...", "fr": "..."}``) and, where the recipe has text in one language, a file of ``{"text": "..."}``:

    csas        en_fr.jsonl
    tibetan     bo_zh_en.jsonl, bo_zh_classical_mitra.jsonl, lzh_zh.jsonl, bo_mono_modern_nanhai.jsonl
    mongolian   en_mn.jsonl, mn_mono.jsonl
    minimind    en_zh_hant.jsonl

The layouts are the recipes' own; what the samples do not have is made from what they have: a publication of CSAS is 25
pairs in a row, an instruction in Tibetan asks for the rest of a sentence, and finance is what speaks of money.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from langadapt.files import write_json, write_text
from langadapt.files.records import Record

_SEED = 42
_PUBLICATION = 25  # pairs
_MONEY = re.compile(
    r"\b(financ\w*|money|bank(s|ing)?|prices?|costs?|currenc(y|ies)|invest(ment|or)s?|interest rates?|payments?"
    r"|dollars?|loans?|budgets?|tax(es)?)\b",
    re.IGNORECASE,
)
_MODERN, _COMPLETIONS = 4_000, 2_000  # instructions at most

Records = list[dict[str, str]]


def csas(samples: Path, folder: Path) -> None:
    """Write training_data.jsonl, each pair both ways."""
    rows = [
        {"source": pair[a], "target": pair[b], "source_lang": a, "pub_number": f"{number // _PUBLICATION}"}
        for number, pair in enumerate(_read(samples / "en_fr.jsonl"))
        for a, b in (("en", "fr"), ("fr", "en"))
    ]
    _write_lines(folder / "training_data.jsonl", rows)


def tibetan(samples: Path, folder: Path) -> None:
    """Write CUTE-Datasets and tibetan-mix-instruction-tuning-60K."""
    chance = random.Random(_SEED)
    triplets = _read(samples / "bo_zh_en.jsonl")
    documents = [row["text"] for row in _read(samples / "bo_mono_modern_nanhai.jsonl")]
    for code in ("bo", "zh", "en"):
        _write_text(folder / f"CUTE-Datasets/parallel-corpus/{code}.txt", (row[code] for row in triplets))
    _write_text(folder / "CUTE-Datasets/non-parallel-corpus/n-bo.txt", documents)

    translations = [
        _instruction(f"请将以下古汉语佛经译为藏文：{row['zh']}", row["bo"])
        for row in _read(samples / "bo_zh_classical_mitra.jsonl")
    ]
    modern = [
        _instruction(f"请把下面的文言文翻译成现代汉语：{row['lzh']}", row["zh"])
        for row in _read(samples / "lzh_zh.jsonl")
    ]
    sentences = [part for text in documents for part in text.split("། ") if 60 <= len(part) <= 300]
    completions = [_instruction(part[: len(part) // 2], part[len(part) // 2 :]) for part in sentences]
    chance.shuffle(modern)
    chance.shuffle(completions)
    records = [*translations, *modern[:_MODERN], *completions[:_COMPLETIONS]]
    chance.shuffle(records)
    write_json(folder / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json", records)


def mongolian(samples: Path, folder: Path) -> None:
    """Write the four files of the Mongolian recipes: of the pairs half are parallel, a quarter in each other layout."""
    pairs = _read(samples / "en_mn.jsonl")
    random.Random(_SEED).shuffle(pairs)
    quarter = len(pairs) // 4
    asked = "Translate the following Mongolian sentence into English."
    extracted, instructed, parallel = pairs[:quarter], pairs[quarter : 2 * quarter], pairs[2 * quarter :]
    write_json(
        folder / "extracted_input_output.json", [{"input": pair["mn"], "output": pair["en"]} for pair in extracted]
    )
    write_json(
        folder / "qwen_training_data.json",
        [{"instruction": asked, "input": pair["mn"], "output": pair["en"]} for pair in instructed],
    )
    _write_lines(folder / "mn-en-parallel.jsonl", [{"src": pair["mn"], "tgt": pair["en"]} for pair in parallel])
    _write_lines(folder / "mn_mono.jsonl", _read(samples / "mn_mono.jsonl"))


def minimind(samples: Path, folder: Path) -> None:
    """Write the four files of minimind_en_zh_hant: of the pairs a third are text, and some are conversations."""
    pairs = [{code: pair[code] for code in ("en", "zh_hant")} for pair in _read(samples / "en_zh_hant.jsonl")]
    finance = [pair for pair in pairs if _MONEY.search(pair["en"])]
    rest = [pair for pair in pairs if not _MONEY.search(pair["en"])]
    random.Random(_SEED).shuffle(rest)
    third = len(rest) // 3
    asked = [
        {
            "conversations": [
                {"role": "user", "content": f"翻譯成繁體中文：{pair['en']}"},
                {"role": "assistant", "content": pair["zh_hant"]},
            ]
        }
        for pair in rest[third : third + 1_000]
    ]
    texts = [{"text": text} for pair in rest[:third] for text in (pair["zh_hant"], pair["en"])]
    _write_lines(folder / "pretrain.jsonl", texts)
    _write_lines(folder / "parallel.jsonl", rest[third + 1_000 :])
    _write_lines(folder / "sft.jsonl", asked)
    _write_lines(folder / "finance.jsonl", finance)


RECIPES: dict[str, Callable[[Path, Path], None]] = {
    "csas": csas,
    "tibetan": tibetan,
    "mongolian": mongolian,
    "minimind": minimind,
}


def _read(path: Path) -> Records:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _instruction(asked: str, answer: str) -> dict[str, str]:
    return {"instruction": asked, "input": "", "output": answer}


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _write_text(path: Path, texts: Iterable[str]) -> None:
    write_text(path, "".join(" ".join(text.split("\n")) + "\n" for text in texts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", metavar="RECIPES", choices=RECIPES)
    parser.add_argument("samples", metavar="SAMPLES", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    given = parser.parse_args()
    RECIPES[given.recipes](given.samples, given.folder)
    print(f"{given.recipes}: {given.folder}")
