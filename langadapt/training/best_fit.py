"""Which pieces of text share a block: best-fit bin packing, a million pieces in about a second.

Each piece goes into the block that it fills best. Long pieces come first, the longest foremost (Ding et al. 2024,
"Fewer Truncations Improve Language Modeling", https://arxiv.org/abs/2404.10830); short ones follow in random order.
Were they sorted as well, the neighbours in a block would all be of one length, and in a corpus of like records (dates,
dictionary entries, short conversations) almost copies of each other, from which a batch learns less.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_SHORT = 4  # a short piece takes at most one part in so many of a block


def pack(lengths: Integers, capacity: int, seed: int) -> tuple[Integers, Integers]:
    """Return ``(order, bounds)``: block i holds the pieces ``order[bounds[i]:bounds[i + 1]]``.

    ``lengths`` are tokens a piece, each from 1 to ``capacity``. Short pieces and blocks come in an order drawn with
    ``seed``, the pieces of a block in that of ``lengths``.
    """
    generator = np.random.default_rng(seed)
    short = lengths <= capacity // _SHORT
    long = np.flatnonzero(~short)
    longest_first = long[np.argsort(-lengths[long], kind="stable")]
    turns = np.concatenate([longest_first, generator.permutation(np.flatnonzero(short))])
    block_of = np.empty(len(lengths), np.int64)
    block_of[turns] = best_fit(lengths[turns].tolist(), capacity)
    sizes = np.bincount(block_of)
    shuffled = generator.permutation(len(sizes))
    order = np.argsort(shuffled[block_of], kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(shuffled[block_of]))])


def best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Return the number of the block of each piece in turn: the open one with the least room for it, else a new one."""
    blocks = 0
    block_of = []
    open_blocks: dict[int, list[int]] = {}  # by their room in tokens
    rooms: list[int] = []  # the keys, sorted
    for length in lengths:
        at = bisect_left(rooms, length)
        if at == len(rooms):
            block, room = blocks, capacity
            blocks += 1
        else:
            room = rooms[at]
            block = open_blocks[room].pop()
            if not open_blocks[room]:
                del open_blocks[room], rooms[at]
        block_of.append(block)
        room -= length
        if room in open_blocks:
            open_blocks[room].append(block)
        elif room:
            open_blocks[room] = [block]
            insort(rooms, room)
    return block_of
