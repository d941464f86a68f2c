"""A text file with one document a line, read at random without holding it in memory."""

from __future__ import annotations

import codecs
import mmap
from pathlib import Path

import numpy as np

from langadapt.errors import UserError
from langadapt.files import require_file

_BLOCK = 1 << 24


class LineFile:
    """Random access to the lines of a UTF-8 file: 8 bytes of memory a line, whatever the size of the file.

    Lines end at the byte ``\\n`` alone and count from 0 here, from 1 in messages. Raises `UserError` for a missing or
    empty file and for bytes that are no UTF-8, naming the line.
    """

    def __init__(self, path: str | Path, way_out: str) -> None:
        self.path = require_file(path, way_out)
        self._starts = _line_starts(self.path)
        with open(self.path, "rb") as handle:
            self._bytes = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        line = self._bytes[self._starts[index] : self._starts[index + 1]].decode("utf-8")
        return line.removeprefix("\ufeff").strip()


def _line_starts(path: Path) -> np.ndarray:
    """Return the byte offset of every line and of the end, checking on the way that the file is UTF-8."""
    offsets = [np.zeros(1, dtype=np.int64)]
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            offsets.append(ends + position + 1)
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                _raise_not_utf8(path, position + len(block), str(error.reason))
            position += len(block)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        _raise_not_utf8(path, position, str(error.reason))
    starts = np.concatenate(offsets)
    return starts if starts[-1] == position else np.append(starts, position)


def _raise_not_utf8(path: Path, upto: int, reason: str) -> None:
    """Find the first line before the byte ``upto`` that does not decode, and raise."""
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(
                    f"{path}, line {number}: not valid UTF-8 ({reason}). Convert it, e.g. iconv -f ENCODING -t UTF-8."
                ) from None
    raise AssertionError(f"{path}: changed while it was read (up to byte {upto})")
