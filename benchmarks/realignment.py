"""How well drifted parallel files are paired again: lines lost at random, against the truth.

    python benchmarks/realignment.py FOLDER       FOLDER holds bo.txt, zh.txt and en.txt with the same number of lines

For each share of lost lines, half as many from the Tibetan file as from the other, prints the share of the pairs kept
that are true, and the share of the surviving true pairs that were kept, over 30 random losses.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from langadapt.corpus.alignment import align, features

ROUNDS = 30
LOST = (1, 3, 10)  # lines of the Tibetan file; twice as many of the other


def main() -> None:
    """Print one line for each language and number of lost lines."""
    folder = Path(sys.argv[1])
    texts = {code: (folder / f"{code}.txt").read_text(encoding="utf-8").split("\n") for code in ("bo", "zh", "en")}
    count = min(len(text) - (text[-1] == "") for text in texts.values())
    lines = {code: [features(line) for line in text[:count]] for code, text in texts.items()}
    for code in ("zh", "en"):
        for lost in LOST:
            kept = true = possible = 0
            for seed in range(ROUNDS):
                chance = random.Random(seed)
                first = sorted(set(range(count)) - set(chance.sample(range(count), lost)))
                second = sorted(set(range(count)) - set(chance.sample(range(count), 2 * lost)))
                pairs = align([lines["bo"][k] for k in first], [lines[code][k] for k in second]).pairs
                kept += len(pairs)
                true += sum(first[i] == second[j] for i, j in pairs)
                possible += len(set(first) & set(second))
            print(
                f"bo-{code}, {lost} + {2 * lost} of {count} lines lost: {true / kept:.2%} of the pairs kept are true, "
                f"{true / possible:.1%} of the true ones were kept"
            )


if __name__ == "__main__":
    main()
