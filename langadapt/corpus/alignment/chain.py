"""A hidden Markov model of two files read side by side, and what it says of every pair of lines.

At each step both files move on by a matching pair of lines, or two lines of one match a single line of the other, or
a gap opens: a line of either file without a partner, or one of each that do not belong together. Gaps are rare, and
last. Forward-backward (Rabiner 1989) inside a band of offsets gives each pair its posterior probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Once a gap is open: skip a line of the first file, skip one of the second, skip one of both, or back to matches.
_SKIP_FIRST, _SKIP_SECOND, _SKIP_BOTH, _BACK = 0.15, 0.15, 0.3, 0.4
_JOINED = 0.25  # of the rare events: two lines joined, in either file


def posteriors(single: Floats, joined: tuple[Floats, Floats] | None, rare: float) -> Floats:
    """Return the probability of every pair, [lines, windows, band], of windows of equal size at once.

    ``single[n, w, b]`` is the log-likelihood ratio, true pair to chance, of line n of window w and line n + b of the
    other file, counted from where the window's band begins. ``joined`` holds those of lines n and n + 1 together with
    line n + b, and of line n with lines n + b and n + b + 1 together. ``rare`` is the probability, line by line, that
    something other than a pair comes next.
    """
    lines, windows, band = single.shape
    pair = np.exp(single)
    two_one, one_two = (np.exp(part) * np.float32(rare * _JOINED / 2) for part in joined) if joined else (None, None)
    stay, opened = 1 - rare, rare * (1 - _JOINED) / 3
    distance = np.arange(band) - np.arange(band)[:, None]
    skips = np.where(distance >= 0, _SKIP_SECOND ** np.maximum(distance, 0), 0.0)

    match, gap = np.full((windows, band), 1 / band), np.zeros((windows, band))
    before = np.zeros((windows, band))
    arriving = np.empty_like(pair)
    scales = np.ones((lines + 2, windows, 1))
    for n in range(lines):
        reached = match + gap
        arriving[n] = stay * match + _BACK * gap
        new = pair[n] * arriving[n]
        if two_one is not None and one_two is not None:
            new += _up(one_two[n] * reached)
            if n:
                new += _down(two_one[n - 1] * before)
        gap = opened * match + _SKIP_BOTH * gap + _down(opened * match + _SKIP_FIRST * gap) + opened * _up(new)
        gap = gap @ skips
        scales[n] = (new + gap).sum(axis=1, keepdims=True)
        match, gap, before = new / scales[n], gap / scales[n], reached / scales[n]

    result = np.empty_like(pair)
    gap = np.ones((windows, band)) @ skips.T  # from here on: the probability of all that follows a state
    match = 1 + opened * _down(gap)
    after = np.zeros((windows, band))
    for n in range(lines - 1, -1, -1):
        result[n] = arriving[n] * pair[n] * match / scales[n]
        onward = pair[n] * match
        from_match = stay * onward + opened * (gap + _up(gap))
        from_gap = _BACK * onward + _SKIP_BOTH * gap + _SKIP_FIRST * _up(gap)
        if two_one is not None and one_two is not None:
            joins = one_two[n] * _down(match) + two_one[n] * _up(after)
            from_match, from_gap = from_match + joins, from_gap + joins
        after = match / scales[n]
        gap = from_gap @ skips.T / scales[n]
        match = from_match / scales[n] + opened * _down(gap)
    return result


def _up(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move everything to the next place of the band."""
    moved = np.zeros_like(row)
    moved[:, 1:] = row[:, :-1]
    return moved


def _down(row: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = np.zeros_like(row)
    moved[:, :-1] = row[:, 1:]
    return moved
