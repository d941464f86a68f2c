"""Write text in the shape of CUTE, of any size, from real Tibetan: what the other benchmarks of stage 1 run on.

    python benchmarks/cute_shaped.py TRIPLETS.jsonl MONO.jsonl FOLDER 1e9

TRIPLETS has {"bo", "zh", "en"} a line, MONO {"text"}. Writes bo.txt, zh.txt, en.txt, n-bo.txt and a mix
below FOLDER, about as many bytes as asked for, in CUTE's proportions: a Tibetan line is a document of 12 kB on average.
Documents are sentences drawn at random; 2 % stand twice, and in each language 0.02 % of the lines are missing.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

_DOCUMENT = 12_000  # bytes of Tibetan on average
_PARALLEL = 0.59  # CUTE's bo, zh and en have 17.3 GB, its monolingual part 11.9 GB
_TWICE, _MISSING = 0.02, 0.0002


def main() -> None:
    """Write the files, one document at a time."""
    triplets, mono, folder, size = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(float(sys.argv[4]))
    chance = random.Random(42)
    sentences = [json.loads(line) for line in triplets.open(encoding="utf-8")]
    spoken = [json.loads(line)["text"] for line in mono.open(encoding="utf-8")]
    pieces = [part + "།" for text in spoken for part in text.split("།") if len(part) > 20]
    parallel, plain = folder / "CUTE-Datasets/parallel-corpus", folder / "CUTE-Datasets/non-parallel-corpus"
    parallel.mkdir(parents=True, exist_ok=True)
    plain.mkdir(parents=True, exist_ok=True)
    written = 0
    with ExitStack() as stack:
        files = {
            code: stack.enter_context(open(parallel / f"{code}.txt", "w", encoding="utf-8"))
            for code in ("bo", "zh", "en")
        }
        for document in _twice(_parallel_documents(sentences, chance), chance):
            for code, handle in files.items():
                if chance.random() >= _MISSING:
                    handle.write(document[code] + "\n")
            written += sum(len(text.encode()) for text in document.values())
            if written >= _PARALLEL * size:
                break
    with open(plain / "n-bo.txt", "w", encoding="utf-8") as handle:
        for text in _twice(_plain_documents(pieces, chance), chance):
            handle.write(text + "\n")
            written += len(text.encode())
            if written >= size:
                break
    mix = folder / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json"
    mix.parent.mkdir(exist_ok=True)
    records = [
        {"instruction": f"请把下面的句子译成藏文：{row['zh']}", "input": "", "output": row["bo"]} for row in sentences
    ]
    mix.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")


def _parallel_documents(sentences: list[dict[str, str]], chance: random.Random) -> Iterator[dict[str, str]]:
    while True:
        chosen: list[dict[str, str]] = []
        size, target = 0, chance.lognormvariate(0, 0.6) * _DOCUMENT / 1.2
        while size < target:
            chosen.append(chance.choice(sentences))
            size += len(chosen[-1]["bo"].encode())
        yield {code: ("" if code == "zh" else " ").join(row[code] for row in chosen) for code in ("bo", "zh", "en")}


def _plain_documents(pieces: list[str], chance: random.Random) -> Iterator[str]:
    while True:
        chosen: list[str] = []
        size, target = 0, chance.lognormvariate(0, 0.6) * _DOCUMENT / 1.2
        while size < target:
            chosen.append(chance.choice(pieces))
            size += len(chosen[-1].encode())
        yield " ".join(chosen)


def _twice(documents: Iterator, chance: random.Random) -> Iterator:
    for document in documents:
        yield document
        if chance.random() < _TWICE:
            yield document


if __name__ == "__main__":
    main()
