"""How much more likely a line and another are as a pair than by chance, judged by what translations keep.

What they keep is learned from pairs found so far: how long a translation is, how counts of marks go together, how
often numbers and Latin words are carried over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from langadapt.corpus.alignment.features import TOKEN_BITS, Features, occurrences, token_index

Floats = NDArray[np.float32]
COLUMNS = 4  # length, marks, numbers, Latin words

_SIZES = 16  # classes of line length
_STEP = 0.1  # of log length, in the histogram of lengths
_STEPS = 160
_COUNTS = np.searchsorted([1, 2, 3, 4, 6, 9, 14], np.arange(256), side="right")  # classes of counts
_CLASSES = 8
# A class with few pairs leans on the whole, as if it had so many more.
_MORE_PAIRS = 30
_MORE_TOKENS = 4
_CARRIED = (0.2, 0.5)  # of Latin words, of numbers, before any pair is seen
_LEAST_SPREAD = 0.03
_NUMBER = TOKEN_BITS - 1


@dataclass(frozen=True)
class Occurrence:
    """In how many of a file's lines each token occurs."""

    counts: NDArray[np.int64]
    lines: int

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of lines with each token, never quite 0 or 1."""
        return np.minimum((self.counts + 0.5) / (self.lines + 1), 0.9)


@dataclass(frozen=True)
class Likelihood:
    """Tables of log-likelihood ratios, true pair to chance."""

    ratio: Floats  # by class of length: median log ratio of lengths, second line to first
    spread: Floats  # by class of length: its standard deviation
    background: Floats  # log density of the log lengths of the second file
    marks: Floats  # [kinds, class of count, class of count]
    shared: Floats  # by token: both lines have it
    lost: tuple[Floats, Floats]  # by token: only the first line has it, only the second

    def columns(self, first: Features, second: Features) -> Floats:
        """Return [lines, band, `COLUMNS`]: line n of ``first`` with line n + b of ``second``, as far as that goes."""
        lines, band = len(first), len(second) - len(first) + 1
        columns = np.empty((lines, band, COLUMNS), np.float32)
        columns[..., 0] = self._length(first, second, band)
        columns[..., 1] = self._marks(first, second, band)
        columns[..., 2], columns[..., 3] = self._tokens(first, second, band)
        return columns

    def _length(self, first: Features, second: Features, band: int) -> Floats:
        """Student's t with 4 degrees of freedom, for its heavy tails, to the density of lengths in the file."""
        here, there = log_length(first), log_length(second)
        size = _size(here)
        scale = 1 / self.spread[size][:, None]
        score = sliding_window_view(there, band) * scale
        score -= (here + self.ratio[size])[:, None] * scale
        score *= score
        score = np.log1p(score / 4) * np.float32(-2.5)
        score += np.log(0.375 * scale)
        background = self.background[np.minimum((there / _STEP).astype(np.int64), _STEPS - 1)]
        score -= sliding_window_view(background, band)
        return score.astype(np.float32, copy=False)

    def _marks(self, first: Features, second: Features, band: int) -> Floats:
        here, there = _classes(first), _classes(second)
        score = np.zeros((len(first), band), np.float32)
        every = np.arange(len(first))
        for kind, table in enumerate(self.marks):
            # All classes the first line might have, then the one it has: whole rows are copied, not single cells.
            score += sliding_window_view(table[:, there[:, kind]], band, axis=1)[here[:, kind], every]
        return score

    def _tokens(self, first: Features, second: Features, band: int) -> tuple[Floats, Floats]:
        tokens = first.tokens
        which, line = occurrences(token_index(second.tokens), tokens.values, tokens.rows, tokens.rows + band)
        row = tokens.rows[which]
        cell = row * band + line - row
        weight = self.shared[tokens.values[which]]
        number = (tokens.values[which] >> _NUMBER).astype(np.bool_)
        found = [
            np.bincount(cell[kind], weight[kind], len(first) * band).reshape(len(first), band).astype(np.float32)
            for kind in (number, ~number)
        ]
        for kind, only_numbers in enumerate((True, False)):
            here, there = (
                np.bincount(f.tokens.rows, lost[f.tokens.values] * (f.tokens.values >> _NUMBER == only_numbers), len(f))
                for f, lost in zip((first, second), self.lost, strict=True)
            )
            found[kind] += here.astype(np.float32)[:, None]
            found[kind] += sliding_window_view(there.astype(np.float32), band)
        return found[0], found[1]


