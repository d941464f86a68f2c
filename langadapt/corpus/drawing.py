"""Drawing the held-out sets first, then the training sets around them, free of their twins."""

from __future__ import annotations

import itertools
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

TRAIN = "train"
TWIN = "left out as twins or translations of held-out text"
TEST_SET = "left out as text of the test sets to decontaminate"
_LEFT_OUT = (TWIN, TEST_SET)


class Draw:
    """One draw over all pools: held-out records first, then training records that are no twins of them.

    A held-out record takes its cluster out of training: texts that equal it or nearly do in any source and language,
    texts that share most of their runs with it, the translations it has in its source, and the translations that its
    twins have among the text pairs of the mixture. So do ``test_sets`` from elsewhere, texts by the name that reports
    give them. The same seed and sources give the same draw.
    """

    def __init__(
        self, cpt: Pool, sft: Sequence[Pool], size: HeldOutSize, test_sets: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._index = TwinIndex()
        self._index.add_all(test_sets)
        self._elsewhere = {name for name, _ in test_sets}
        self._clusters: set[int] = set()
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
            for candidate in itertools.chain.from_iterable(pool.batches()) if count else ():
                if candidate.problem is not None:
                    continue
                # Two twins in one test set would count the same text twice.
                if within.find(candidate.texts) is None:
                    within.add(candidate.record["id"], candidate.texts)
                    self._index.add(candidate.record["id"], candidate.texts)
                    self._clusters |= set(candidate.clusters)
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
                for candidate, fate in self._examine(pool):
                    if fate in _LEFT_OUT and candidate.record["id"] not in added:
                        added.add(candidate.record["id"])
                        self._index.add(candidate.record["id"], candidate.texts)
                        self._clusters |= set(candidate.clusters)
                        growing = True

    def _examine(self, pool: Pool) -> Iterator[tuple[Candidate, str]]:
        """Yield candidates that are not held out with what becomes of them, until enough are to be trained on."""
        free = 0
        for batch in pool.batches():
            if free == pool.wanted:
                return
            rest = [candidate for candidate in batch if candidate.record["id"] not in self._held_out[pool.name]]
            texts = [[*candidate.texts, candidate.prompt] for candidate in rest]
            owners = iter(self._index.find_all([text for some in texts for text in some]))
            for candidate, some in zip(rest, texts, strict=True):
                found = [owner for owner in itertools.islice(owners, len(some)) if owner is not None]
                if free < pool.wanted:
                    fate = self._fate(candidate, found)
                    free += fate == TRAIN
                    yield candidate, fate

    def _fate(self, candidate: Candidate, owners: list[str]) -> str:
        if candidate.problem is not None:
            return candidate.problem
        if owners and self._elsewhere.issuperset(owners):
            return TEST_SET
        return TWIN if owners or not self._clusters.isdisjoint(candidate.clusters) else TRAIN

    def training(self, pool: Pool) -> Iterator[Record]:
        """Yield up to ``pool.wanted`` training records and leave the counts in ``report[pool.name]``."""
        counts: Counter[str] = Counter()
        for candidate, fate in self._examine(pool):
            counts[fate] += 1
            if fate == TRAIN:
                yield candidate.record
        drawn = counts.pop(TRAIN, 0)
        self.report[pool.name] = {
            "available": pool.size,
            "held out": len(self._held_out[pool.name]),
            TWIN: counts.pop(TWIN, 0),
            TEST_SET: counts.pop(TEST_SET, 0),
            "left out as unlike pairs": dict(counts),
            "wanted": pool.wanted,
            "drawn": drawn,
            "shortfall": pool.wanted - drawn,
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
