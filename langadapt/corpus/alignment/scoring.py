"""From what is known of a pair of lines to one log-likelihood ratio: weights learned by telling pairs from neighbours.

Each kind of evidence overstates its case: words of a line are not independent, and neighbouring lines share topics. So
a logistic regression on pairs found so far, against the lines next to the true partner, weighs them. Another one, on
pairs of neighbouring pairs, tells two joined lines from one of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from langadapt.corpus.alignment import lexicon, likelihood
from langadapt.corpus.alignment.features import Features, Integers, concatenate, joined_with_next
from langadapt.corpus.alignment.lexicon import Lexicon
from langadapt.corpus.alignment.likelihood import Likelihood, Occurrence

Floats = NDArray[np.float32]

LEAST, MOST = -5.0, 12.0  # one line never says more; the least lets a bad translation pass among good ones
_COLUMN_LIMIT = 20.0
_BOTH_BLANK = 2.0
# Where little is known, weights stay near these. Lexicon columns are sums over words and mostly repeat each other.
_PRIOR = np.array([0.6] * likelihood.COLUMNS + [0.1] * lexicon.COLUMNS)
_PRIOR_STRENGTH = 10.0
_MOST_JOINED = 2000


@dataclass(frozen=True)
class Stretch:
    """Some lines of the first file, whose number ``start`` is that of the first of them, and those of the second.

    The band of line n begins at line n of ``second``. ``partner`` holds the place of its partner in the band, -1 where
    that is not known.
    """

    start: int
    first: Features
    second: Features
    partner: Integers

    def pairs(self) -> tuple[Integers, Integers]:
        """Return the lines of known pairs that are not blank."""
        lines = np.flatnonzero(self.partner >= 0)
        others = lines + self.partner[lines]
        real = (self.first.length[lines] > 0) & (self.second.length[others] > 0)
        return lines[real], others[real]


@dataclass(frozen=True)
class Scorer:
    """Gives log-likelihood ratios, true pair to chance, of the lines of a `Stretch`."""

    likelihood: Likelihood
    lexicon: Lexicon | None = None
    weights: NDArray[np.float64] | None = None  # of the columns and 1
    joined_weights: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None  # of columns, both halves, and 1

    def columns(self, first: Features, second: Features, start: int) -> Floats:
        """Return every kind of evidence, [lines, band, kinds]."""
        columns = self.likelihood.columns(first, second)
        if self.lexicon is not None:
            columns = np.concatenate([columns, self.lexicon.columns(first, second, start)], axis=-1)
        return np.clip(columns, -_COLUMN_LIMIT, _COLUMN_LIMIT)

    def single(self, first: Features, second: Features, start: int) -> Floats:
        """Return the ratios of line n with line n + b, [lines, band]. A blank line says next to nothing."""
        ratios = self.weigh(self.columns(first, second, start))
        here = first.length[:, None] == 0
        there = sliding_window_view(second.length == 0, ratios.shape[1])
        ratios[here != there] = 0
        ratios[here & there] = _BOTH_BLANK
        return ratios

    def weigh(self, columns: Floats) -> Floats:
        """Return one ratio for the columns of each pair of lines."""
        weights = np.append(_PRIOR[: columns.shape[-1]], 0) if self.weights is None else self.weights
        ratios = columns @ weights[:-1].astype(np.float32) + np.float32(weights[-1])
        bounded: Floats = np.minimum(np.logaddexp(ratios, np.float32(LEAST)), np.float32(MOST))
        return bounded

    def joined(self, first: Features, second: Features, start: int, single: Floats) -> tuple[Floats, Floats]:
        """Return the ratios of lines n and n + 1 with n + b, and of line n with n + b and n + b + 1.

        ``first`` and ``second`` have a line more each than for ``single``, the ratios of the lines on their own. Joined
        blank lines are impossible.
        """
        band = single.shape[1]
        below, aside = np.full_like(single, LEAST), np.full_like(single, LEAST)
        below[:-1, 1:] = single[1:, :-1]
        aside[:, :-1] = single[:, 1:]
        twice_first = self._join(
            joined_with_next(first, self.lexicon is not None), second[:-1], start, (single, below), 0
        )
        twice_second = self._join(
            first[:-1], joined_with_next(second, self.lexicon is not None), start, (single, aside), 1
        )
        blank_first, blank_second = first.length == 0, second.length == 0
        twice_first[blank_first[:-1] | blank_first[1:]] = -np.inf
        twice_second[sliding_window_view(blank_second[:-1] | blank_second[1:], band)] = -np.inf
        return twice_first, twice_second

    def _join(self, first: Features, second: Features, start: int, halves: tuple[Floats, Floats], which: int) -> Floats:
        assert self.joined_weights is not None
        weights = self.joined_weights[which].astype(np.float32)
        odds: Floats = self.columns(first, second, start) @ weights[:-3]
        odds += weights[-3] * halves[0] + weights[-2] * halves[1] + weights[-1]
        # Odds against the better half alone, so the ratio to chance has that of the half in it.
        return np.clip(odds + np.maximum(*halves), -MOST, MOST)


def learn(
    stretches: Sequence[Stretch], occurrence: tuple[Occurrence, Occurrence], with_lexicon: bool, weigh: bool
) -> Scorer:
    """Return a `Scorer` learned from the known pairs; the weights too if ``weigh``."""
    known = [stretch.pairs() for stretch in stretches]
    first = concatenate([s.first[lines] for s, (lines, _) in zip(stretches, known, strict=True)])
    second = concatenate([s.second[others] for s, (_, others) in zip(stretches, known, strict=True)])
    scorer = Scorer(likelihood.learn(first, second, occurrence))
    if with_lexicon:
        numbers = np.concatenate([s.start + lines for s, (lines, _) in zip(stretches, known, strict=True)])
        scorer = replace(scorer, lexicon=lexicon.learn(first, second, numbers))
    if weigh:
        scorer = replace(scorer, weights=_weights(scorer, stretches))
        scorer = replace(scorer, joined_weights=_joined_weights(scorer, stretches))
    return scorer


def _weights(scorer: Scorer, stretches: Sequence[Stretch]) -> NDArray[np.float64]:
    examples, true = [], []
    for stretch in stretches:
        columns = scorer.columns(stretch.first, stretch.second, stretch.start)
        lines, _ = stretch.pairs()
        real = sliding_window_view(stretch.second.length > 0, columns.shape[1])[lines]
        examples.append(columns[lines][real])
        true.append((np.arange(columns.shape[1]) == stretch.partner[lines, None])[real])
    return logistic_regression(np.concatenate(examples), np.concatenate(true), _PRIOR[: examples[0].shape[1]])


def _joined_weights(scorer: Scorer, stretches: Sequence[Stretch]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join the lines of neighbouring pairs and learn to tell them from their halves, in either file."""
    kinds = likelihood.COLUMNS + (lexicon.COLUMNS if scorer.lexicon is not None else 0)
    examples: list[list[Floats]] = [[np.zeros((0, kinds + 2), np.float32)] for _ in range(6)]
    for stretch in stretches:
        if sum(map(len, examples[0])) > _MOST_JOINED:
            break
        if len(stretch.first) < 3:  # no two pairs with a line after them
            continue
        for kind, example in zip(examples, _joined_examples(scorer, stretch), strict=True):
            kind.append(example)
    prior = np.append(_PRIOR[:kinds] / 2, [-0.3, -0.3])
    weights = []
    for file in (examples[:3], examples[3:]):
        joined, *halves = map(np.concatenate, file)
        true = np.arange(len(joined) + sum(map(len, halves))) < len(joined)
        weights.append(logistic_regression(np.concatenate([joined, *halves]), true, prior))
    return weights[0], weights[1]


