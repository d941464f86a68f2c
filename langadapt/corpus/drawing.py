"""Drawing the held-out sets first, then the training sets around them, free of their twins."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from langadapt.corpus.pools import Pool
from langadapt.corpus.twins import Run, TwinIndex
from langadapt.files.records import Record
from langadapt.recipe.preprocess import HeldOutSize

Report = dict[str, Any]


class Draw:
    """One draw over all pools: held-out records first, then training records that are no twins of them.

    A held-out record takes its whole cluster out of training: every text, in any language and from any source, that is
    its twin or a translation of it. Which records are held out, which are drawn and which are left is the same for the
    same seed and sources.
    """

    def __init__(self, cpt: Pool, sft: Sequence[Pool], size: HeldOutSize, boilerplate: frozenset[Run]) -> None:
        self.boilerplate = boilerplate
        self.report: dict[str, Report] = {}
        self._index = TwinIndex(self.boilerplate)
        self._held_out: dict[str, set[str]] = {}
        self.cpt_test = self._hold_out([cpt], [min(size.cpt, math.floor(size.max_share * cpt.size))])
        self.sft_test = self._hold_out(sft, test_shares(sft, size))

    def _hold_out(self, pools: Sequence[Pool], counts: Sequence[int]) -> list[Record]:
        chosen: list[Record] = []
        within = TwinIndex(self.boilerplate)
        for pool, count in zip(pools, counts, strict=True):
            mine: set[str] = set()
            for candidate in pool.candidates() if count else ():
                # Two twins in one test set would count the same text twice.
                if within.find(candidate.texts) is None:
                    within.add(candidate.record["id"], candidate.texts)
                    self._index.add(candidate.record["id"], candidate.texts)
                    chosen.append(candidate.record)
                    mine.add(candidate.record["id"])
                    if len(mine) == count:
                        break
            self._held_out[pool.name] = mine
        return chosen

    def training(self, pool: Pool) -> Iterator[Record]:
        """Yield up to ``pool.wanted`` training records and leave the counts in ``report[pool.name]``."""
        held_out = self._held_out[pool.name]
        counts: Counter[str] = Counter()
        for candidate in pool.candidates():
            if counts["train"] == pool.wanted:
                break
            if candidate.record["id"] in held_out:
                continue
            if self._index.find(candidate.texts) is not None:
                counts["twins"] += 1
                continue
            counts["train"] += 1
            yield candidate.record
        self.report[pool.name] = {
            "available": pool.size,
            "held out": len(held_out),
            "left out as twins or translations of held-out text": counts["twins"],
            "wanted": pool.wanted,
            "drawn": counts["train"],
            "shortfall": pool.wanted - counts["train"],
        }


def test_shares(pools: Sequence[Pool], size: HeldOutSize) -> list[int]:
    """Return how many records each pool holds out: in proportion to what it trains on, within ``size``.

    No pool gives more than ``size.max_share`` of what it has. Fractions go to the largest remainders.
    """
    weights = [min(pool.wanted, pool.size) for pool in pools]
    total = min(size.sft, math.floor(size.max_share * sum(pool.size for pool in pools)))
    exact = [total * weight / (sum(weights) or 1) for weight in weights]
    limits = [math.floor(size.max_share * pool.size) for pool in pools]
    counts = [min(math.floor(share), limit) for share, limit in zip(exact, limits, strict=True)]
    for k in sorted(range(len(pools)), key=lambda k: math.floor(exact[k]) - exact[k]):
        if sum(counts) < total and counts[k] < limits[k]:
            counts[k] += 1
    return counts


def cut_to_share(parts: dict[str, list[Record]], max_shares: dict[str, float]) -> dict[str, int]:
    """Cut, in place, each part that exceeds its share of all records; return how many records each part lost.

    Only parts with a ``max_share`` below 1 are ever cut; the others are not touched for want of them.
    """
    lost = dict.fromkeys(parts, 0)
    changed = True
    while changed:  # cutting one part makes the whole smaller, and with it what another may have
        changed = False
        for name, share in max_shares.items():
            others = sum(len(records) for other, records in parts.items() if other != name)
            allowed = math.floor(others * share / (1 - share) + 1e-9) if share < 1 else len(parts[name])
            if len(parts[name]) > allowed:
                lost[name] += len(parts[name]) - allowed
                del parts[name][allowed:]
                changed = True
    return lost


def shuffled(parts: dict[str, list[Record]], seed: int) -> list[Record]:
    """Return the records of all parts in one order that the seed decides."""
    records = [record for part in parts.values() for record in part]
    random.Random(seed).shuffle(records)
    return records
