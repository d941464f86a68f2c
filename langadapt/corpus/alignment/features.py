"""What alignment needs to know of a line, small enough to keep for every line of a corpus: a few hundred bytes.

Nothing here knows a language. A long line keeps a sample of its words, always the ones with the smallest hashes, so
that two long lines that share words share them in their samples too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.text.blocks import Ragged, TextBlock, mixed, offsets_of, shingles

Integers = NDArray[np.int64]

WORD_BITS = 18
TOKEN_BITS = 20  # numbers have the upper bit, Latin words have not
_MOST_WORDS = 96
_MOST_TOKENS = 64
# Marks that translations keep, kind by kind, whatever the script.
MARKS = (
    "?？؟;",
    "!！",
    "'\"“”‘’„«»「」『』《》〈〉",
    "()（）[]【】{}༼༽",
    ".。།༎",
    ":：",
    ",，、،",
    "%％",
    "-–—/+*=<>_",
)


@dataclass(frozen=True)
class Features:
    """Features of n consecutive lines.

    ``length`` holds units a line, ``marks`` counts [n, kinds] (at most 255), ``content`` a hash of all units, 0 for a
    line without any; ``tokens`` (numbers and Latin words) and ``words`` are rows of distinct hashes in ascending order.
    """

    length: NDArray[np.int32]
    marks: NDArray[np.uint8]
    content: NDArray[np.uint64]
    tokens: Ragged
    words: Ragged

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, rows: slice | Integers) -> Features:
        """Return the features of some of the lines, in the order named; of a slice, without copying."""
        tokens, words = (
            _between(ragged, rows) if isinstance(rows, slice) else take(ragged, rows)
            for ragged in (self.tokens, self.words)
        )
        return Features(self.length[rows], self.marks[rows], self.content[rows], tokens, words)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the features as arrays by name, for an .npz file; `load` makes features of them again."""
        return {
            "length": self.length,
            "marks": self.marks,
            "content": self.content,
            "tokens": self.tokens.values,
            "token_counts": self.tokens.lengths.astype(np.uint16),
            "words": self.words.values,
            "word_counts": self.words.lengths.astype(np.uint16),
        }

    @staticmethod
    def load(path: str | Path) -> Features:
        """Read the arrays of features from an .npz file, which may hold others too."""
        with np.load(path) as stored:
            return Features(
                stored["length"],
                stored["marks"],
                stored["content"],
                Ragged(stored["tokens"], offsets_of(stored["token_counts"].astype(np.int64))),
                Ragged(stored["words"], offsets_of(stored["word_counts"].astype(np.int64))),
            )