def learn(first: Features, second: Features, occurrence: tuple[Occurrence, Occurrence]) -> Likelihood:
    """Return the `Likelihood` of pairs: line n of ``first`` with line n of ``second``, none of them blank."""
    here, there = log_length(first), log_length(second)
    ratio, spread = _ratios(here, there)
    density = np.bincount(np.minimum((there / _STEP).astype(np.int64), _STEPS - 1), minlength=_STEPS).astype(np.float64)
    density = np.convolve(density, np.array([1, 2, 3, 4, 3, 2, 1]) / 16, "same") + (len(second) + 1) / 1e4
    background = np.log(density / density.sum() / _STEP).astype(np.float32)
    marks = [_joint(a, b) for a, b in zip(_classes(first).T, _classes(second).T, strict=True)]
    shared, lost = _tokens_carried(first, second, occurrence)
    return Likelihood(ratio, spread, background, np.stack(marks), shared, lost)


def log_length(features: Features) -> Floats:
    """Return log(1 + units) of every line."""
    return np.log1p(features.length.astype(np.float32))


def _size(log_lengths: Floats) -> NDArray[np.int64]:
    return np.minimum((log_lengths * 1.5).astype(np.int64), _SIZES - 1)


def _classes(features: Features) -> NDArray[np.int64]:
    """Return the class of every count of a line: each kind of marks, numbers, Latin words."""
    is_number = features.tokens.values >> _NUMBER > 0
    numbers = np.bincount(features.tokens.rows[is_number], minlength=len(features))
    counts = np.column_stack([features.marks, numbers, features.tokens.lengths - numbers])
    classes: NDArray[np.int64] = _COUNTS[np.minimum(counts, 255)]
    return classes


def _ratios(here: Floats, there: Floats) -> tuple[Floats, Floats]:
    """Return median and spread (from the median absolute deviation) of log length ratios, by class of length."""
    difference, size = there - here, _size(here)
    ratio, spread = np.empty(_SIZES, np.float32), np.empty(_SIZES, np.float32)
    middle, width = _robust(difference)
    for k in range(_SIZES):
        own = difference[size == k]
        own_middle, own_width = _robust(own)
        trust = len(own) / (len(own) + _MORE_PAIRS)
        ratio[k] = trust * own_middle + (1 - trust) * middle
        spread[k] = max(_LEAST_SPREAD, trust * own_width + (1 - trust) * width)
    return ratio, spread


def _robust(values: Floats) -> tuple[float, float]:
    if not len(values):
        return 0.0, 0.5
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def _joint(here: NDArray[np.int64], there: NDArray[np.int64]) -> Floats:
    """Return the log ratio of how often two classes of counts occur together to what chance makes of them."""
    together = np.bincount(here * _CLASSES + there, minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES)
    chance = np.outer(together.sum(1) + 0.5, together.sum(0) + 0.5)
    chance /= chance.sum()
    ratio: Floats = np.log((together + 20 * chance + 0.1) / ((len(here) + 20) * chance + 0.1)).astype(np.float32)
    return ratio


def _tokens_carried(
    first: Features, second: Features, occurrence: tuple[Occurrence, Occurrence]
) -> tuple[Floats, tuple[Floats, Floats]]:
    known = (occurrence[0].counts > 0) & (occurrence[1].counts > 0)
    carried = [
        np.clip(_carried(a, b, known, counted.counts), 0.01, 0.95)
        for a, b, counted in ((first, second, occurrence[0]), (second, first, occurrence[1]))
    ]
    by_chance = [occurrence[1].shares, occurrence[0].shares]
    lost = [
        np.where(known, np.minimum(0, np.log((1 - c) / (1 - p))), 0) for c, p in zip(carried, by_chance, strict=True)
    ]
    both = np.log(carried[0] / by_chance[0] * carried[1] / by_chance[1]) / 2
    # Both lines are charged for the token as if it were lost, so one that they share gives that back.
    shared = np.where(known, np.maximum(0, both) - lost[0] - lost[1], 0)
    return shared.astype(np.float32), (lost[0].astype(np.float32), lost[1].astype(np.float32))


def _carried(
    first: Features, second: Features, known: NDArray[np.bool_], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return, by token, the share of such tokens of ``first`` that ``second`` has too: such in kind and rarity."""
    tokens = first.tokens
    found = np.zeros(len(tokens.values), np.bool_)
    found[occurrences(token_index(second.tokens), tokens.values, tokens.rows, tokens.rows + 1)[0]] = True
    rarity = np.log2(counts + 1).astype(np.int64)
    such = np.arange(len(counts)) >> _NUMBER << 5 | np.minimum(rarity, 31)
    own = known[tokens.values]
    seen = np.bincount(such[tokens.values[own]], minlength=64)
    kept = np.bincount(such[tokens.values[own & found]], minlength=64)
    shares: NDArray[np.float64] = ((kept + _MORE_TOKENS * np.repeat(_CARRIED, 32)) / (seen + _MORE_TOKENS))[such]
    return shares
