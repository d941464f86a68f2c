"""Drawing the held-out sets first, then the training sets around them, free of their twins."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from langadapt.corpus.pools import Candidate, Pool
from langadapt.corpus.twins import TwinIndex
from langadapt.files.records import Record
from langadapt.recipe.preprocess import HeldOutSize

Report = dict[str, Any]


class Draw:
    """One draw over all pools: held-out records first, then training records that are no twins of them.

    A held-out record takes its cluster out of training: its twins in any source and language, the translations it has
    in its source, and the translations that its twins have among the text pairs of the mixture. The same seed and
    sources give the same draw.
    """

    def __init__(self, cpt: Pool, sft: Sequence[Pool], size: HeldOutSize) -> None:
        self._index = TwinIndex()
        self._held_out: dict[str, set[str]] = {}
        self.cpt_test = self._hold_out([cpt], [min(size.cpt, math.floor(size.max_share * cpt.size))])
        self.sft_test = self._hold_out(sft, held_out_counts(sft, size))
        self.report: dict[str, Report] = {}
        self.held_out_report = {
            "cpt": {"wanted": size.cpt, "held out": len(self.cpt_test)},
            "sft": {"wanted": size.sft, "held out": len(self.sft_test)},
        }
        self._close_clusters([pool for pool in sft if pool.translates])

    def _hold_out(self, pools: Sequence[Pool], counts: Sequence[int]) -> list[Record]:
        chosen: list[Record] = []
        within = TwinIndex()
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

    def _close_clusters(self, pools: Sequence[Pool]) -> None:
        """Add the translations of every text pair that is a twin, until that makes no other pair a twin."""
        added: set[str] = set()
        growing = True
        while growing:
            growing = False
            for pool in pools:
                for candidate, twin in self._examine(pool):
                    if twin is not None and candidate.record["id"] not in added:
                        added.add(candidate.record["id"])
                        self._index.add(twin, candidate.texts)
                        growing = True

    def _examine(self, pool: Pool) -> Iterator[tuple[Candidate, str | None]]:
        """Yield candidates with the id of the held-out record they are a twin of, until enough are no twins."""
        free = 0
        for candidate in pool.candidates():
            if free == pool.wanted:
                return
            if candidate.record["id"] not in self._held_out[pool.name]:
                twin = self._index.find([*candidate.texts, candidate.prompt])
                free += twin is None
                yield candidate, twin

    def training(self, pool: Pool) -> Iterator[Record]:
        """Yield up to ``pool.wanted`` training records and leave the counts in ``report[pool.name]``."""
        counts: Counter[str] = Counter()
        for candidate, twin in self._examine(pool):
            counts["train" if twin is None else "twins"] += 1
            if twin is None:
                yield candidate.record
        self.report[pool.name] = {
            "available": pool.size,
            "held out": len(self._held_out[pool.name]),
            "left out as twins or translations of held-out text": counts["twins"],
            "wanted": pool.wanted,
            "drawn": counts["train"],
            "shortfall": pool.wanted - counts["train"],
        }


def held_out_counts(pools: Sequence[Pool], size: HeldOutSize) -> list[int]:
    """Return how many records each pool holds out: in proportion to what it trains on, within ``size``.

    No pool gives more than ``size.max_share`` of what it has. Fractions go to the largest remainders.
    """
    weights = [min(pool.wanted, pool.size) for pool in pools]
    total = min(size.sft, math.floor(size.max_share * sum(pool.size for pool in pools)))
    exact = [total * weight / (sum(weights) or 1) for weight in weights]
    limits = [math.floor(size.max_share * pool.size) for pool in pools]
    counts = [min(math.floor(share), limit) for share, limit in zip(exact, limits, strict=True)]
    by_remainder = sorted(range(len(pools)), key=lambda k: math.floor(exact[k]) - exact[k])
    while sum(counts) < total and any(count < limit for count, limit in zip(counts, limits, strict=True)):
        for k in by_remainder:
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
