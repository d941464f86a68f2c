"""BLEU, chrF and chrF++ as sacrebleu computes them, each beside what the same items get without being translated."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.significance import _bootstrap_resample, estimate_ci

from langadapt.evaluation.results import Interval, Score

_AT_ONCE = 64  # items
_SHUFFLE_SEED = 0  # not a setting: the floors of all models are drawn alike


@dataclass(frozen=True)
class Counts:
    """What sacrebleu counts in each item; the corpus score of any of them is that of the sum."""

    metric: Any
    items: list[list[float]]

    def score(self, chosen: Sequence[int] | None = None) -> float:
        """Return the corpus score of the items at some positions, 0 to 100; of all without any."""
        items = self.items if chosen is None else [self.items[position] for position in chosen]
        return float(self.metric._aggregate_and_compute(items).score)


def count(metric: Any, systems: Mapping[str, Sequence[str]], references: Sequence[str]) -> dict[str, Counts]:
    """Return by name what ``metric`` counts in each of several lists of hypotheses.

    The n-grams of a reference are collected once for all of them, and forgotten after some items: those of a whole
    test set of long documents take gigabytes. sacrebleu's `corpus_score` would collect them for every list and part.
    """
    counted: dict[str, list[list[float]]] = {name: [] for name in systems}
    for start in range(0, len(references), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        metric._ref_cache = metric._cache_references([references[some]])
        for name, texts in systems.items():
            counted[name] += metric._extract_corpus_statistics(texts[some], None)
    metric._ref_cache = None
    return {name: Counts(metric, items) for name, items in counted.items()}


def score_corpus(counts: Counts, floors: Mapping[str, Counts], resamples: int) -> Score:
    """Return the corpus score, 0 to 100, with sacrebleu's 95 % interval over items, and the scores of ``floors``.

    The interval is that of sacrebleu's bootstrap (Koehn 2004): the mean of ``resamples`` scores, give or take half the
    width of their middle 95 %, cut at 0 and 100. The seed is sacrebleu's: 12345 unless $SACREBLEU_SEED says otherwise,
    and in the signature. None for a single item.
    """
    metric, interval = counts.metric, None
    if len(counts.items) > 1:
        metric.n_bootstrap = resamples
        metric.seed, drawn = _bootstrap_resample(counts.items, metric, resamples)
        mean, half = estimate_ci(np.array([score.score for score in drawn]))
        interval = Interval(low=max(0.0, mean - half), high=min(100.0, mean + half))
    return Score(
        score=counts.score(),
        signature=str(metric.get_signature()),
        interval=interval,
        floors={name: floor.score() for name, floor in floors.items()},
    )


def floor_texts(
    hypotheses: Sequence[str], sources: Sequence[str], neighbours: Sequence[str | None]
) -> dict[str, list[str]]:
    """Return by name the texts that show what a score is worth without translation.

    ``shuffled``: the hypotheses, each beside another item's reference (not with a single item); ``copied_source``;
    ``neighbour``: the items in a neighbour language, where every item has one.
    """
    floors = {}
    if len(hypotheses) > 1:
        floors["shuffled"] = [hypotheses[position] for position in _one_cycle(len(hypotheses))]
    floors["copied_source"] = list(sources)
    found = [text for text in neighbours if text is not None]
    if len(found) == len(hypotheses):
        floors["neighbour"] = found
    return floors


def _one_cycle(size: int) -> list[int]:
    """Return a random permutation of ``range(size)`` that is one cycle: no position keeps its item (Sattolo 1986)."""
    generator = random.Random(_SHUFFLE_SEED)
    order = list(range(size))
    for last in range(size - 1, 0, -1):
        other = generator.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