class FeatureParts:
    """The features of a file, in part files in the order of its lines, read by windows."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = list(paths)
        self._starts = offsets_of(np.array([_lines_of(path) for path in self._paths], np.int64))
        self._loaded: dict[int, Features] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Features:
        """Return the features of lines ``start`` to ``stop`` of the file; at most two parts stay in memory."""
        pieces = []
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        while part < len(self._paths) and (first := int(self._starts[part])) < stop:
            pieces.append(self._part(part)[max(0, start - first) : stop - first])
            part += 1
        return concatenate(pieces)

    def _part(self, part: int) -> Features:
        if part not in self._loaded:
            while len(self._loaded) > 1:
                del self._loaded[min(self._loaded)]
            self._loaded[part] = Features.load(self._paths[part])
        return self._loaded[part]


def extract(block: TextBlock, segmentation: str) -> Features:
    """Return the `Features` of a block of lines; where units are smaller than words, pairs of units are words too."""
    units = block.units
    words = [units, shingles(units, 2)] if segmentation != "words" else [units]
    numbers = Ragged(_bits(block.numbers.values, TOKEN_BITS - 1) | 1 << (TOKEN_BITS - 1), block.numbers.offsets)
    names = Ragged(_bits(block.latin_words.values, TOKEN_BITS - 1), block.latin_words.offsets)
    return Features(
        units.lengths.astype(np.int32),
        _marks(block),
        _content(units),
        _sampled([numbers, names], _MOST_TOKENS, TOKEN_BITS),
        _sampled([Ragged(_bits(kind.values, WORD_BITS), kind.offsets) for kind in words], _MOST_WORDS, WORD_BITS),
    )


def concatenate(pieces: Sequence[Features]) -> Features:
    """Return the lines of several `Features` in one; of none, features of no line."""
    if not pieces:
        return blank(0)
    if len(pieces) == 1:
        return pieces[0]
    joined: dict[str, Any] = {}
    for field in fields(Features):
        parts = [getattr(piece, field.name) for piece in pieces]
        if isinstance(parts[0], Ragged):
            lengths = np.concatenate([part.lengths for part in parts])
            joined[field.name] = Ragged(np.concatenate([part.values for part in parts]), offsets_of(lengths))
        else:
            joined[field.name] = np.concatenate(parts)
    return Features(**joined)


def blank(lines: int) -> Features:
    """Return the features of blank lines."""
    nothing = Ragged(np.zeros(0, np.uint32), np.zeros(lines + 1, np.int64))
    marks = np.zeros((lines, len(MARKS)), np.uint8)
    return Features(np.zeros(lines, np.int32), marks, np.zeros(lines, np.uint64), nothing, nothing)


def joined_with_next(features: Features, with_words: bool) -> Features:
    """Return the features of every line together with the line after it, one line fewer; words only if asked for."""
    marks = features.marks[:-1].astype(np.int64) + features.marks[1:]
    return Features(
        features.length[:-1] + features.length[1:],
        np.minimum(marks, 255).astype(np.uint8),
        features.content[:-1],
        _united(features.tokens),
        _united(features.words) if with_words else blank(len(features) - 1).words,
    )


def take(ragged: Ragged, rows: Integers) -> Ragged:
    """Return some rows of a `Ragged`."""
    return _slices(ragged, ragged.offsets[:-1][rows], ragged.lengths[rows])


def token_index(tokens: Ragged) -> Integers:
    """Return where every token occurs, as sorted numbers: the token in the upper half, the line in the lower."""
    return np.sort(tokens.values.astype(np.int64) << 32 | tokens.rows)


def occurrences(index: Integers, tokens: NDArray[np.generic], start: Integers, stop: Integers) -> tuple[Integers, ...]:
    """Return all lines from ``start[k]`` to ``stop[k]`` in which ``tokens[k]`` occurs, as arrays of k and of lines."""
    keys = tokens.astype(np.int64) << 32
    low = np.searchsorted(index, keys + np.maximum(start, 0))
    counts = np.searchsorted(index, keys + np.maximum(stop, 0)) - low
    which = np.repeat(np.arange(len(keys)), counts)
    return which, index[spread_out(low, counts)] & 0xFFFFFFFF


def spread_out(starts: Integers, counts: Integers) -> Integers:
    """Return start, start + 1, ..., start + count - 1 for every start, one after another."""
    first = starts - (np.cumsum(counts) - counts)
    every: Integers = np.arange(counts.sum()) + np.repeat(first, counts)
    return every


def _between(ragged: Ragged, rows: slice) -> Ragged:
    start, stop, _ = rows.indices(len(ragged))
    offsets = ragged.offsets[start : max(start, stop) + 1]
    return Ragged(ragged.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _distinct(keys: NDArray[Any]) -> NDArray[Any]:
    """Return distinct values in ascending order: np.unique, which hashes, takes five times as long here."""
    keys = np.sort(keys)
    new = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return keys[new]


def _slices(ragged: Ragged, starts: Integers, lengths: Integers) -> Ragged:
    return Ragged(ragged.values[spread_out(starts, lengths)], offsets_of(lengths))


def _united(ragged: Ragged) -> Ragged:
    """Return the distinct values of every row and the next."""
    both = _slices(ragged, ragged.offsets[:-2], ragged.offsets[2:] - ragged.offsets[:-2])
    keys = _distinct(both.rows << 32 | both.values.astype(np.int64))
    return Ragged((keys & 0xFFFFFFFF).astype(np.uint32), offsets_of(np.bincount(keys >> 32, minlength=len(both))))


def _bits(hashes: NDArray[np.generic], bits: int) -> NDArray[np.uint64]:
    return mixed(hashes.astype(np.uint64)) >> np.uint64(64 - bits)


def _sampled(kinds: Sequence[Ragged], most: int, bits: int) -> Ragged:
    """Return the distinct hashes of every row, about ``most`` at most: the share of all hashes that leaves so many."""
    lengths = np.sum([kind.lengths for kind in kinds], axis=0)
    values = np.concatenate([kind.values for kind in kinds])
    rows = np.concatenate([kind.rows for kind in kinds])
    if len(lengths) and lengths.max() > most:
        # The upper bit of tokens tells their kind, so that the lower ones decide.
        limit = np.ceil(np.minimum(1.0, most / np.maximum(lengths, 1)) * (1 << (bits - 1))).astype(np.uint64)
        kept = (values & np.uint64((1 << (bits - 1)) - 1)) < limit[rows]
        values, rows = values[kept], rows[kept]
    keys = _distinct(rows.astype(np.uint64) << np.uint64(bits) | values)
    counts = np.bincount((keys >> np.uint64(bits)).astype(np.int64), minlength=len(lengths))
    return Ragged((keys & np.uint64((1 << bits) - 1)).astype(np.uint32), offsets_of(counts))


def _content(units: Ragged) -> NDArray[np.uint64]:
    place = np.arange(len(units.values)) - units.offsets[:-1][units.rows]
    hashes = np.append(mixed(units.values.astype(np.uint64) + mixed(place.astype(np.uint64))), np.uint64(0))
    sums = np.add.reduceat(hashes, units.offsets[:-1]) if len(units) else np.zeros(0, np.uint64)
    return np.where(units.lengths > 0, sums, np.uint64(0))


def _marks(block: TextBlock) -> NDArray[np.uint8]:
    kinds = _kinds_of_marks()[block.codes]
    where = np.flatnonzero(kinds)
    rows = np.searchsorted(block.offsets, where, side="right") - 1
    counts = np.bincount(rows * len(MARKS) + kinds[where] - 1, minlength=len(block) * len(MARKS))
    return np.minimum(counts, 255).astype(np.uint8).reshape(len(block), len(MARKS))


@cache
def _kinds_of_marks() -> NDArray[np.uint8]:
    table = np.zeros(0x110000, np.uint8)
    for kind, characters in enumerate(MARKS, start=1):
        table[[ord(character) for character in characters]] = kind
    return table


def _lines_of(path: str | Path) -> int:
    with np.load(path) as stored:
        return len(stored["length"])
