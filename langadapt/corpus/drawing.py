"""Drawing the held-out sets first, then the training sets around them, free of their twins."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from langadapt.corpus.collection import Collection
from langadapt.corpus.lengths import Cutoff, Tokenizer, token_lengths
from langadapt.corpus.mixing import share_out
from langadapt.corpus.pools import Pool, check_not_empty, cpt_pools, dpo_pools, sft_pools
from langadapt.corpus.records import Candidate, document_of
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import TwinIndex
from langadapt.files.records import Record
from langadapt.recipe.preprocess import HeldOutSize, PreprocessSettings, ValidationSize

Report = dict[str, Any]
Measure = Callable[[Sequence[Record]], list[int]]  # how many tokens each record takes

TRAIN = "train"
HELD_OUT = "held out"
TWIN = "left out as twins or translations of held-out text"
DOCUMENT = "left out as of a document with held-out text"
TEST_SET = "left out as text of the test sets to decontaminate"


class Examined(NamedTuple):
    """A candidate, what becomes of it, what it takes of the budget, and in which turn through the pool, from 0."""

    candidate: Candidate
    fate: str
    cost: int
    turn: int


class Draw:
    """One draw over all pools: test records first, then validation records, then training records.

    Validation records are no twins of test records, and training records of neither.

    A held-out record takes its cluster out of training: texts that equal it or nearly do in any source and language,
    texts that share most of their runs with it, the translations it has in its source, and the translations that its
    twins have among the text pairs that a draw reads; and all else of the document it is of, where the source names
    documents. So do ``test_sets`` from elsewhere, texts by the name that
    reports give them. ``measure`` is asked where a budget is in tokens. The same seed and sources give the same draw.
    """

    def __init__(
        self,
        cpt: Sequence[Pool],
        sft: Sequence[Pool],
        size: HeldOutSize,
        measure: Measure,
        test_sets: Sequence[tuple[str, str]] = (),
        dpo: Sequence[Pool] = (),
        validation: ValidationSize | None = None,
    ) -> None:
        self._measure = measure
        self._index = TwinIndex()
        self._index.add_all(test_sets)
        self._elsewhere = {name for name, _ in test_sets}
        self._clusters: set[int] = set()
        self._documents: set[tuple[str, str] | None] = set()
        self._held_out: dict[str, set[str]] = {pool.name: set() for pool in (*cpt, *sft, *dpo)}
        texts = [pool for pool in cpt if pool.held_out]
        self.cpt_test = self._hold_out(texts, held_out_counts(texts, size.cpt, size.max_share))
        self.sft_test = self._hold_out(sft, held_out_counts(sft, size.sft, size.max_share))
        self.dpo_test = self._hold_out(dpo, held_out_counts(dpo, size.dpo, size.max_share))
        self.report: dict[str, Report] = {}
        self.held_out_report = {
            "cpt": {"wanted": size.cpt if cpt else 0, "held out": len(self.cpt_test)},
            "sft": {"wanted": size.sft, "held out": len(self.sft_test)},
        }
        if dpo:
            self.held_out_report["dpo"] = {"wanted": size.dpo, "held out": len(self.dpo_test)}
        self._block_twins_of_held_out(sft)
        self.sft_valid: list[Record] = []
        if validation is not None:
            counts = validation_counts(sft, validation, size.max_share)
            self.sft_valid = self._hold_out(sft, counts, apart=True)
            self.held_out_report["sft validation"] = {"wanted": sum(counts), "held out": len(self.sft_valid)}
            self._block_twins_of_held_out(sft)

    def _hold_out(self, pools: Sequence[Pool], counts: Sequence[int], apart: bool = False) -> list[Record]:
        """Hold out so many records of each pool; ``apart``: from what is held out already, as training is."""
        chosen: list[Candidate] = []
        within = TwinIndex()
        clusters: set[int] = set()
        for pool, count in zip(pools, counts, strict=True):
            left = count
            for candidate in self._to_hold_out(pool, apart) if count else ():
                # Two twins in one test set would count the same text twice; segments of one document are alike.
                if (
                    candidate.problem is None
                    and clusters.isdisjoint(candidate.clusters)
                    and within.find(candidate.texts) is None
                ):
                    within.add(candidate.record["id"], candidate.texts)
                    clusters |= set(candidate.clusters)
                    chosen.append(candidate)
                    self._held_out[pool.name].add(candidate.record["id"])
                    left -= 1
                    if not left:
                        break
        self._index.add_all([(candidate.record["id"], text) for candidate in chosen for text in candidate.texts])
        self._clusters |= clusters
        self._documents |= {document_of(candidate.record) for candidate in chosen} - {None}
        return [candidate.record for candidate in chosen]

    def _to_hold_out(self, pool: Pool, apart: bool) -> Iterator[Candidate]:
        for batch in pool.batches(grouped=True):
            fates = self._fates(pool, batch) if apart else [TRAIN] * len(batch)
            yield from (candidate for candidate, fate in zip(batch, fates, strict=True) if fate == TRAIN)

    def _block_twins_of_held_out(self, pools: Sequence[Pool]) -> None:
        """Take out with every text pair that is a twin of held-out text its translation, wherever else that stands."""
        self._index.settle()
        examined = (self._until_enough(pool, turns=1) for pool in pools if pool.translates)
        twins = [one.candidate for one in itertools.chain.from_iterable(examined) if one.fate in (TWIN, TEST_SET)]
        for candidate in twins:
            self._clusters |= set(candidate.clusters)
        self._index.add_all([(candidate.record["id"], text) for candidate in twins for text in candidate.texts])
        self._index.settle()

    def _until_enough(self, pool: Pool, turns: int) -> Iterator[Examined]:
        """Yield candidates until the pool's budget is spent.

        From the second turn on only what is to be trained on comes again.
        """
        left = pool.budget.amount
        for turn in range(turns):
            before = left
            for batch in pool.batches():
                if left <= 0:
                    return
                fates = self._fates(pool, batch)
                records = [c.record for c, fate in zip(batch, fates, strict=True) if fate == TRAIN]
                costs = iter(self._measure(records) if pool.budget.unit == "tokens" else [1] * len(records))
                for candidate, fate in zip(batch, fates, strict=True):
                    if left > 0 and (turn == 0 or fate == TRAIN):
                        cost = next(costs) if fate == TRAIN else 0
                        left -= cost
                        yield Examined(candidate, fate, cost, turn)
            if left == before:  # nothing to repeat
                return

    def _fates(self, pool: Pool, batch: Sequence[Candidate]) -> list[str]:
        texts = [[*candidate.texts, *candidate.quoting] for candidate in batch]
        owners = iter(self._index.find_all([text for some in texts for text in some]))
        found = [[owner for owner in itertools.islice(owners, len(some)) if owner is not None] for some in texts]
        return [self._fate(pool, candidate, twins) for candidate, twins in zip(batch, found, strict=True)]

    def _fate(self, pool: Pool, candidate: Candidate, owners: Sequence[str]) -> str:
        if candidate.record["id"] in self._held_out[pool.name]:
            return HELD_OUT
        if candidate.problem is not None:
            return candidate.problem
        if document_of(candidate.record) in self._documents:
            return DOCUMENT
        if owners and self._elsewhere.issuperset(owners):
            return TEST_SET
        return TWIN if owners or not self._clusters.isdisjoint(candidate.clusters) else TRAIN

    def training(self, pool: Pool) -> Iterator[Record]:
        """Yield training records up to the pool's budget and leave the counts in ``report[pool.name]``.

        A record that is used again gets the number of the time at the end of its id: ``#2``.
        """
        fates: Counter[str] = Counter()
        segments = again = spent = 0
        for candidate, fate, cost, turn in self._until_enough(pool, pool.repeats):
            spent += cost
            if turn:
                again += 1
            else:
                fates[fate] += 1
                segments += candidate.segment > 0
            if fate == TRAIN:
                record = candidate.record
                yield {**record, "id": f"{record['id']}#{turn + 1}"} if turn else record
        drawn = fates.pop(TRAIN, 0)
        fates.pop(HELD_OUT, 0)
        self.report[pool.name] = {
            "available": pool.size,
            "more by cutting long pairs": segments,
            HELD_OUT: len(self._held_out[pool.name]),
            TWIN: fates.pop(TWIN, 0),
            DOCUMENT: fates.pop(DOCUMENT, 0),
            TEST_SET: fates.pop(TEST_SET, 0),
            "left out as unlike pairs": dict(fates),
            "drawn": drawn,
            "drawn again": again,
            "wanted": pool.budget.amount,
            "shortfall": max(0, pool.budget.amount - spent),
            "unit": pool.budget.unit,
        }


def draw_sets(
    settings: PreprocessSettings,
    collections: Sequence[Collection],
    templates: Templates,
    test_sets: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
) -> tuple[Draw, dict[str, list[Pool]], Cutoff]:
    """Return a recipe's draw, its pools by mixture (cpt, sft and dpo), and its cutoff, all lengths by ``tokenizer``.

    What is held out depends on the tokenizer only where long pairs are cut. Raises `UserError` where there is nothing
    to draw from.
    """
    cutoff = Cutoff(tokenizer, settings.cutoff_len)
    cpt = cpt_pools(settings, collections)
    sft = sft_pools(settings, collections, templates, cutoff)
    dpo = dpo_pools(settings, collections, templates)
    check_not_empty(cpt, sft, dpo)
    draw = Draw(cpt, sft, settings.test, partial(token_lengths, tokenizer), test_sets, dpo, settings.validation)
    return draw, {"cpt": cpt, "sft": sft} | ({"dpo": dpo} if settings.dpo else {}), cutoff


def held_out_counts(pools: Sequence[Pool], wanted: int, max_share: float) -> list[int]:
    """Return how many records each pool holds out: in proportion to what it trains on.

    No pool gives more than ``max_share`` of what it has, nor all together more than that.
    """
    weights = [_trained_on(pool) for pool in pools]
    total = min(wanted, math.floor(max_share * sum(pool.size for pool in pools)))
    return share_out(total, weights, [math.floor(max_share * pool.size) for pool in pools])


def validation_counts(pools: Sequence[Pool], size: ValidationSize, max_share: float) -> list[int]:
    """Return how many validation records each pool holds out, by `held_out_counts`."""
    if size.count is not None:
        return held_out_counts(pools, size.count, max_share)
    assert size.share is not None, size
    trained_on = sum(_trained_on(pool) for pool in pools)
    return held_out_counts(pools, math.floor(size.share * trained_on), size.share)


def _trained_on(pool: Pool) -> int:
    return pool.size if pool.budget.unit == "tokens" else min(pool.budget.amount, pool.size)


def cut_to_share(parts: dict[str, list[int]], max_shares: dict[str, float]) -> dict[str, int]:
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
