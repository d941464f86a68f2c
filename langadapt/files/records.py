"""Text lines and JSON records, read with the file and line of whatever is wrong with them.

Lines end at the byte ``\\n`` and nowhere else. `str.splitlines` would also split at U+2028 and U+0085, which occur
inside documents, and shift every line number after them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from langadapt.errors import UserError
from langadapt.files.atomic import atomic_path
from langadapt.files.json_stream import Bad, check_characters, parse_record, stream_json_array

Record = dict[str, Any]


def require_file(path: str | Path, way_out: str = "Check the path.") -> Path:
    """Return ``path`` as a `Path`; raise `UserError` when it is no file or holds nothing."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. {way_out}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty. {way_out}")
    return path


def read_lines(path: str | Path, way_out: str = "Check the path.") -> Iterator[tuple[int, str]]:
    """Yield ``(line number from 1, line without its end)`` of a UTF-8 file, one line in memory at a time.

    Raises `UserError` for a missing or empty file and for bytes that are no UTF-8, naming the line.
    """
    with open(require_file(path, way_out), "rb") as handle:
        for number, raw in enumerate(handle, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not valid UTF-8 (byte {error.start} of the line is "
                    f"0x{raw[error.start]:02x}). Convert the file, e.g. iconv -f ENCODING -t UTF-8."
                ) from None
            yield number, line.rstrip("\r\n")


def read_jsonl(path: str | Path, way_out: str = "Check the path.") -> Iterator[tuple[int, Record]]:
    """Yield ``(line number, record)`` of a file with one JSON object a line; blank lines are skipped."""
    for number, line in read_lines(path, way_out):
        if line.strip():
            yield number, _parse_record(path, number, line)


def read_json_file(path: str | Path, way_out: str = "Check the path.") -> Any:
    """Return the parsed content of a JSON file; raise `UserError` naming the line of what is broken."""
    raw = require_file(path, way_out).read_bytes()
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not valid UTF-8. Convert the file to UTF-8.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: broken JSON ({error.msg}). {way_out}") from None


def read_json_object(path: str | Path, way_out: str = "Check the path.") -> dict[str, Any]:
    """Return the JSON object in a file; raise `UserError` for anything else."""
    value = read_json_file(path, way_out)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}. {way_out}")
    return value


def read_json_array(path: str | Path, way_out: str = "Check the path.") -> list[Record]:
    """Return the records of a JSON array of objects; raise `UserError` for anything else."""
    value = read_json_file(path, way_out)
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a JSON array of records, found {type(value).__name__}. {way_out}")
    for position, record in enumerate(value, start=1):
        if not isinstance(record, dict):
            raise UserError(f"{path}, record {position}: expected an object, found {type(record).__name__}.")
        _require_characters(record, f"{path}, record {position}")
    return value


def iter_json_array(path: str | Path, way_out: str = "Check the path.") -> Iterator[Record]:
    """Yield the records of a JSON array of objects, one in memory at a time; raise `UserError` for anything else.

    Errors name the line where the file has one record a line, as `write_json_array` writes, else the record.
    """
    with open(require_file(path, way_out), "rb") as handle:
        first = handle.readline(16)  # no more: an array may be one line
    if first.removeprefix(b"\xef\xbb\xbf").strip() != b"[":
        yield from _iter_by_record(path, way_out)
        return
    lines = read_lines(path, way_out)
    next(lines)
    closed = False
    for number, line in lines:
        text = line.strip().removesuffix(",")
        if number == 2 and not (text.startswith("{") and text.endswith("}")):
            yield from _iter_by_record(path, way_out)
            return
        closed = text == "]"
        if not closed:
            yield _parse_record(path, number, text)
    if not closed:
        raise UserError(f"{path}: cut short, the closing bracket is missing. {way_out}")


def write_json_array(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as a JSON array with one record a line, atomically; return how many there were."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as handle:
        handle.write("[")
        for record in records:
            handle.write(",\n" if count else "\n")
            handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False))
            count += 1
        handle.write("\n]\n")
    return count


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _iter_by_record(path: str | Path, way_out: str) -> Iterator[Record]:
    with open(path, "rb") as handle:
        for number, item in enumerate(stream_json_array(path, handle, way_out), start=1):
            if isinstance(item, Bad):
                raise UserError(f"{path}, record {number}: {item.reason}. Mend or delete the record.")
            yield item[1]


def _parse_record(path: str | Path, number: int, line: str) -> Record:
    try:
        return parse_record(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: {error}. Mend or delete the line.") from None


def _require_characters(record: Record, place: str) -> None:
    try:
        check_characters(record)
    except ValueError as error:
        raise UserError(f"{place}: {error}. Mend or delete the record.") from None


def strings_in(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value, however deep: no key of a foreign layout has to be known."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)