def _joined_examples(scorer: Scorer, stretch: Stretch) -> list[Floats]:
    """Return columns, and the ratios of both halves: of two joined lines of the first file with their joined partners,
    with the partner of the one and of the other; then the same with the files changed over.
    """
    with_words = scorer.lexicon is not None
    a, joined_a = stretch.first[:-1], joined_with_next(stretch.first, with_words)
    b, joined_b = stretch.second[:-1], joined_with_next(stretch.second, with_words)
    plain, first, second, both = (
        scorer.columns(here, there, stretch.start)
        for here, there in ((a, b), (joined_a, b), (a, joined_b), (joined_a, joined_b))
    )
    known = np.zeros(len(stretch.first), np.bool_)
    known[stretch.pairs()[0]] = True
    place = stretch.partner
    inside = (place[:-2] > 0) & (place[:-2] < plain.shape[1] - 1)
    n = np.flatnonzero(inside & known[:-2] & known[1:-1] & (place[1:-1] == place[:-2]))
    p = place[n]  # of the partner of line n in its band; that of line n + 1 is there one place further down

    def example(columns: Floats, *halves: Floats) -> Floats:
        return np.column_stack([columns, *(scorer.weigh(half) for half in halves)])

    return [
        example(both[n, p], second[n, p], second[n + 1, p - 1]),
        example(first[n, p], plain[n, p], plain[n + 1, p - 1]),
        example(first[n, p + 1], plain[n, p + 1], plain[n + 1, p]),
        example(both[n, p], first[n, p], first[n, p + 1]),
        example(second[n, p], plain[n, p], plain[n, p + 1]),
        example(second[n + 1, p - 1], plain[n + 1, p - 1], plain[n + 1, p]),
    ]


def logistic_regression(examples: Floats, true: NDArray[np.bool_], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of the columns and an intercept whose sum is the log odds of ``true``.

    Both classes count alike. Newton's method with halved steps; a quadratic penalty holds the weights near ``prior``.
    """
    x = np.column_stack([examples, np.ones(len(examples))]).astype(np.float64)
    counts = np.where(true, 1.0, true.sum() / max(1, np.count_nonzero(~true)))
    middle = np.append(prior, 0.0)
    penalty = np.append(np.full(len(prior), _PRIOR_STRENGTH), 0.1)

    def cost(weights: NDArray[np.float64]) -> float:
        wrong = np.logaddexp(0, np.where(true, -1, 1) * (x @ weights))
        return float(counts @ wrong + penalty @ (weights - middle) ** 2 / 2)

    weights, now = middle, cost(middle)
    for _ in range(30):
        odds = 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))
        gradient = x.T @ (counts * (true - odds)) - penalty * (weights - middle)
        curvature = (x * (counts * odds * (1 - odds))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while (new := cost(weights + step)) > now and np.abs(step).max() > 1e-4:
            step = step / 2
        if now - new < 1e-3:
            break
        weights, now = weights + step, new
    return weights
