"""From the records of a source to rows: what each layout means."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from langadapt.corpus.reading.conversations import (
    BadRecordError,
    read_instruction,
    read_preference,
    text_of,
)
from langadapt.corpus.reading.hub import iter_dataset, place_of
from langadapt.corpus.reading.languages import direction_of, prepare
from langadapt.corpus.reading.rows import Dropped, TextRow, TurnRow
from langadapt.errors import UserError
from langadapt.files import Bad, excerpt, require_file
from langadapt.files.containers import iter_lines, iter_records, open_bytes
from langadapt.files.records import Record
from langadapt.recipe.sources import (
    FieldsSource,
    InstructionsSource,
    LinesSource,
    PairsSource,
    PreferencesSource,
    Source,
    is_pattern,
)

Row = TextRow | TurnRow | Dropped
RecordSource = FieldsSource | PairsSource | InstructionsSource | PreferencesSource

_BLANK = "blank in every language"
_HALF = "blank in at least one language"
_PAIR_COLUMNS = ("source", "target", "source_lang")


def read_rows(source: Source, data_dir: str, way_out: str) -> Iterator[Row | Bad]:
    """Yield what a source holds, record by record in the order of its files, all texts as `prepare` returns them.

    A record that cannot be read is a `Bad`, one of no use a `Dropped`; a record with text in some of its languages only
    has empty texts in the others. The lines of a `lines` source belong together
    by number here; files to be re-aligned are not read this way. Memory does not grow with the files, but by about
    100 bytes a pair of a `pairs` source. Raises `UserError`, with ``way_out``, for files that are missing, empty or
    damaged beyond the record.
    """
    if isinstance(source, LinesSource):
        return _read_lines(source, data_dir, way_out)
    return _read_records(source, data_dir, way_out)


def _read_lines(source: LinesSource, data_dir: str, way_out: str) -> Iterator[Row | Bad]:
    paths = {code: require_file(_below(data_dir, name), way_out) for code, name in source.files.items()}
    if len(paths) > 1 and source.align != "never":
        raise ValueError("files with `align: auto` are read by the aligner")
    with ExitStack() as stack:
        files = [iter_lines(path, stack.enter_context(open_bytes(path))) for path in paths.values()]
        for number, lines in enumerate(islice(zip_longest(*files), source.limit), start=1):
            if None in lines:
                short = list(paths.values())[lines.index(None)]
                raise UserError(
                    f"{short} ends before line {number}, another file of the source does not: with `align: never` all "
                    "must have the same number of lines. Mend them, or set `align: auto`."
                )
            bad = next((line for line in lines if isinstance(line, Bad)), None)
            texts = {code: line[1] for code, line in zip(paths, lines, strict=True) if isinstance(line, tuple)}
            yield bad or _text_row(source, number, {}, texts)


def _read_records(source: RecordSource, data_dir: str, way_out: str) -> Iterator[Row | Bad]:
    read = _reader(source)
    number = 0
    for number, (place, item) in enumerate(islice(_records(source, data_dir, way_out), source.limit), start=1):
        if isinstance(item, Bad):
            yield item
            continue
        line, record = item
        try:
            row: Row | Bad = read(number, record)
        except BadRecordError as error:
            row = Bad(place, line, str(error), excerpt(json.dumps(record, ensure_ascii=False, default=str)))
        yield row
    if not number:
        places = ", ".join(source.file) if source.dataset is None else place_of(source.dataset)
        raise UserError(f"{places}: no records in it. {way_out}")


def _records(source: RecordSource, data_dir: str, way_out: str) -> Iterator[tuple[str, tuple[int, Record] | Bad]]:
    """Yield each record with the name of its file, the files one after the other."""
    required = _columns(source)
    if source.dataset is not None:
        place = place_of(source.dataset)
        yield from ((place, item) for item in iter_dataset(source.dataset, data_dir, required))
    for name in source.file:
        path = _below(data_dir, name)
        matches = files_matching(path)
        if not matches:
            raise UserError(f"{path}: no file matches. {way_out}")
        for path in matches:
            yield from ((str(path), item) for item in iter_records(path, way_out, source.columns, required))


def _columns(source: RecordSource) -> tuple[str, ...]:
    if not isinstance(source, FieldsSource | PairsSource):
        return ()
    texts = tuple(source.fields.values()) if isinstance(source, FieldsSource) else _PAIR_COLUMNS
    return texts if source.document is None else (*texts, source.document)


def _below(data_dir: str, name: str) -> Path:
    return Path(data_dir).expanduser() / Path(name).expanduser()


def files_matching(path: Path) -> list[Path]:
    """Return the files that a name stands for, in order; a file whose own name has brackets is itself.

    A name that is no pattern is returned whether there is such a file or not.
    """
    if path.exists() or not is_pattern(str(path)):
        return [path]
    return sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())


def _reader(source: RecordSource) -> Callable[[int, Record], Row]:
    if isinstance(source, FieldsSource):
        return partial(_read_fields, source)
    if isinstance(source, PairsSource):
        return partial(_read_pair, source, {code: set() for code in source.languages})
    return partial(_read_turns, source)


def _read_fields(source: FieldsSource, number: int, record: Record) -> Row:
    _require_keys(record, tuple(source.fields.values()))
    texts = {code: text_of(record, column) for code, column in source.fields.items()}
    return _text_row(source, number, record, texts)


def _read_pair(source: PairsSource, seen: dict[str, set[bytes]], number: int, record: Record) -> Row:
    _require_keys(record, _PAIR_COLUMNS)
    asked, text, translation = (text_of(record, key) for key in ("source_lang", "source", "target"))
    if asked not in source.languages:
        return Dropped(number, f"not routed: source_lang is {asked!r}", excerpt(text))
    answered = next(code for code in source.languages if code != asked)
    row = _text_row(source, number, record, {asked: text, answered: translation})
    if isinstance(row, Dropped):
        return row
    if not all(row.texts.values()):
        return Dropped(number, _HALF, excerpt(" | ".join(row.texts.values())))
    texts = {code: row.texts[code] for code in source.languages}
    digest = blake2b("\0".join(texts.values()).encode(), digest_size=16).digest()
    if digest in seen[answered]:
        return Dropped(number, "the same pair the other way round", excerpt(text))
    seen[asked].add(digest)
    return TextRow(number, row.key, texts, row.document)


def _text_row(
    source: LinesSource | FieldsSource | PairsSource, number: int, record: Record, texts: dict[str, str]
) -> TextRow | Dropped:
    prepared = {code: prepare(text, code, source.convert.get(code)) for code, text in texts.items()}
    if not any(prepared.values()):
        return Dropped(number, _BLANK, "")
    return TextRow(number, _key(record), prepared, _document(source, record))


def _read_turns(source: InstructionsSource | PreferencesSource, number: int, record: Record) -> TurnRow | Dropped:
    found = read_instruction(record) if isinstance(source, InstructionsSource) else read_preference(record)
    asked = "\n".join(part for part in (found.instruction.strip(), found.input.strip()) if part)
    if not asked:
        return Dropped(number, "no instruction", excerpt(found.output))
    if not found.output.strip():
        return Dropped(number, "no output", excerpt(asked))
    source_lang, target_lang = direction_of(asked, found.output, source.languages, source.routes)
    if source_lang is None or target_lang is None:
        reason = f"not routed: asked in {source_lang or '?'}, answered in {target_lang or '?'}"
        return Dropped(number, reason, excerpt(f"{asked} | {found.output}"))
    of_user = partial(prepare, language=source_lang, convert=source.convert.get(source_lang))
    of_assistant = partial(prepare, language=target_lang, convert=source.convert.get(target_lang))
    instruction, task_input = of_user(found.instruction), of_user(found.input)
    turns: dict[str, Any] = {
        "instruction": instruction or task_input,
        "input": task_input if instruction else "",
        "output": of_assistant(found.output),
    }
    if found.system.strip():
        turns["system"] = of_user(found.system)
    if found.history:
        turns["history"] = [[of_user(user), of_assistant(assistant)] for user, assistant in found.history]
    if found.rejected is not None:
        turns["rejected"] = of_assistant(found.rejected)
        if not turns["rejected"]:
            return Dropped(number, "no rejected answer", excerpt(asked))
        if turns["rejected"] == turns["output"]:
            return Dropped(number, "the rejected answer is the chosen one", excerpt(asked))
    return TurnRow(number, _key(record), turns, source_lang, target_lang)


def _require_keys(record: Record, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        raise BadRecordError(f"no column {', '.join(map(repr, missing))}")


def _document(source: LinesSource | FieldsSource | PairsSource, record: Record) -> str | None:
    if isinstance(source, LinesSource) or source.document is None:
        return None
    value = record.get(source.document)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise BadRecordError(f"`{source.document}` is {type(value).__name__}, expected the name of a document")
    return None if value is None else str(value).strip() or None


def _key(record: Record) -> str | None:
    value = record.get("id")
    return str(value) if isinstance(value, str | int) and value != "" else None
