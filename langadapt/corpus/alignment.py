"""Pairing the lines of two files that should be translations of each other, line by line, but may have drifted.

What survives translation anchors the pairing: numbers of two or more digits and Latin words. The heaviest chain of
anchors that ascends in both files is found; between two neighbouring anchors with the same number of lines on both
sides, lines are paired in order; where the numbers differ, somewhere in between a line was lost or added, nobody can
tell which, and the stretch is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from langadapt.text import latin_words, numbers, units

Pair = tuple[int, int]

# A token in more lines than this, or in more than this share of them, says little about which line it is.
_MOST_LINES = 50
_MOST_SHARE = 0.05
# Fewer anchors in a row with one offset between the files may be chance.
_SHORTEST_RUN = 3
# Paired lines whose length ratio is further from the median than this factor are no translations of each other.
_LENGTH_FACTOR = 2.0
# With at least this share of the anchors on the diagonal, two files of equal length have not drifted.
_ON_DIAGONAL = 0.95


@dataclass(frozen=True)
class LineFeatures:
    """What alignment needs to know of a line: its length in units and the tokens that survive translation."""

    length: int
    tokens: frozenset[str]


@dataclass(frozen=True)
class Alignment:
    """Paired line numbers (from 0) in ascending order, and what was left out and why."""

    pairs: list[Pair]
    by_number: bool  # lines were paired by their numbers: equal lengths and no sign of drift
    anchors: int
    ambiguous: int  # lines of the first file in stretches with different line counts
    implausible: int  # pairs dropped because their lengths or their numbers do not fit


def features(text: str) -> LineFeatures:
    """Return the `LineFeatures` of a line; a blank line has length 0."""
    tokens = {number for number in numbers(text) if len(number) > 1}
    tokens.update(word for word in latin_words(text) if len(word) > 2)
    return LineFeatures(len(units(text)), frozenset(tokens))


def align(first: Sequence[LineFeatures], second: Sequence[LineFeatures]) -> Alignment:
    """Pair the lines of two files; see the module's docstring. Blank lines are paired like others."""
    anchors = _drop_strays(_heaviest_chain(_candidates(first, second)))
    on_diagonal = sum(i == j for i, j in anchors)
    if len(first) == len(second) and on_diagonal >= _ON_DIAGONAL * len(anchors):
        return Alignment([(i, i) for i in range(len(first))], True, len(anchors), 0, 0)
    pairs: list[Pair] = []
    ambiguous = 0
    previous = (-1, -1)
    for anchor in [*anchors, (len(first), len(second))]:
        gap = anchor[0] - previous[0]
        if gap == anchor[1] - previous[1]:
            pairs += [(previous[0] + k, previous[1] + k) for k in range(1, gap)]
        else:
            ambiguous += gap - 1
        if anchor[0] < len(first):
            pairs.append(anchor)
        previous = anchor
    plausible = _plausible(pairs, first, second)
    return Alignment(plausible, False, len(anchors), ambiguous, len(pairs) - len(plausible))


def _candidates(first: Sequence[LineFeatures], second: Sequence[LineFeatures]) -> dict[Pair, float]:
    """Return the weight of each pair of lines that share tokens: the sum of log(lines / frequency) over those."""
    where: dict[str, list[int]] = defaultdict(list)
    for j, line in enumerate(second):
        for token in line.tokens:
            where[token].append(j)
    counts: dict[str, int] = defaultdict(int)
    for line in first:
        for token in line.tokens:
            counts[token] += 1
    most = min(_MOST_LINES, max(1.0, _MOST_SHARE * len(first)))
    reach = abs(len(first) - len(second)) + max(20, len(first) // 100)
    weights: dict[Pair, float] = defaultdict(float)
    for i, line in enumerate(first):
        for token in line.tokens:
            frequency = max(counts[token], len(where[token]))
            if frequency > most:
                continue
            lines = where[token]
            for j in lines[bisect_left(lines, i - reach) :]:
                if j > i + reach:
                    break
                weights[i, j] += math.log((len(first) + 1) / frequency)
    return weights


def _heaviest_chain(weights: dict[Pair, float]) -> list[Pair]:
    """Return the pairs of greatest total weight that ascend strictly in both files (a Fenwick tree over the second)."""
    size = max((j for _, j in weights), default=-1) + 1
    best: list[tuple[float, int]] = [(0.0, -1)] * (size + 1)
    ordered = sorted(weights, key=lambda pair: (pair[0], -pair[1]))  # within a line, none may build on another
    before: list[int] = []
    for position, (i, j) in enumerate(ordered):
        top = (0.0, -1)
        index = j
        while index > 0:
            top = max(top, best[index])
            index -= index & -index
        before.append(top[1])
        entry = (top[0] + weights[i, j], position)
        index = j + 1
        while index <= size:
            best[index] = max(best[index], entry)
            index += index & -index
    chain = []
    position = max(best, default=(0.0, -1))[1]
    while position >= 0:
        chain.append(ordered[position])
        position = before[position]
    return chain[::-1]


def _drop_strays(anchors: list[Pair]) -> list[Pair]:
    """Keep anchors that stand in a run of at least `_SHORTEST_RUN` with one offset; alone, they may be chance."""
    runs = [list(run) for _, run in groupby(anchors, key=lambda pair: pair[1] - pair[0])]
    return [anchor for run in runs if len(run) >= _SHORTEST_RUN for anchor in run]


def _plausible(pairs: list[Pair], first: Sequence[LineFeatures], second: Sequence[LineFeatures]) -> list[Pair]:
    """Drop pairs whose length ratio is more than `_LENGTH_FACTOR` from the median, or whose numbers all differ."""
    ratios = [math.log((second[j].length or 1) / (first[i].length or 1)) for i, j in pairs]
    middle = median(ratios) if ratios else 0.0
    limit = math.log(_LENGTH_FACTOR)
    return [
        (i, j)
        for (i, j), ratio in zip(pairs, ratios, strict=True)
        if abs(ratio - middle) <= limit and not _numbers_differ(first[i], second[j])
    ]


def _numbers_differ(first: LineFeatures, second: LineFeatures) -> bool:
    here, there = ({token for token in line.tokens if token.isdecimal()} for line in (first, second))
    return bool(here and there) and not here & there
