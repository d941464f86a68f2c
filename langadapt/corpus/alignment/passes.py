"""Pairing the lines of two files in three passes, each of which learns from the pairs that the one before was sure of.

1. From the coarse path: a wide band, evidence in its usual weights.
2. A narrow band along the first pass's path, evidence weighed, joined lines told from single ones.
3. Where the second pass was not sure, once more with a lexicon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.alignment import scoring
from langadapt.corpus.alignment.chain import posteriors
from langadapt.corpus.alignment.features import Features, Integers, blank, concatenate
from langadapt.corpus.alignment.likelihood import Occurrence
from langadapt.corpus.alignment.scoring import Scorer, Stretch

Floats = NDArray[np.float32]
Read = Callable[[int, int], Features]  # lines from start to stop of a file

_WIDE, _NARROW = 32, 12  # offsets to either side of the middle of a band
_LONGEST = 256  # lines of a window
_MARGIN = 48  # lines around a window that help to judge those in it
_BATCH = 32  # windows at once
_SAMPLE = 32  # windows to learn from
_SURE = 0.9  # of a pair to learn from
_SETTLED = 0.99  # of a line that the third pass need not see
_AROUND = 16  # lines around one that is not settled
_RARE = 0.01  # probability that something other than a pair comes next, at first
_LEAST_RARE, _MOST_RARE = 0.0005, 0.05


@dataclass(frozen=True)
class File:
    """A file's lines: how many, how to read their features, and how often its tokens occur."""

    lines: int
    read: Read
    occurrence: Occurrence

    def around(self, start: int, stop: int) -> Features:
        """Return lines from start to stop, blank ones for those before the first and after the last."""
        first, last = min(max(start, 0), self.lines), max(min(stop, self.lines), 0)
        if first >= last:
            return blank(stop - start)
        pieces = [blank(first - start), self.read(first, last), blank(stop - last)]
        return concatenate([piece for piece in pieces if len(piece)])


@dataclass(frozen=True)
class Window:
    """Lines of the first file from start to stop, to pair with lines about ``offset`` further on in the second."""

    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Paired:
    """For each line of the first file its best partner, -1 for none, and the posterior probability of the pair."""

    partner: Integers
    posterior: Floats
    scorer: Scorer


def pair_lines(first: File, second: File, path: Integers, advance: Callable[[float], None]) -> Paired:
    """Pair two files along a coarse path (see `coarse_path`); ``advance`` gets the share of the work just done."""
    occurrence = first.occurrence, second.occurrence
    known = path >= 0
    windows = _along(path, [(0, len(path))], _WIDE)
    scorer = scoring.learn(_sample(first, second, windows, path, known, _WIDE), occurrence, False, False)
    partner, posterior = np.full(len(path), -1), np.zeros(len(path), np.float32)
    advance(0.1)
    _run(first, second, windows, scorer, _RARE, _WIDE, partner, posterior, advance, 0.4)
    for with_lexicon, share in ((False, 0.4), (True, 0.1)):
        path = np.where(posterior > 0.5, partner, -1)
        known = posterior > _SURE
        windows = _along(path, [(0, len(path))], _NARROW)
        learned = _sample(first, second, windows, path, known, _NARROW)
        if with_lexicon:
            windows = _along(path, _unsettled(posterior), _NARROW)
        if windows:
            scorer = scoring.learn(learned, occurrence, with_lexicon, True)
        rare = _rare(path[known] - np.flatnonzero(known))
        _run(first, second, windows, scorer, rare, _NARROW, partner, posterior, advance, share)
    return Paired(partner, posterior, scorer)


