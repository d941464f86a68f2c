"""Text for the small form of a recipe, in the layout that the recipe reads: dates from the Unicode CLDR.

    python -m langadapt.runs.text LAYOUT FOLDER

LAYOUT is one of:

    tibetan     CUTE-Datasets and tibetan-mix-instruction-tuning-60K: Tibetan, Chinese, English
    triplets    bo_zh_en.jsonl and bo_mono_modern_nanhai.jsonl: the same three languages
    mongolian   the four files of the Mongolian recipes: Mongolian and English
    csas        training_data.jsonl: English and French both ways, twenty dates a publication
    minimind    the four files of minimind_en_zh_hant: English and Traditional Chinese, sums of money for finance
    classical   train.json and public_test.json. CLDR has no Classical Chinese: dates in Han numerals stand in for it,
                against modern dates in Traditional script; it shows that the recipe runs, and nothing more.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from langadapt.errors import run_command
from langadapt.files import write_json, write_text
from langadapt.files.records import Record
from langadapt.runs import cldr

SEED = 42
PAIRS, DOCUMENTS = 2_000, 300
_YEARS, _OTHER_YEARS = range(1950, 2040), range(1900, 1950)  # of pairs, and of texts in one language
_A_PUBLICATION = 20  # pairs
_NUMERALS = str.maketrans("0123456789", "〇一二三四五六七八九")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    LAYOUTS[arguments.layout](arguments.folder, random.Random(SEED))
    print(f"text from CLDR: {arguments.folder}")


def _tibetan(folder: Path, chance: random.Random) -> None:
    cldr.write_sources(folder, SEED, PAIRS, DOCUMENTS, instructions=DOCUMENTS)


def _triplets(folder: Path, chance: random.Random) -> None:
    _write_lines(folder / "bo_zh_en.jsonl", cldr.dates(_YEARS, PAIRS, chance))
    _write_lines(folder / "bo_mono_modern_nanhai.jsonl", _texts("bo", chance))


def _mongolian(folder: Path, chance: random.Random) -> None:
    pairs = iter(cldr.dates(_YEARS, PAIRS, chance, ("mn", "en")))
    _write_lines(folder / "mn_mono.jsonl", _texts("mn", chance))
    extracted = [{"input": pair["mn"], "output": pair["en"]} for pair in islice(pairs, PAIRS // 4)]
    write_json(folder / "extracted_input_output.json", extracted)
    asked = "Translate the following Mongolian sentence into English."
    instructed = [
        {"instruction": asked, "input": pair["mn"], "output": pair["en"]} for pair in islice(pairs, PAIRS // 4)
    ]
    write_json(folder / "qwen_training_data.json", instructed)
    _write_lines(folder / "mn-en-parallel.jsonl", [{"src": pair["mn"], "tgt": pair["en"]} for pair in pairs])


def _csas(folder: Path, chance: random.Random) -> None:
    rows = []
    for number, pair in enumerate(cldr.dates(_YEARS, PAIRS, chance, ("en", "fr"))):
        for source, target in (("en", "fr"), ("fr", "en")):
            row = {"source": pair[source], "target": pair[target], "source_lang": source}
            rows.append({**row, "pub_number": f"CLDR-{number // _A_PUBLICATION}"})
    _write_lines(folder / "training_data.jsonl", rows)


def _minimind(folder: Path, chance: random.Random) -> None:
    asked = [
        {
            "conversations": [
                {"role": "user", "content": f"翻譯成繁體中文：{pair['en']}"},
                {"role": "assistant", "content": pair["zh_hant"]},
            ]
        }
        for pair in cldr.dates(_OTHER_YEARS, DOCUMENTS, chance, ("en", "zh_hant"))
    ]
    texts = [text for texts in zip(_texts("zh_hant", chance), _texts("en", chance), strict=True) for text in texts]
    _write_lines(folder / "pretrain.jsonl", texts)
    _write_lines(folder / "parallel.jsonl", cldr.dates(_YEARS, PAIRS, chance, ("en", "zh_hant")))
    _write_lines(folder / "sft.jsonl", asked)
    _write_lines(folder / "finance.jsonl", cldr.sums_of_money(PAIRS, chance, ("en", "zh_hant")))


def _classical(folder: Path, chance: random.Random) -> None:
    records = []
    for number, date in enumerate(cldr.dates(_YEARS, PAIRS, chance, ["zh_hant"]), start=1):
        modern = date["zh_hant"]
        old = modern.translate(_NUMERALS)
        way = chance.random() < 0.5
        asked = f"翻譯成文言文：\n{modern}" if way else f"翻譯成現代文：\n{old}"
        records.append({"id": str(number), "instruction": asked, "output": old if way else modern})
    write_json(folder / "train.json", records[: PAIRS * 9 // 10])
    write_json(folder / "public_test.json", records[PAIRS * 9 // 10 :])


LAYOUTS: dict[str, Callable[[Path, random.Random], None]] = {
    "tibetan": _tibetan,
    "triplets": _triplets,
    "mongolian": _mongolian,
    "csas": _csas,
    "minimind": _minimind,
    "classical": _classical,
}


def _texts(language: str, chance: random.Random) -> Iterator[Record]:
    return ({"text": cldr.document(language, _OTHER_YEARS, chance)} for _ in range(DOCUMENTS))


def _write_lines(path: Path, records: Iterable[Record]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


if __name__ == "__main__":
    run_command(main)
