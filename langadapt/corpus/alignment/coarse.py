"""The path through two files in large steps, wherever it leads: by lengths and rare tokens, block by block.

For every block of lines of the first file, all offsets within reach are scored at once: lengths by a Fourier
transform, tokens by counting at which offsets they meet again. The Viterbi algorithm picks one offset a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.alignment.features import Integers, occurrences

Floats = NDArray[np.float64]

_BLOCK = 128
_REACH = 1024  # lines, beyond the difference between the lengths of the files
_BEST = 24  # offsets of a block to choose from
_LAST_BEST = 8  # of them, offsets that did well in the block before
_CORRELATION = 0.7  # of standardised log lengths of true pairs
_CHANGE, _CHANGE_BY = 3.0, 2.0  # cost of another offset, in nats: so much, and so much a nat of distance


@dataclass(frozen=True)
class Outline:
    """Of every line its standardised length (see `standardised`), and where tokens occur, in ascending lines."""

    lengths: NDArray[np.float32]
    tokens: NDArray[np.uint32]
    lines: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)


def standardised(lengths: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return log lengths by median and median absolute deviation, cut at 2.5; 0 for blank lines."""
    logs = np.log1p(lengths.astype(np.float32))
    real = lengths > 0
    if not real.any():
        return np.zeros(len(logs), np.float32)
    middle = np.median(logs[real])
    width = 1.4826 * np.median(np.abs(logs[real] - middle)) + 0.05
    return np.where(real, np.clip((logs - middle) / width, -2.5, 2.5), 0).astype(np.float32)


def coarse_path(first: Outline, second: Outline, weight: NDArray[np.float32]) -> Integers:
    """Return the likely partner in ``second`` of every line of ``first``, -1 for none; ``weight`` is by token.

    Wrong by a few lines wherever lines were lost, and by chance where the files have nothing in common.
    """
    if not len(first) or not len(second):
        return np.full(len(first), -1, np.int64)
    index = np.sort(second.tokens.astype(np.int64) << 32 | second.lines)
    starts = np.arange(0, len(first), _BLOCK)
    offsets = _viterbi(first, second, starts, index, weight)
    partner = np.arange(len(first)) + np.repeat(offsets, np.diff(np.append(starts, len(first))))
    for k in np.flatnonzero(np.diff(offsets)):
        _place_change(partner, first, second, int(starts[k]), (int(offsets[k]), int(offsets[k + 1])), index, weight)
    partner[(partner < 0) | (partner >= len(second))] = -1
    return partner


def _viterbi(
    first: Outline, second: Outline, starts: Integers, index: Integers, weight: NDArray[np.float32]
) -> Integers:
    reach = abs(len(first) - len(second)) + _REACH
    choices: list[Integers] = []
    origins: list[Integers] = []
    values = np.zeros(0)
    for start in starts:
        stop = min(len(first), start + _BLOCK)
        low, high = max(-reach, 1 - int(stop)), min(reach, len(second) - 1 - int(start))
        if high < low:  # the second file has come to its end
            low = high = len(second) - 1 - int(start)
        scores = _block_scores(first, second, start, stop, (low, high), index, weight)
        best = np.argpartition(-scores, min(_BEST, len(scores)) - 1)[:_BEST] + low
        if choices:
            last = choices[-1][np.argsort(-values)[:_LAST_BEST]]
            best = np.union1d(best, last[(last >= low) & (last <= high)])
            distance = np.abs(best[:, None] - choices[-1])
            arriving = values - np.where(distance > 0, _CHANGE + _CHANGE_BY * np.log1p(distance), 0)
            origins.append(arriving.argmax(axis=1))
            values = scores[best - low] + arriving.max(axis=1)
        else:
            values = scores[best - low]
        choices.append(best)
    at = int(values.argmax())
    path = [choices[-1][at]]
    for choice, origin in zip(choices[-2::-1], origins[::-1], strict=True):
        at = int(origin[at])
        path.append(choice[at])
    return np.array(path[::-1])


def _block_scores(
    first: Outline,
    second: Outline,
    start: int,
    stop: int,
    reach: tuple[int, int],
    index: Integers,
    weight: NDArray[np.float32],
) -> Floats:
    """Return the log-likelihood ratio of a block's lines, true pair to chance, at all offsets from low to high."""
    low, high = reach
    lengths = first.lengths[start:stop].astype(np.float64)
    others = np.zeros(len(lengths) + high - low)
    begin, end = max(0, start + low), min(len(second), start + low + len(others))
    others[begin - start - low : end - start - low] = second.lengths[begin:end]
    size = 1 << (len(others) + len(lengths)).bit_length()
    products = np.fft.irfft(np.fft.rfft(others, size) * np.conj(np.fft.rfft(lengths, size)), size)[: high - low + 1]
    squares = np.concatenate([np.zeros(1), np.cumsum(others**2)])
    squares = squares[len(lengths) :] - squares[: high - low + 1] + (lengths**2).sum()
    tokens, lines = _tokens_between(first, start, stop)
    which, where = occurrences(index, tokens, lines + low, lines + high + 1)
    met = np.bincount(where - lines[which] - low, weight[tokens[which]], high - low + 1)
    return _normal_ratio(products, squares) + met


def _normal_ratio(products: Floats, squares: Floats) -> Floats:
    """Return log-likelihood ratios of standard normal pairs, correlated to independent, up to a constant."""
    return (_CORRELATION * products - _CORRELATION**2 / 2 * squares) / (1 - _CORRELATION**2)


def _tokens_between(outline: Outline, start: int, stop: int) -> tuple[NDArray[np.uint32], Integers]:
    some = slice(*np.searchsorted(outline.lines, [start, stop]))
    return outline.tokens[some], outline.lines[some].astype(np.int64)


def _place_change(
    partner: Integers,
    first: Outline,
    second: Outline,
    start: int,
    offsets: tuple[int, int],
    index: Integers,
    weight: NDArray[np.float32],
) -> None:
    """Move the change of offset between two blocks to where the lines before and after it agree best."""
    stop = min(len(first), start + 2 * _BLOCK)
    lost = max(0, offsets[0] - offsets[1])  # lines of the first file without a partner
    start = max(0, start - lost)
    before, after = (_line_scores(first, second, start, stop, offset, index, weight) for offset in offsets)
    before = np.concatenate([np.zeros(1), np.cumsum(before)])
    after = np.concatenate([np.cumsum(after[::-1])[::-1], np.zeros(1)])
    lost = min(lost, stop - start)
    change = start + int((before[: len(before) - lost] + after[lost:]).argmax())
    lines = np.arange(start, stop)
    partner[start:stop] = np.where(lines < change, lines + offsets[0], lines + offsets[1])
    partner[change : change + lost] = -1


def _line_scores(
    first: Outline, second: Outline, start: int, stop: int, offset: int, index: Integers, weight: NDArray[np.float32]
) -> Floats:
    lines = np.arange(start, stop)
    there = second.lengths[np.clip(lines + offset, 0, len(second) - 1)].astype(np.float64)
    here = first.lengths[start:stop].astype(np.float64)
    inside = (lines + offset >= 0) & (lines + offset < len(second))
    scores = np.where(inside, _normal_ratio(here * there, here**2 + there**2), -1.0)
    tokens, where = _tokens_between(first, start, stop)
    which, _ = occurrences(index, tokens, where + offset, where + offset + 1)
    return scores + np.bincount(where[which] - start, weight[tokens[which]], stop - start)
