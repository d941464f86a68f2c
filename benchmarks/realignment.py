"""How well drifted parallel files are paired again, how sure the posteriors are, how fast, in how much memory.

    python benchmarks/realignment.py FOLDER       FOLDER holds bo_zh_en.jsonl, en_mn.jsonl and the others of SETS

Files are real translations, a sentence or a document of ten consecutive sentences a line. In every language each line
is, with the probability of the damage, left out, doubled, joined with the next or blanked. Prints which share of the
rows found are true and which share of the rows that survive whole were found, with 95 % intervals (bootstrap over the
seeds), and how often posteriors are right; then how well long documents are cut into segments; then time and memory on
rows of the size of CUTE's.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import regex

from langadapt.corpus.alignment import Alignment, FeatureParts, align, extract
from langadapt.corpus.alignment.features import concatenate
from langadapt.corpus.alignment.segments import split_pair
from langadapt.recipe.language import load_language
from langadapt.text.blocks import TextBlock

SEGMENTATION = {"bo": "syllables", "dz": "syllables", "zh": "characters", "zh_hant": "characters"}  # words elsewhere
# A file, the `source` its lines have to be of, how many of them, and the languages: the pivot first.
SETS: tuple[tuple[str, str | None, int, tuple[tuple[str, ...], ...]], ...] = (
    ("bo_zh_en", "ntrex", 2000, (("bo", "zh"), ("bo", "en"), ("bo", "zh", "en"))),
    ("en_mn", "ntrex", 2000, (("en", "mn"),)),
    ("en_zh_hant", "ntrex", 2000, (("en", "zh_hant"),)),
    ("dz_en_zh_lohelp", None, 1700, (("dz", "en"),)),
)
DAMAGE = (0.001, 0.003, 0.01, 0.03)
SENTENCES = 10  # in a document
SEEDS = {"document": 20, "sentence": 3}
DOCUMENTS = 300  # to cut into segments
LONG = (20_000, 80_000)  # rows
POOL, LONG_SENTENCES = 4000, 28  # documents that the long files draw from, as long as CUTE's
PART = 2000

Lines = dict[str, list[str]]


def main() -> None:
    """Print the tables, in Markdown."""
    folder = Path(sys.argv[1])
    calibration: list[tuple[float, bool]] = []
    print("| line | languages | damage | true of those found | found of those that survive |\n|---|---|---|---|---|")
    for shape in SEEDS:
        for name, source, count, choices in SETS:
            for languages in choices:
                lines = read(folder / f"{name}.jsonl", source, languages, count)
                lines = documents(lines, SENTENCES) if shape == "document" else lines
                for damage in DAMAGE:
                    rounds = [scored(lines, damage, seed, calibration) for seed in range(SEEDS[shape])]
                    found, true, surviving, kept = np.array(rounds).T
                    shares = f"{interval(true, found)} | {interval(kept, surviving)}"
                    print(f"| {shape} | {'-'.join(languages)} | {damage:.1%} | {shares} |", flush=True)
    print("\n| posterior | rows | true |\n|---|---|---|")
    for low, high in ((0.7, 0.9), (0.9, 0.99), (0.99, 0.999), (0.999, 1.1)):
        some = [right for posterior, right in calibration if low <= posterior < high]
        print(f"| {low} to {min(high, 1)} | {len(some)} | {np.mean(some) if some else 0:.2%} |")
    print("\n| languages | documents cut | of their cuts at the same place | documents a second |\n|---|---|---|---|")
    for pair in (("bo", "zh"), ("bo", "en"), ("en", "zh")):
        cut, right, speed = segmented(read(folder / "bo_zh_en.jsonl", "ntrex", pair, 2000))
        print(
            f"| {'-'.join(pair)} | {cut.mean():.1%} | {interval(right[:, 0], right[:, 1])} | {speed:.0f} |", flush=True
        )
    print("\n| rows | bo, zh, en: ms a row | peak memory, MB | before, MB |\n|---|---|---|---|", flush=True)
    lines = read(folder / "bo_zh_en.jsonl", "ntrex", ("bo", "zh", "en"), 2000)
    for rows in LONG:
        with tempfile.TemporaryDirectory() as place:
            parts = write_long(lines, rows, Path(place))
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, most, before = pool.submit(timed, parts).result()
            print(f"| {rows:,} | {seconds / rows * 1e3:.2f} | {most} | {before} |", flush=True)


def read(path: Path, source: str | None, languages: tuple[str, ...], count: int) -> Lines:
    """Return the first lines that exist in all languages."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    whole = [r for r in records if (not source or r["source"] == source) and all(r.get(code) for code in languages)]
    return {code: [record[code].replace("\n", " ") for record in whole[:count]] for code in languages}


def documents(lines: Lines, sentences: int) -> Lines:
    """Join consecutive sentences."""
    return {
        code: [
            ("" if SEGMENTATION.get(code) == "characters" else " ").join(text[k : k + sentences])
            for k in range(0, len(text) - sentences + 1, sentences)
        ]
        for code, text in lines.items()
    }


