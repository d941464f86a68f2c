"""Which pieces of text share a block: best-fit-decreasing bin packing, for millions of pieces in a second.

The longest piece comes first, and each goes into the block that it fills best (Ding et al. 2024, "Fewer Truncations
Improve Language Modeling", https://arxiv.org/abs/2404.10830). Pieces of one length and blocks with the same room are
interchangeable, so they are moved together: the work grows with the number of different lengths, not of pieces.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def pack(lengths: Integers, capacity: int, seed: int) -> tuple[Integers, Integers]:
    """Return ``(order, bounds)``: block i holds the pieces ``order[bounds[i]:bounds[i + 1]]``.

    ``lengths`` are tokens a piece, each from 1 to ``capacity``. Blocks come in an order drawn with ``seed``, the pieces
    of a block in that of ``lengths``.
    """
    block_of = best_fit(lengths, capacity)
    sizes = np.bincount(block_of)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = np.argsort(shuffled[block_of], kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(shuffled[block_of]))])


def best_fit(lengths: Integers, capacity: int) -> Integers:
    """Return the number of the block of every piece, counted from 0; of ``capacity`` tokens no block holds more."""
    longest_first = np.argsort(-lengths, kind="stable")
    counts = np.bincount(lengths)
    block_of = np.empty(len(lengths), np.int64)
    open_blocks = _OpenBlocks()
    placed = blocks = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        end = placed + int(counts[length])
        while placed < end:
            found = open_blocks.take_tightest(length)
            if found is None:
                new = -(-(end - placed) // (capacity // length))
                open_blocks.add(capacity, np.arange(blocks, blocks + new))
                blocks += new
                continue
            # A block that took a piece is now the tightest of all, so it takes the next ones too while it has room.
            room, group = found
            each = room // length
            used = group[: -(-(end - placed) // each)]
            taken = min(end - placed, len(used) * each)
            block_of[longest_first[placed : placed + taken]] = np.repeat(used, each)[:taken]
            placed += taken
            in_last = taken - (len(used) - 1) * each
            open_blocks.add(room, group[len(used) :])
            open_blocks.add(room - each * length, used[:-1])
            open_blocks.add(room - in_last * length, used[-1:])
    return block_of


class _OpenBlocks:
    """Groups of blocks by their room in tokens."""

    def __init__(self) -> None:
        self._rooms: list[int] = []  # sorted
        self._groups: dict[int, list[Integers]] = {}

    def add(self, room: int, group: Integers) -> None:
        if room == 0 or len(group) == 0:
            return
        if room not in self._groups:
            insort(self._rooms, room)
            self._groups[room] = []
        self._groups[room].append(group)

    def take_tightest(self, length: int) -> tuple[int, Integers] | None:
        """Remove and return a group with the least room for ``length`` tokens, and its room; None if none has it."""
        at = bisect_left(self._rooms, length)
        if at == len(self._rooms):
            return None
        room = self._rooms[at]
        group = self._groups[room].pop()
        if not self._groups[room]:
            del self._groups[room], self._rooms[at]
        return room, group
