"""Finding twins: training text that equals, nearly equals or contains a held-out text, or stands inside one.

Texts are compared as sequences of units (syllables, characters, words; no punctuation, no case). Two texts are twins
when their sequences are equal, or when enough of the one's runs of eight units stand in the other: all of them for
texts of fewer than 16 units, 60 % of them from there on. Below eight units only equality counts, since a word or a name
stands inside many texts by right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from langadapt.text.blocks import Ragged, TextBlock, blocks_of, offsets_of, sequences, shingles

RUN = 8
_SHORT = 16
_SHARE = 0.6
_PLACES = 26  # bits: 64 MB, of which a million runs take 1.5 %


class TwinIndex:
    """Held-out texts by the hashes of their runs, 12 bytes a run; training texts are looked up many at a time."""

    def __init__(self) -> None:
        self._whole: dict[int, str] = {}
        self._owners: list[str] = []
        self._enough = np.zeros(0)  # runs that have to be shared, by held-out text
        self._levels: list[tuple[NDArray[np.uint64], NDArray[np.int32]]] = []  # runs in ascending order, their texts
        self._occupied = np.zeros(1 << _PLACES, np.bool_)  # which lower bits a run has: most others need no search

    def add(self, owner: str, texts: Iterable[str]) -> None:
        """Add the texts of one held-out record: all its language versions."""
        self.add_all([(owner, text) for text in texts])

    def add_all(self, owned: Sequence[tuple[str, str]]) -> None:
        """Add texts as ``(owner, text)``."""
        for first, block in blocks_of([text for _, text in owned]):
            owners = [owner for owner, _ in owned[first : first + len(block)]]
            for value, owner in zip(sequences(block.units).tolist(), owners, strict=True):
                if value:
                    self._whole.setdefault(value, owner)
            found = runs(block)
            self._insert(found.values.astype(np.uint64), (found.rows + len(self._owners)).astype(np.int32))
            self._owners += owners
            self._enough = np.append(self._enough, _enough(block.units.lengths, found.lengths))

    def _insert(self, values: NDArray[np.uint64], texts: NDArray[np.int32]) -> None:
        """Keep few sorted arrays: a new one is merged with those before it that are no larger."""
        if not len(values):
            return
        self._occupied[_places(values)] = True
        while self._levels and len(self._levels[-1][0]) <= len(values):
            last_values, last_texts = self._levels.pop()
            values, texts = np.append(last_values, values), np.append(last_texts, texts)
        order = np.argsort(values, kind="stable")
        self._levels.append((values[order], texts[order]))

    def settle(self) -> None:
        """Make one sorted array of all, for many searches to come with nothing added in between."""
        if self._levels:
            values, texts = zip(*self._levels, strict=True)
            self._levels = []
            self._insert(np.concatenate(values), np.concatenate(texts))

    def find(self, texts: Iterable[str]) -> str | None:
        """Return the owner of a held-out text that is a twin of one of ``texts``, or None."""
        return next((owner for owner in self.find_all(list(texts)) if owner is not None), None)

    def find_all(self, texts: Sequence[str]) -> list[str | None]:
        """Return for every text the owner of the first held-out text that is a twin of it, or None."""
        owners: list[str | None] = []
        for _, block in blocks_of(texts):
            twins = self._contained(block)
            whole = sequences(block.units).tolist()
            owners += [
                self._whole.get(value) if value in self._whole else self._owners[twin] if twin >= 0 else None
                for value, twin in zip(whole, twins.tolist(), strict=True)
            ]
        return owners

    def _contained(self, block: TextBlock) -> NDArray[np.int64]:
        """Return the lowest number of a held-out text that shares enough runs with each text of a block, or -1."""
        found = runs(block)
        likely = np.flatnonzero(self._occupied[_places(found.values)])
        sought, rows_of_sought = found.values[likely], found.rows[likely]
        rows, partners = [], []
        for values, texts in self._levels:
            left = np.searchsorted(values, sought, side="left")
            hits = np.flatnonzero(values[np.minimum(left, len(values) - 1)] == sought)
            counts = np.searchsorted(values, sought[hits], side="right") - left[hits]
            positions = np.repeat(left[hits] - offsets_of(counts)[:-1], counts) + np.arange(counts.sum())
            rows.append(np.repeat(rows_of_sought[hits], counts))
            partners.append(texts[positions])
        twins = np.full(len(block), -1)
        if rows:
            pairs = np.concatenate(rows) << 32 | np.concatenate(partners)
            pairs, shared = np.unique(pairs, return_counts=True)
            row, partner = pairs >> 32, pairs & 0xFFFFFFFF
            enough = np.minimum(self._enough[partner], _enough(block.units.lengths, found.lengths)[row])
            row, partner = row[shared >= enough], partner[shared >= enough]
            twins[row[::-1]] = partner[::-1]  # the lowest is written last
        return twins


def _places(values: NDArray[np.generic]) -> NDArray[np.int64]:
    return (values.astype(np.uint64) & np.uint64((1 << _PLACES) - 1)).astype(np.int64)


def runs(block: TextBlock) -> Ragged:
    """Return the distinct runs of `RUN` consecutive units of every text; none where there are fewer units."""
    every = shingles(block.units, RUN)
    long_enough = block.units.lengths >= RUN
    lengths = np.where(long_enough, every.lengths, 0)
    return Ragged(every.values[long_enough[every.rows]], offsets_of(lengths)).distinct()


def _enough(units: NDArray[np.int64], run_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many runs of each text have to be shared; texts without runs share none."""
    enough = run_counts * np.where(units >= _SHORT, _SHARE, 1.0)
    return np.where(run_counts > 0, enough, np.inf)
