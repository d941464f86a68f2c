"""Tensors on the disk, read row by row: what a safetensors header says, and the values that it points to.

Files are read and not mapped, because the pages of a mapped file count as the memory of whoever reads them. A bfloat16
is kept as the sixteen bits that it is (numpy has no such type): they are the upper half of a float32.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from langadapt.errors import UserError

Values = NDArray[numpy.generic]
_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_KEPT_AS = {"bfloat16": numpy.dtype("<u2")}


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its values are at ``offset``, row after row. ``dtype`` is a name of torch's."""

    shard: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def rows(self) -> int:
        """How many rows it is read in: all dimensions but the last; each value of a vector is a row."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Values a row."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    def read(self, first: int, last: int) -> Values:
        """Return rows ``first`` to ``last`` (not with it) as they are stored, [rows, columns]."""
        values = numpy.empty((last - first, self.columns), numpy_dtype(self.dtype))
        with open(self.shard, "rb", buffering=0) as file:
            _fill(file.fileno(), self.offset + first * self.columns * values.itemsize, values, self.shard)
        return values

    def pieces(self, first: int, last: int, rows: int) -> Iterator[Values]:
        """Yield rows ``first`` to ``last`` (not with it), ``rows`` at a time; each piece is overwritten by the next."""
        room = numpy.empty((min(rows, last - first), self.columns), numpy_dtype(self.dtype))
        row = self.columns * room.itemsize
        with open(self.shard, "rb", buffering=0) as file:
            for start in range(first, last, rows):
                piece = room[: last - start]
                _fill(file.fileno(), self.offset + start * row, piece, self.shard)
                yield piece

    def read_columns(self, first: int, last: int) -> Values:
        """Return columns ``first`` to ``last`` (not with it) as they are stored, [rows, columns]."""
        values = numpy.empty((self.rows, last - first), numpy_dtype(self.dtype))
        with open(self.shard, "rb", buffering=0) as file:
            for row, into in enumerate(values):
                start = self.offset + (row * self.columns + first) * values.itemsize
                _fill(file.fileno(), start, into, self.shard)
        return values


def tensors_in(shard: Path) -> Iterator[Stored]:
    """Yield the tensors of a safetensors file, from its header.

    Raises `UserError` where one is no plain floating-point number or its place in the file does not fit its shape.
    """
    with open(shard, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                f"{shard}: the tensor {name} is stored as {entry['dtype']}, which is no plain floating-point number. "
                "Quantised weights cannot be compared; give the folder they were made from."
            )
        dtype = _DTYPES[entry["dtype"]]
        start, end = entry["data_offsets"]
        if end - start != math.prod(entry["shape"]) * numpy_dtype(dtype).itemsize:
            raise UserError(f"{shard}: the header gives {name} another size than its shape has. Copy the file again.")
        yield Stored(shard, name, tuple(entry["shape"]), dtype, 8 + length + start)


def numpy_dtype(dtype: str) -> numpy.dtype:
    """Return what `Stored.read` returns values of a dtype in; for bfloat16 an unsigned integer of its bits."""
    return _KEPT_AS.get(dtype) or numpy.dtype(dtype).newbyteorder("<")


def as_real(values: Values, dtype: str, into: NDArray[numpy.floating]) -> None:
    """Write stored values as numbers ``into`` an array of float32 or float64 of their shape."""
    if dtype != "bfloat16":
        into[...] = values
    elif into.dtype == numpy.float32:
        bits = into.view(numpy.uint32)
        bits[...] = values
        numpy.left_shift(bits, 16, out=bits)
    else:
        into[...] = numpy.left_shift(values, 16, dtype=numpy.uint32).view(numpy.float32)


def real(values: Values, dtype: str) -> NDArray[numpy.float64]:
    """Return stored values as numbers."""
    numbers = numpy.empty(values.shape)
    as_real(values, dtype, numbers)
    return numbers


def _fill(descriptor: int, start: int, values: Values, path: Path) -> None:
    into = memoryview(values.reshape(-1).view(numpy.uint8).data)
    while len(into):
        read = os.preadv(descriptor, [into], start)
        if read == 0:
            raise UserError(f"{path}: became shorter while it was read. Is a stage still writing it?")
        into, start = into[read:], start + read
