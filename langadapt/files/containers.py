"""From files to records: text, TSV, CSV, JSON, JSON Lines and Parquet, plain or compressed, one record at a time."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from langadapt.errors import UserError
from langadapt.files.json_stream import Bad, excerpt, is_text, parse_record, stream_json_array
from langadapt.files.records import Record, require_file
from langadapt.files.suffixes import COMPRESSED, CONTAINERS, container_of

Item = tuple[int, Record] | Bad

BATCH = 1024  # rows of Parquet turned into Python objects at a time
_BUFFER = 1 << 20
# A quote that is never closed makes one cell of the rest of a CSV file; this many characters bound the memory it takes.
_LONGEST_CELL = 1 << 24


def open_bytes(path: str | Path) -> io.BufferedReader:
    """Open a file to read its bytes, unpacked where the name ends in .gz or .zst.

    Reading raises `UserError`, naming the file and the place, where the packed data are damaged or cut short.
    """
    packed = COMPRESSED.get(Path(path).suffix)
    raw = _Unpacked(path, pa.CompressedInputStream(pa.OSFile(str(path)), packed)) if packed else io.FileIO(path)
    return io.BufferedReader(raw, buffer_size=_BUFFER)


class _Unpacked(io.RawIOBase):
    """Arrow's decompressor as a raw stream: unlike the usual bindings for zstd it notices that a file is cut short."""

    def __init__(self, path: str | Path, stream: pa.CompressedInputStream) -> None:
        self._path, self._stream, self._read = path, stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self._stream.readinto(buffer))
        except OSError as error:
            raise UserError(
                f"{self._path}: damaged after {self._read:,} bytes of what is packed in it ({error}). "
                "Fetch the file again."
            ) from None
        self._read += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def iter_lines(path: str | Path, handle: io.BufferedReader) -> Iterator[tuple[int, str] | Bad]:
    """Yield ``(line number from 1, line without its end)``, or `Bad` for a line that is not UTF-8.

    Lines end at the byte ``\\n`` alone; a byte order mark and the ``\\r`` of Windows go.
    """
    for number, raw in enumerate(handle, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"not valid UTF-8 (byte {error.start} of the line is 0x{raw[error.start]:02x})"
            yield Bad(str(path), number, reason, excerpt(raw.decode("utf-8", "replace")))
        else:
            yield number, line.rstrip("\r\n")


def iter_records(
    path: Path, way_out: str, columns: Sequence[str] | None = None, required: Sequence[str] = ()
) -> Iterator[Item]:
    """Yield ``(line it starts at, record)`` or `Bad` for each record of a file; the suffix tells the container.

    Plain text gives records with the one column ``text``. ``columns`` names the cells of a TSV or CSV without a
    header line. Parquet counts rows, and only the ``required`` columns are read from it, and ``id``. Raises
    `UserError` for a file that is missing, empty, of unknown kind or damaged, and for columns that are not there.
    """
    require_file(path, way_out)
    container = container_of(path.name)
    if container is None:
        raise UserError(f"{path}: the suffix is not known; known are {', '.join(CONTAINERS)}, also as .gz or .zst.")
    with open_bytes(path) as handle:
        if container == "json":
            yield from _iter_json(path, handle, way_out)
        elif container == "jsonl":
            yield from _iter_jsonl(path, handle)
        elif container == "parquet":
            yield from _iter_parquet(path, handle, required, way_out)
        elif container == "text":
            for item in iter_lines(path, handle):
                yield item if isinstance(item, Bad) else (item[0], {"text": item[1]})
        else:
            rows = _iter_csv(path, handle) if container == "csv" else _iter_tsv(path, handle)
            yield from _named(path, rows, columns, required)


def read_records(path: Path, way_out: str, required: Sequence[str]) -> Iterator[tuple[int, Record]]:
    """Yield `iter_records` of a file in which every record has to be whole: a broken one raises `UserError`."""
    for item in iter_records(path, way_out, required=required):
        if isinstance(item, Bad):
            raise UserError(f"{path}, line {item.line}: {item.reason}. Mend or delete the record.")
        yield item


def arrow_records(place: str, batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Item]:
    """Yield ``(row number from 1, record)`` of Arrow batches, or `Bad` for a row with text that is not UTF-8."""
    number = 0
    for batch in batches:
        try:
            records: list[Record | None] = batch.to_pylist()
        except UnicodeDecodeError:
            records = [_row(batch, index) for index in range(batch.num_rows)]
        for record in records:
            number += 1
            yield (number, record) if record is not None else Bad(place, number, "not valid UTF-8", "")


def require_columns(place: str | Path, names: Sequence[str], required: Sequence[str]) -> None:
    """Raise `UserError` where columns that a recipe names are not among those that a file has."""
    missing = [column for column in required if column not in names]
    if missing:
        raise UserError(
            f"{place}: no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, names))}. Name "
            "them as they stand in the file; for a .tsv or .csv without a header line, list its `columns`."
        )


def _iter_json(path: Path, handle: io.BufferedReader, way_out: str) -> Iterator[Item]:
    """An array; or, as many data sets on the hub have it, JSON Lines by the name of .json."""
    if handle.peek(1).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
        yield from stream_json_array(path, handle, way_out)
        return
    items = _iter_jsonl(path, handle)
    first = next(items)
    if isinstance(first, Bad):
        raise UserError(f"{path}: neither a JSON array of records nor one record a line. {way_out}")
    yield first
    yield from items


def _iter_jsonl(path: Path, handle: io.BufferedReader) -> Iterator[Item]:
    for item in iter_lines(path, handle):
        if isinstance(item, Bad):
            yield item
        elif item[1].strip():
            try:
                yield item[0], parse_record(item[1])
            except ValueError as error:
                yield Bad(str(path), item[0], str(error), excerpt(item[1]))


def _iter_tsv(path: Path, handle: io.BufferedReader) -> Iterator[tuple[int, list[str]] | Bad]:
    """Quotes are text here, as in text/tab-separated-values (IANA): sentences do begin with one."""
    for item in iter_lines(path, handle):
        if isinstance(item, Bad):
            yield item
        elif item[1]:
            yield item[0], item[1].split("\t")


def _iter_csv(path: Path, handle: io.BufferedReader) -> Iterator[tuple[int, list[str]] | Bad]:
    csv.field_size_limit(_LONGEST_CELL)  # of the whole process: the module has no other
    with io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                # A quote that is not closed takes lines with it: each is a record lost.
                reason = f"broken CSV ({error}, lines {line} to {reader.line_num})"
                yield from (Bad(str(path), lost, reason, "") for lost in range(line, reader.line_num + 1))
                continue
            if cells is None:
                return
            if not is_text("".join(cells)):
                yield Bad(str(path), line, "not valid UTF-8", excerpt(",".join(cells)))
            elif cells:
                yield line, cells


def _named(
    path: Path,
    rows: Iterator[tuple[int, list[str]] | Bad],
    columns: Sequence[str] | None,
    required: Sequence[str],
) -> Iterator[Item]:
    """Give the cells of each row their names, which stand in the first row unless ``columns`` has them."""
    names = columns
    for row in rows:
        if names is None:
            if isinstance(row, Bad):
                raise UserError(f"{path}, line {row.line}: the header line cannot be read: {row.reason}.")
            names = row[1]
            if len(set(names)) < len(names):
                raise UserError(f"{path}, line {row[0]}: a column twice in the header line: {', '.join(names)}.")
            require_columns(path, names, required)
        elif isinstance(row, Bad):
            yield row
        elif len(row[1]) != len(names):
            reason = f"{len(row[1])} cells, expected {len(names)} ({', '.join(names)})"
            yield Bad(str(path), row[0], reason, excerpt(" | ".join(row[1])))
        else:
            yield row[0], dict(zip(names, row[1], strict=True))


def _iter_parquet(path: Path, handle: BinaryIO, required: Sequence[str], way_out: str) -> Iterator[Item]:
    import pyarrow.parquet as parquet

    if not handle.seekable():  # Parquet is read from its end, which a packed file does not give away
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(handle, unpacked, _BUFFER)
            yield from _iter_parquet(path, unpacked, required, way_out)
        return
    try:
        # Both settings are needed for memory not to grow with the row groups, which may be as large as the file.
        file = parquet.ParquetFile(handle, buffer_size=_BUFFER, pre_buffer=False)
        names = file.schema_arrow.names
        require_columns(path, names, required)
        wanted = [name for name in names if name in (*required, "id")] if required else None
        yield from arrow_records(str(path), file.iter_batches(BATCH, columns=wanted))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged or no Parquet file ({error}). {way_out}") from None


def _row(batch: pa.RecordBatch | pa.Table, index: int) -> Record | None:
    try:
        return batch.slice(index, 1).to_pylist()[0]  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return None
