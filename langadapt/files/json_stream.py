"""JSON records one at a time: from a line, or out of an array of any size and any layout.

What cannot be read becomes a `Bad` with its place and the reason, and reading goes on with the next record.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from langadapt.errors import UserError

_Record = dict[str, Any]
_BLOCK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_NEARLY = 16  # characters; longer than anything but a string that JSON can be cut within
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Bad:
    """A record that cannot be read. ``line`` counts from 1, in rows where the file has no lines (Parquet)."""

    file: str
    line: int
    reason: str
    excerpt: str


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line, to recognise a record by; what is no character becomes ``?``."""
    return " ".join(text[:200].split())[:100].encode("utf-8", "replace").decode()


def is_text(text: str) -> bool:
    """Say whether a string is text that UTF-8 can hold, without half surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_record(text: str) -> _Record:
    """Return the JSON object in ``text``; raise `ValueError` with the reason for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None
    return _checked(value, text)


def check_characters(record: _Record) -> None:
    """Refuse half a surrogate pair: JSON can spell it (``\\ud800``), but it is no character, and no UTF-8 holds it.

    Raises `ValueError` naming the first.
    """
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise ValueError(f"{half} is half a character (a lone surrogate)") from None


def stream_json_array(path: str | Path, handle: BinaryIO, way_out: str) -> Iterator[tuple[int, _Record] | Bad]:
    """Yield ``(line it starts at, record)`` or `Bad` for each record of the JSON array that ``handle`` holds.

    Memory holds a block of the file, or its longest record. After broken JSON, reading goes on at the next line that
    opens a record as the broken one was opened: ``{`` after the same indentation. Raises `UserError`, naming ``path``
    and the line, for anything but an array, for one cut short, and after broken JSON within a line.
    """
    window = _Window(handle)
    if window.next_character() == "\ufeff":
        window.skip_to(1)
    if window.next_character() != "[":
        raise UserError(f"{path}: expected a JSON array of records. {way_out}")
    window.skip_to(window.start + 1)
    while (character := window.next_character()) != "]":
        line, indent = window.line, window.indent
        if not character:
            raise UserError(f"{path}, line {line}: cut short, the closing bracket is missing. {way_out}")
        try:
            value, end = window.decode()
        except (ValueError, RecursionError) as error:
            reason, beginning = _reason(error, line, window.start), excerpt(window.text[window.start :][:200])
            if indent is None:
                raise UserError(
                    f"{path}, line {line}: {reason} in {beginning!r}, and no line break to go on from. {way_out}"
                ) from None
            yield Bad(str(path), line, reason, beginning)
            window.skip_past(f"\n{indent}{{")
        else:
            raw = window.text[window.start : end]
            window.skip_to(end)
            try:
                item: tuple[int, _Record] | Bad = (line, _checked(value, raw))
            except ValueError as error:
                item = Bad(str(path), line, str(error), excerpt(raw))
            yield item if is_text(raw) else Bad(str(path), line, "not valid UTF-8", excerpt(raw))
        if window.next_character() == ",":
            window.skip_to(window.start + 1)
    window.skip_to(window.start + 1)
    if window.next_character():
        raise UserError(f"{path}, line {window.line}: the array has ended, but the file goes on. {way_out}")


class _Window:
    """The part of a file that is being parsed: ``text`` from ``start`` on, which is in line ``line`` of the file."""

    def __init__(self, handle: BinaryIO) -> None:
        self.text, self.start, self.line = "", 0, 1
        self.indent: str | None = None  # between the last line break and start; None where other text stands there
        self._handle = handle
        # A byte that is no UTF-8 becomes half a surrogate pair, so that only the record it stands in is refused.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def more(self) -> bool:
        """Drop what is before ``start`` and read on; False at the end of the file.

        At least as much is read as is kept, so that a record of many blocks is not parsed again at each of them.
        """
        block = self._handle.read(max(_BLOCK, 2 * (len(self.text) - self.start)))
        if not block:
            return False
        self.text, self.start = self.text[self.start :] + self._decoder.decode(block), 0
        return True

    def skip_to(self, position: int) -> None:
        self.line += self.text.count("\n", self.start, position)
        self.start = position

    def next_character(self) -> str:
        """Skip white space and return what is there; empty at the end of the file."""
        while (end := _space_end(self.text, self.start)) == len(self.text) and self.more():
            pass
        space = self.text[self.start : end]
        self.indent = space.rpartition("\n")[2] if "\n" in space else None
        self.skip_to(end)
        return self.text[end : end + 1]

    def decode(self) -> tuple[Any, int]:
        """Return the value at ``start`` and where it ends; raise what `json` raises if it is broken."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.start)
            except json.JSONDecodeError as error:
                # What is cut by the end of the block fails there, but for a string, which fails where it starts.
                cut = error.pos > len(self.text) - _NEARLY or error.msg.startswith("Unterminated string")
                if not (cut and self.more()):
                    raise
            else:
                if end < len(self.text) or not self.more():
                    return value, end

    def skip_past(self, opening: str) -> None:
        """Go to the next ``opening`` after ``start``; where there is none, to the last bracket, or the end."""
        self.skip_to(self.start + 1)
        while (found := self.text.find(opening, self.start)) < 0:
            self.skip_to(max(self.start, len(self.text) - 100))
            if not self.more():
                found = self.text.rfind("]", self.start)
                break
        self.skip_to(found if found >= 0 else len(self.text))


def _space_end(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    assert match
    return match.end()


def _reason(error: Exception, line: int = 1, start: int = 0) -> str:
    """Say what is wrong with JSON that starts at ``start`` of what was parsed, in line ``line`` of its file."""
    if isinstance(error, json.JSONDecodeError):
        down = error.doc.count("\n", start, error.pos)
        place = f"line {line + down}" if down else f"column {error.pos - start + 1}"
        return f"broken JSON ({error.msg}, {place})"
    return "JSON nested too deeply" if isinstance(error, RecursionError) else f"broken JSON ({error})"


def _checked(value: Any, raw: str) -> _Record:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    if "\\u" in raw:
        check_characters(value)
    return value
