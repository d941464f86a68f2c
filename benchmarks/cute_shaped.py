"""Write text in the shape of CUTE, of any size, from real Tibetan: what the other benchmarks of stage 1 run on.

    python benchmarks/cute_shaped.py TRIPLETS.jsonl MONO.jsonl FOLDER 1e9 [MISSING]

TRIPLETS has {"bo", "zh", "en"} a line, MONO {"text"}. Writes bo.txt, zh.txt, en.txt, n-bo.txt and a mix
below FOLDER, about as many bytes as asked for, in CUTE's proportions: a Tibetan line is a document of 12 kB on average.
Documents are sentences drawn at random. In each of them every fourth unit (syllable, character, word) is exchanged for
another, so that documents repeat each other no more than real ones do; 2 % of them stand twice, and in each language
a share MISSING of the lines is missing (default 0.0002).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import regex

_DOCUMENT = 12_000  # bytes of Tibetan on average
_PARALLEL = 0.59  # CUTE's bo, zh and en have 17.3 GB, its monolingual part 11.9 GB
_TWICE = 0.02
_STEP = 4  # one unit in so many is exchanged
# A unit with what follows it up to the next; a text is these, joined.
_UNITS = {
    "bo": regex.compile("[^་།\\s]+[་།\\s]*|[་།\\s]+"),
    "zh": regex.compile(r"\p{Han}[^\p{Han}]*|[^\p{Han}]+"),
    "en": regex.compile(r"\S+\s*"),
}

Sentence = list[str]  # its units


def main() -> None:
    """Write the files, one document at a time."""
    triplets, mono, folder, size = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(float(sys.argv[4]))
    missing = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0002
    chance = random.Random(42)
    rows = [json.loads(line) for line in triplets.open(encoding="utf-8")]
    sentences = {code: [pattern.findall(row[code]) for row in rows] for code, pattern in _UNITS.items()}
    spoken = [json.loads(line)["text"] for line in mono.open(encoding="utf-8")]
    pieces = [_UNITS["bo"].findall(part + "།") for text in spoken for part in text.split("།") if len(part) > 20]
    parallel, plain = folder / "CUTE-Datasets/parallel-corpus", folder / "CUTE-Datasets/non-parallel-corpus"
    parallel.mkdir(parents=True, exist_ok=True)
    plain.mkdir(parents=True, exist_ok=True)
    written = 0
    with ExitStack() as stack:
        files = {code: stack.enter_context(open(parallel / f"{code}.txt", "w", encoding="utf-8")) for code in _UNITS}
        for document in _twice(_documents(sentences, chance), chance):
            for code, handle in files.items():
                if chance.random() >= missing:
                    handle.write(document[code] + "\n")
            written += sum(len(text.encode()) for text in document.values())
            if written >= _PARALLEL * size:
                break
    with open(plain / "n-bo.txt", "w", encoding="utf-8") as handle:
        for document in _twice(_documents({"bo": pieces}, chance), chance):
            handle.write(document["bo"] + "\n")
            written += len(document["bo"].encode())
            if written >= size:
                break
    mix = folder / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json"
    mix.parent.mkdir(exist_ok=True)
    records = [
        {"instruction": f"请把下面的句子译成藏文：{row['zh']}", "input": "", "output": row["bo"]} for row in rows
    ]
    mix.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")


def _documents(sentences: dict[str, list[Sentence]], chance: random.Random) -> Iterator[dict[str, str]]:
    """Yield documents by language; sentence k is the same in all languages."""
    words = {code: [unit for units in some for unit in units] for code, some in sentences.items()}
    count = len(sentences["bo"])
    sizes = [sum(len(unit.encode()) for unit in units) for units in sentences["bo"]]
    while True:
        chosen: list[int] = []
        size, target = 0, chance.lognormvariate(0, 0.6) * _DOCUMENT / 1.2
        while size < target:
            chosen.append(chance.randrange(count))
            size += sizes[chosen[-1]]
        yield {
            code: ("" if code == "zh" else " ").join(_changed(some[k], words[code], chance) for k in chosen).strip()
            for code, some in sentences.items()
        }


def _changed(units: Sentence, words: Sequence[str], chance: random.Random) -> str:
    units = units.copy()
    start = chance.randrange(_STEP)
    units[start::_STEP] = chance.choices(words, k=len(range(start, len(units), _STEP)))
    return "".join(units).strip()


def _twice(documents: Iterator, chance: random.Random) -> Iterator:
    for document in documents:
        yield document
        if chance.random() < _TWICE:
            yield document


if __name__ == "__main__":
    main()
