"""Texts of any number on disk, read at random: the lines of a file, at 8 bytes of memory a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langadapt.files import atomic_path

CHUNK_BYTES = 1 << 24  # of a column, for one worker at a time


class Column:
    """The texts of one source in one language. Rows count from 0; line n of the file is row n - 1.

    ``offsets`` are the byte at which each line starts, and the size of the file. In a column that was written here
    each line is a JSON string, since a text may hold line breaks.
    """

    def __init__(self, path: Path, offsets: NDArray[np.int64], encoded: bool) -> None:
        self.path, self.offsets, self.encoded = path, offsets, encoded

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of some rows. They are not mapped into memory: pages of a map count as a process's own."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            return [self._read_one(handle, int(row)) for row in rows]
        finally:
            os.close(handle)

    def _read_one(self, handle: int, row: int) -> str:
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        line = os.pread(handle, stop - start, start).removesuffix(b"\n")
        return decode_line(line, row == 0, self.encoded, errors="replace")  # the scan has told which lines those are


def decode_line(line: bytes, first: bool, encoded: bool, errors: str = "strict") -> str:
    """Return the text of a line without its end; raises `UnicodeDecodeError` for bytes that are no UTF-8."""
    text = line.decode("utf-8-sig" if first else "utf-8", errors)
    return str(json.loads(text)) if encoded else text


def write_columns(paths: Mapping[str, Path], rows: Iterable[Mapping[str, str]]) -> None:
    """Write one column of JSON strings for each key of the rows, each file atomically."""
    with ExitStack() as stack:
        temporary = {key: stack.enter_context(atomic_path(path)) for key, path in paths.items()}
        handles = {
            key: stack.enter_context(open(path, "w", encoding="utf-8", newline="\n")) for key, path in temporary.items()
        }
        for row in rows:
            for key, handle in handles.items():
                handle.write(json.dumps(row[key], ensure_ascii=False) + "\n")


def chunks(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of a file's chunks; the lines that start in a range are those of the chunk."""
    size = path.stat().st_size
    for start in range(0, size, CHUNK_BYTES):
        yield start, min(start + CHUNK_BYTES, size)


def read_chunk(path: Path, start: int, stop: int) -> tuple[list[bytes], NDArray[np.int64]]:
    """Return the lines that start in a byte range, without their ends, and where each starts."""
    with open(path, "rb") as handle:
        handle.seek(max(0, start - 1))
        if start:
            handle.readline()  # the line before; only its end where one starts right here
        begin = handle.tell()
        if begin >= stop:
            return [], np.zeros(0, np.int64)
        data = handle.read(stop - begin)
        if not data.endswith(b"\n"):
            data += handle.readline()
    lines = data.removesuffix(b"\n").split(b"\n")
    lengths = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
    return lines, begin + np.cumsum(lengths) - lengths