def _run(
    first: File,
    second: File,
    windows: Sequence[Window],
    scorer: Scorer,
    rare: float,
    half: int,
    partner: Integers,
    posterior: Floats,
    advance: Callable[[float], None],
    share: float,
) -> None:
    """Pair the lines of every window, writing into ``partner`` and ``posterior``; ``advance`` by ``share`` in all."""
    if not windows:
        advance(share)
    band = 2 * half + 1
    for begin in range(0, len(windows), _BATCH):
        batch = windows[begin : begin + _BATCH]
        longest = max(window.stop - window.start for window in batch) + 2 * _MARGIN
        # Lines past the end of a short window say nothing.
        single = np.zeros((longest, len(batch), band), np.float32)
        joined = None
        if scorer.joined_weights is not None:
            joined = np.full_like(single, -np.inf), np.full_like(single, -np.inf)
        for k, window in enumerate(batch):
            start = max(0, window.start - _MARGIN)
            stop = min(first.lines, window.stop + _MARGIN)
            here = first.around(start, stop + 1)
            there = second.around(start + window.offset - half, stop + window.offset + half + 1)
            size = stop - start
            single[:size, k] = scorer.single(here[:-1], there[:-1], start)
            if joined is not None:
                joined[0][:size, k], joined[1][:size, k] = scorer.joined(here, there, start, single[:size, k])
            other = np.arange(start, stop)[:, None] + window.offset - half + np.arange(band)
            single[:size, k][(other < 0) | (other >= second.lines)] = -np.inf
        result = posteriors(single, joined, rare)
        for k, window in enumerate(batch):
            skipped = window.start - max(0, window.start - _MARGIN)
            found = result[skipped : skipped + window.stop - window.start, k]
            best = found.argmax(axis=1)
            lines = np.arange(window.start, window.stop)
            partner[lines] = lines + window.offset - half + best
            posterior[lines] = found[np.arange(len(lines)), best]
        advance(share * len(batch) / len(windows))


def _along(path: Integers, stretches: Sequence[tuple[int, int]], half: int) -> list[Window]:
    """Cut stretches of lines into windows in which the path stays within a band of ``half`` to either side."""
    windows: list[Window] = []
    for begin, end in stretches:
        known = begin + np.flatnonzero(path[begin:end] >= 0)
        if not len(known):
            continue
        offsets = path[known] - known
        changes = np.flatnonzero(np.diff(offsets, prepend=offsets[0] - 1))
        start, low, high = begin, int(offsets[0]), int(offsets[0])
        for line, offset in zip(known[changes].tolist(), offsets[changes].tolist(), strict=True):
            if max(high, offset) - min(low, offset) > half or line - start > _LONGEST:
                windows += _cut(start, line, (low + high) // 2)
                start, low, high = line, offset, offset
            low, high = min(low, offset), max(high, offset)
        windows += _cut(start, end, (low + high) // 2)
    return windows


def _cut(start: int, stop: int, offset: int) -> Iterator[Window]:
    """Yield windows of equal length from start to stop."""
    pieces = -(-(stop - start) // _LONGEST)
    bounds = np.linspace(start, stop, pieces + 1).astype(np.int64).tolist()
    for begin, end in pairwise(bounds):
        yield Window(begin, end, offset)


def _sample(
    first: File, second: File, windows: Sequence[Window], path: Integers, known: NDArray[np.bool_], half: int
) -> list[Stretch]:
    """Read windows evenly spaced over the file, with what is known of their pairs."""
    stretches = []
    for k in np.unique(np.linspace(0, len(windows) - 1, _SAMPLE).astype(np.int64)) if windows else ():
        window = windows[k]
        here = first.around(window.start, window.stop)
        there = second.around(window.start + window.offset - half, window.stop + window.offset + half)
        lines = np.arange(window.start, window.stop)
        place = path[lines] - lines - window.offset + half
        inside = known[lines] & (path[lines] >= 0) & (place >= 0) & (place <= 2 * half)
        stretches.append(Stretch(window.start, here, there, np.where(inside, place, -1)))
    return stretches


def _unsettled(posterior: Floats) -> list[tuple[int, int]]:
    """Return stretches around lines whose partner is not settled."""
    near = np.zeros(len(posterior) + 1, np.int64)
    open_lines = np.flatnonzero(posterior < _SETTLED)
    np.add.at(near, np.maximum(open_lines - _AROUND, 0), 1)
    np.add.at(near, np.minimum(open_lines + _AROUND + 1, len(posterior)), -1)
    edges = np.flatnonzero(np.diff(np.cumsum(near) > 0, prepend=False, append=False))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _rare(offsets: Integers) -> float:
    """Estimate how often something other than a pair comes next by how often the offset changes."""
    changes = np.count_nonzero(np.diff(offsets))
    return float(np.clip((changes + 1) / (len(offsets) + 1), _LEAST_RARE, _MOST_RARE))
