"""The sums behind every figure, over a slice of a tensor's rows in three checkpoints.

With a the base's weights, and d and e the changes of CPT and SFT, all norms, distances and angles between the three
checkpoints follow from the six inner products of a, d and e: the CPT weights are a + d, the SFT weights a + d + e.
Differences are taken before anything is summed, so a small change is not lost in the large norm that it is a part of.

Sums are float64. In large tensors of 16-bit numbers the products within a block (`_BLOCK` values, or a row) are added
in float32; that error is random and stays below two parts in 10**8 of any norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy
from numpy.typing import NDArray

from langadapt.weights.stored import Values, as_real

PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a, d, e

_BLOCK = 1024
_PIECE = 2**16  # values worked on at a time, so that they stay in a core's cache
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

    def __add__(self, other: Sums) -> Sums:
        rows = [sums.by_row for sums in (self, other) if sums.by_row is not None]
        return Sums(
            self.values + other.values,
            self.products + other.products,
            numpy.maximum(self.largest, other.largest),
            self.identical + other.identical,
            numpy.concatenate(rows) if rows else None,
        )


def measure(slices: Sequence[Values], dtypes: Sequence[str], size: int, by_row: bool = False) -> Sums:
    """Return the sums over one slice, [rows, columns] of each checkpoint as it is stored, of a tensor of ``size``.

    A value that is NaN or infinite makes a product so.
    """
    if size >= _LARGE and all(dtype in _SIXTEEN_BITS for dtype in dtypes):
        with numpy.errstate(over="ignore", invalid="ignore"):
            sums = _measure(slices, dtypes, numpy.float32, by_row)
        changes = sums.products[[3, 5]]
        small = (changes < _TINY * sums.values) & (sums.identical < sums.values)
        if numpy.isfinite(sums.products).all() and not small.any():
            return sums
    with numpy.errstate(invalid="ignore"):
        return _measure(slices, dtypes, numpy.float64, by_row)


def _measure(slices: Sequence[Values], dtypes: Sequence[str], kind: type[numpy.floating], by_row: bool) -> Sums:
    rows, columns = slices[0].shape
    block = columns if by_row else _BLOCK
    flat = [values.reshape(-1) for values in slices]
    piece = max(block, _PIECE // block * block)
    one_dtype = len(set(dtypes)) == 1
    real = numpy.zeros((3, piece), kind)
    change = numpy.empty((2, piece), kind)
    total = Sums(by_row=numpy.empty((rows, len(PRODUCTS))) if by_row else None)
    for start in range(0, flat[0].size, piece):
        stored = [values[start : start + piece] for values in flat]
        count = stored[0].size
        if count < piece:  # the rest of the last block counts as zeros
            padded = -(-count // block) * block
            real, change = real[:, :padded], change[:, :padded]
            real[:, count:] = 0
        for values, dtype, into in zip(stored, dtypes, real, strict=True):
            as_real(values, dtype, into[:count])
        numpy.subtract(real[1:], real[:-1], out=change)
        blocks = [vector.reshape(-1, block) for vector in (real[0], *change)]
        products = numpy.stack([numpy.vecdot(blocks[i], blocks[j]) for i, j in PRODUCTS], axis=1)
        total.products += products.sum(axis=0, dtype=numpy.float64)
        if total.by_row is not None:
            total.by_row[start // block : start // block + len(products)] = products
        numpy.maximum(total.largest, change.max(axis=1), out=total.largest)
        numpy.maximum(total.largest, -change.min(axis=1), out=total.largest)
        for stage in range(2):
            before, after = stored[stage : stage + 2] if one_dtype else real[stage : stage + 2, :count]
            total.identical[stage] += numpy.count_nonzero(_bits(before) == _bits(after))
        total.values += count
    return total


def _bits(values: Values) -> Values:
    return values.view(f"u{values.itemsize}")
