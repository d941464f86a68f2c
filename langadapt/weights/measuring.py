"""The sums behind every figure, over a slice of a tensor's rows in three checkpoints.

With a the base's weights, and d and e the changes of CPT and SFT, all norms, distances and angles between the three
checkpoints follow from the six inner products of a, d and e: the CPT weights are a + d, the SFT weights a + d + e.
Differences are taken before anything is summed, so a small change is not lost in the large norm that it is a part of.

Sums are float64. In large tensors of 16-bit numbers the products within a block (`_BLOCK` values, or a row) are added
in float32; that error is random and stays below two parts in 10**8 of any norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy
from numpy.typing import NDArray

from langadapt.weights.stored import Values, as_real

PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a, d, e

SLICE = 2**22  # values of each checkpoint that a worker is given at a time
PIECE = 2**16  # values of each checkpoint that are worked on at a time: they stay in a core's cache
_BLOCK = 1024
_LARGE = 2**20  # values from which a random error of float32 is lost in the sum
_TINY = 1e-30  # a mean square below this may be made of squares that float32 rounds to zero
_SIXTEEN_BITS = ("bfloat16", "float16")


class Source(Protocol):
    """A tensor that gives its rows: `Stored`, or one that is made of others while it is read."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def read(self, first: int, last: int) -> Values: ...
    def pieces(self, first: int, last: int, rows: int) -> Iterator[Values]: ...
    def read_columns(self, first: int, last: int) -> Values: ...


@dataclass
class Sums:
    """What is kept of a slice; the sums of a tensor, a layer, a type or a model are those of its parts, added.

    ``products`` are the inner products of `PRODUCTS`, ``largest`` the largest absolute change of each stage,
    ``identical`` how many weights each stage left as they were, bit for bit where both are stored in one dtype.
    ``by_row`` [rows, 6] are the products of each row, where they were asked for.
    """

    values: int = 0
    products: NDArray[numpy.float64] = field(default_factory=lambda: numpy.zeros(len(PRODUCTS)))
    largest: NDArray[numpy.float64] = field(default_factory=lambda: numpy.zeros(2))
    identical: NDArray[numpy.int64] = field(default_factory=lambda: numpy.zeros(2, dtype=numpy.int64))
    by_row: NDArray[numpy.float64] | None = None


def added(parts: Sequence[Sums]) -> Sums:
    """Return the sums of all parts together, their rows one after the other."""
    by_row = [part.by_row for part in parts if part.by_row is not None]
    total = Sums()
    for part in parts:
        total.values += part.values
        total.products += part.products
        total.identical += part.identical
        numpy.maximum(total.largest, part.largest, out=total.largest)
    total.by_row = numpy.concatenate(by_row) if by_row else None
    return total


def slices(tensor: Source, size: int = SLICE) -> Iterator[tuple[int, int]]:
    """Yield the first row of each slice and the row after its last; a slice is at most ``size`` values, or one row."""
    rows = max(1, size // max(1, tensor.columns))
    for first in range(0, tensor.rows, rows):
        yield first, min(first + rows, tensor.rows)


def measure(pieces: Iterable[Sequence[Values]], dtypes: Sequence[str], size: int, by_row: bool = False) -> Sums:
    """Return the sums over pieces, each [rows, columns] of three checkpoints as stored, of a tensor of ``size`` values.

    No piece has more rows than the first. A value that is NaN or infinite makes a product so.
    """
    single = size >= _LARGE and all(dtype in _SIXTEEN_BITS for dtype in dtypes)
    room: dict[type[numpy.floating], Values] = {}
    parts = []
    for stored in pieces:
        with numpy.errstate(over="ignore", invalid="ignore"):
            part = _measure(stored, dtypes, numpy.float32, by_row, room) if single else None
            if part is None or not _fits_float32(part):
                part = _measure(stored, dtypes, numpy.float64, by_row, room)
        parts.append(part)
    return added(parts)


def _measure(
    stored: Sequence[Values],
    dtypes: Sequence[str],
    kind: type[numpy.floating],
    by_row: bool,
    room: dict[type[numpy.floating], Values],
) -> Sums:
    columns = stored[0].shape[1]
    flat = [values.reshape(-1) for values in stored]
    count = flat[0].size
    block = columns if by_row else _BLOCK
    padded = -(-count // block) * block
    if kind not in room:  # made once: the kernel zeroes fresh memory page by page
        room[kind] = numpy.empty((3, padded), kind)
    vectors = room[kind][:, :padded]
    vectors[:, count:] = 0
    for values, dtype, into in zip(flat, dtypes, vectors, strict=True):
        as_real(values, dtype, into[:count])
    compared = flat if len(set(dtypes)) == 1 else vectors[:, :count]
    bits = [values.view(f"u{values.itemsize}") for values in compared]
    identical = [numpy.count_nonzero(bits[stage] == bits[stage + 1]) for stage in range(2)]
    # Each change takes the place of the weights after it: the less memory, the more of it stays in the cache.
    numpy.subtract(vectors[2], vectors[1], out=vectors[2])
    numpy.subtract(vectors[1], vectors[0], out=vectors[1])
    blocks = vectors.reshape(3, -1, block)
    # In the order of PRODUCTS, [6, blocks].
    products = numpy.concatenate([numpy.vecdot(blocks[i:], blocks[i]) for i in range(3)], dtype=numpy.float64)
    return Sums(
        count,
        products.sum(axis=1),
        numpy.maximum(vectors[1:].max(axis=1), -vectors[1:].min(axis=1)),
        numpy.array(identical),
        products.T if by_row else None,
    )


def _fits_float32(part: Sums) -> bool:
    """Say whether no square was too large for float32, or so small that it became zero."""
    return bool(numpy.isfinite(part.products).all()) and all(
        square >= _TINY * part.values or same == part.values
        for square, same in zip(part.products[[3, 5]].tolist(), part.identical.tolist(), strict=True)
    )