def damaged(lines: list[str], damage: float, chance: random.Random) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return the lines left, and of which of the old ones each consists."""
    left: list[str] = []
    origins: list[tuple[int, ...]] = []
    k = 0
    while k < len(lines):
        kind = chance.choice(("lost", "doubled", "joined", "blank")) if chance.random() < damage else "whole"
        if kind == "joined" and k + 1 < len(lines):
            left.append(f"{lines[k]} {lines[k + 1]}")
            origins.append((k, k + 1))
            k += 1
        elif kind == "blank":
            left.append("")
            origins.append(())
        elif kind != "lost":
            copies = 2 if kind == "doubled" else 1
            left += [lines[k]] * copies
            origins += [(k,)] * copies
        k += 1
    return left, origins


def scored(lines: Lines, damage: float, seed: int, calibration: list[tuple[float, bool]]) -> tuple[int, ...]:
    """Return how many rows were found, how many are true, how many lines survive in all languages, how many of them
    were found; append the posteriors and whether they were right to ``calibration``.
    """
    chance = random.Random(seed)
    origins = {}
    with tempfile.TemporaryDirectory() as place:
        parts = {}
        for code, text in lines.items():
            left, origins[code] = damaged(text, damage, chance)
            parts[code] = save(left, code, Path(place) / f"{code}.npz")
        alignment: Alignment = align({code: FeatureParts([path]) for code, path in parts.items()})
    whole = (alignment.rows >= 0).all(axis=1)
    of_rows = [[origins[code][line] for code, line in zip(lines, row, strict=True)] for row in alignment.rows[whole]]
    right = [len(set(row)) == 1 and row[0] != () for row in of_rows]
    calibration += zip(alignment.posteriors[whole].tolist(), right, strict=True)
    surviving = set.intersection(*({origin for origin in own if len(origin) == 1} for own in origins.values()))
    kept = {row[0] for row, ok in zip(of_rows, right, strict=True) if ok} & surviving
    return len(right), sum(right), len(surviving), len(kept)


def save(texts: list[str], code: str, path: Path) -> Path:
    """Write the features of some texts."""
    pieces = [TextBlock(texts[k : k + 500]) for k in range(0, len(texts), 500)]
    features = concatenate([extract(piece, SEGMENTATION.get(code, "words")) for piece in pieces])
    np.savez(path, **features.arrays())
    return path


def interval(part: Any, whole: Any) -> str:
    """Return a share in per cent with its 95 % interval."""
    draws = np.random.default_rng(0).integers(0, len(part), (2000, len(part)))
    low, high = np.percentile(part[draws].sum(axis=1) / whole[draws].sum(axis=1), [2.5, 97.5])
    return f"{part.sum() / whole.sum():.2%} ({low * 100:.2f} to {high * 100:.2f})"


def write_long(lines: Lines, rows: int, place: Path) -> dict[str, list[Path]]:
    """Write the features of long documents drawn again and again from a pool, 0.02 % of the lines lost or doubled."""
    chance = random.Random(0)
    count = len(next(iter(lines.values())))
    drawn = [[chance.randrange(count) for _ in range(LONG_SENTENCES)] for _ in range(POOL)]
    order = np.random.default_rng(0).integers(0, POOL, rows)
    paths: dict[str, list[Path]] = {}
    for code, text in lines.items():
        joined = documents({code: [text[k] for picks in drawn for k in picks]}, LONG_SENTENCES)[code]
        blocks = [TextBlock(joined[k : k + 100]) for k in range(0, POOL, 100)]
        pool = concatenate([extract(block, SEGMENTATION.get(code, "words")) for block in blocks])
        own = np.repeat(order, np.random.default_rng(len(paths)).choice([0, 1, 2], rows, p=[1e-4, 0.9998, 1e-4]))
        paths[code] = []
        for start in range(0, len(own), PART):
            paths[code].append(place / f"{code}{start}.npz")
            np.savez(paths[code][-1], **pool[own[start : start + PART]].arrays())
    return paths


def segmented(lines: Lines) -> tuple[Any, Any, float]:
    """Cut documents of ten to thirty sentences into segments of at most half their bytes.

    Returns for each document whether it was cut; for each that was, how many of its cuts are true and how many there
    are; and the documents a second. A cut is true between the same sentences, or inside the same one, of both
    languages; only letters and numbers count, because quotation marks stray.
    """
    chance, seconds, cut, cuts = random.Random(0), 0.0, [], []
    languages = [load_language(code) for code in lines]
    count = len(next(iter(lines.values())))
    for _ in range(DOCUMENTS):
        size = chance.randrange(10, 31)
        start = chance.randrange(count - size)
        own = {code: text[start : start + size] for code, text in lines.items()}
        source, target = (text[0] for text in documents(own, size).values())
        begin = time.process_time()
        pieces = split_pair(source, target, *languages, len((source + target).encode()) // 2)
        seconds += time.process_time() - begin
        cut.append(bool(pieces))
        ends = [np.cumsum([letters(sentence) for sentence in text]) for text in own.values()]
        places = np.cumsum([[letters(side) for side in piece] for piece in pieces], axis=0)[:-1] if pieces else []
        of = [[(np.searchsorted(e, place), place in e) for e, place in zip(ends, both, strict=True)] for both in places]
        if pieces:
            cuts.append((sum(a == b for a, b in of), len(of)))
    return np.array(cut), np.array(cuts), DOCUMENTS / seconds


def letters(text: str) -> int:
    """Return the number of letters, combining marks and digits."""
    return len(regex.findall(r"[\p{L}\p{M}\p{N}]", text))


def timed(paths: dict[str, list[Path]]) -> tuple[float, int, int]:
    """Return the processor seconds that alignment takes, and the process's peak memory after and before, in MB."""
    before, start = peak(), time.process_time()
    align({code: FeatureParts(own) for code, own in paths.items()})
    return time.process_time() - start, peak(), before


def peak() -> int:
    """Return the most memory this process had, in MB; that of Python's resource module counts the parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    main()
