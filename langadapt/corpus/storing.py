"""What a source is stored as: columns on disk, a user's own files of lines or what was read out of other containers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langadapt.corpus import parts
from langadapt.corpus.columns import write_columns
from langadapt.corpus.parts import Arrays, Part
from langadapt.corpus.reading import Bad, Dropped, TextRow, TurnRow, files_matching, read_rows
from langadapt.corpus.reading.hub import folder_of, resolve_commit
from langadapt.corpus.turns import TURNS
from langadapt.errors import UserError
from langadapt.files import atomic_path, require_file
from langadapt.files.containers import open_bytes
from langadapt.files.suffixes import COMPRESSED
from langadapt.recipe.language import load_language
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.sources import FieldsSource, LinesSource, PairsSource, Source, languages_of

EXAMPLES = 3  # of each reason in the report
QUARANTINED = 1_000  # records of a source; more are counted only
_TELLING = 10_000  # records, from which on too many that cannot be read end the reading


@dataclass
class StoredSource:
    """A source as columns on disk: the files of a user as they are, or what was read out of them."""

    source: Source
    files: dict[str, Path]
    encoded: bool
    parts: list[Part]
    counts: Path | None  # the part that says what reading dropped


@dataclass(frozen=True)
class Unreadable:
    """What of a source's ``records`` (lines, in files of lines) cannot be read: ``count`` in all, and the ``first``."""

    first: list[Bad]
    count: int
    records: int

    def check(self, name: str, max_bad_ratio: float) -> None:
        """Raise `UserError`, naming the source and the first records, where these are too many."""
        if self.count > max_bad_ratio * self.records:
            shown = "".join(f"\n  {one.file}, line {one.line}: {one.reason}. {one.excerpt}" for one in self.first[:5])
            raise UserError(
                f"source {name}: {self.count:,} of {self.records:,} records cannot be read, more than max_bad_ratio="
                f"{max_bad_ratio:g} allows. Mend or convert the file (e.g. iconv -f ENCODING -t UTF-8), or raise "
                f"max_bad_ratio to leave them out. The first:{shown}"
            )


def source_files(source: Source, data_dir: str) -> list[Path]:
    """Return the files that a source is read from, as far as they are there; none of a data set on the hub."""
    root = Path(data_dir).expanduser()
    if isinstance(source, LinesSource):
        paths = [root / Path(name).expanduser() for name in source.files.values()]
    elif source.dataset is not None:
        paths = sorted(folder_of(source.dataset, data_dir).rglob("*"))
    else:
        paths = [path for name in source.file for path in files_matching(root / Path(name).expanduser())]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def store(name: str, source: Source, settings: PreprocessSettings, way_out: str, folder: Path) -> StoredSource:
    """Return where the columns of a source are or will be, and the parts of work that bring them there."""
    root = Path(settings.data_dir).expanduser()
    if isinstance(source, LinesSource):
        files = {code: require_file(root / Path(file).expanduser(), way_out) for code, file in source.files.items()}
        packed = [path.suffix in COMPRESSED for path in files.values()]
        if not any(packed) and source.limit is None:
            return StoredSource(source, files, False, [], None)
        mark = parts.fingerprint(source.model_dump(mode="json"), *files.values())
        targets = {code: folder / f"{name}-{code}-{mark}.txt" for code in files}
        done = {code: folder / f"{name}-{code}-{mark}.lines.npz" for code in files}
        unpack = [
            Part(done[code], _unpack_lines, (path, targets[code], source.limit), path.stat().st_size)
            for code, path in files.items()
        ]
        return StoredSource(source, targets, False, unpack, None)
    paths = source_files(source, settings.data_dir)
    mark = parts.fingerprint(source.model_dump(mode="json"), profiles(languages_of(source)), *paths)
    codes = languages_of(source) if isinstance(source, FieldsSource | PairsSource) else [TURNS]
    targets = {code: folder / f"{name}-{code}-{mark}.jsonl" for code in codes}
    size = sum(path.stat().st_size for path in paths)
    counts = folder / f"{name}-{mark}.npz"
    part = Part(
        counts, _store_records, (name, source, settings.data_dir, way_out, targets, settings.max_bad_ratio), size
    )
    return StoredSource(source, targets, True, [part], counts)


def profiles(codes: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is known of some languages, on which every text of theirs depends, for `parts.fingerprint`."""
    return [load_language(code).model_dump(mode="json") for code in codes]


def _unpack_lines(path: Path, target: Path, limit: int | None) -> Arrays:
    """Write a packed file of lines, or its beginning, unpacked; bytes that are no UTF-8 stay what they are."""
    count = 0
    with open_bytes(path) as handle, atomic_path(target) as temporary, open(temporary, "wb") as output:
        for line in handle:
            if count == limit:
                break
            output.write(line)
            count += 1
    return {"lines": np.array(count)}


def _store_records(
    name: str, source: Source, data_dir: str, way_out: str, targets: dict[str, Path], max_bad_ratio: float
) -> Arrays:
    """Write the texts of a source as columns; return the number of each record, what was dropped, and the revision.

    Ends early, as `Unreadable.check` does, once it is clear that this is not the file that was meant.
    """
    source, revision = _pinned(source, data_dir)
    numbers: list[int] = []
    directions: list[str] = []
    documents: list[str] = []
    dropped: dict[str, list[Any]] = {}
    bad: list[Bad] = []
    seen = bad_count = 0

    def kept() -> Iterator[dict[str, str]]:
        nonlocal seen, bad_count
        for row in read_rows(source, data_dir, way_out):
            seen += 1
            if isinstance(row, Bad):
                bad_count += 1
                if len(bad) < QUARANTINED:
                    bad.append(row)
                elif seen >= _TELLING:
                    Unreadable(bad, bad_count, seen).check(name, max_bad_ratio)
            elif isinstance(row, Dropped):
                entry = dropped.setdefault(row.reason, [0, []])
                entry[0] += 1
                if len(entry[1]) < EXAMPLES:
                    entry[1].append([row.number, row.excerpt])
            else:
                numbers.append(row.number)
                if isinstance(row, TurnRow):
                    directions.append(f"{row.source_lang}-{row.target_lang}")
                else:
                    documents.append(row.document or "")
                yield row.texts if isinstance(row, TextRow) else {TURNS: json.dumps(row.record, ensure_ascii=False)}

    write_columns(targets, kept())
    return {
        "records": np.array(seen),
        "numbers": np.array(numbers, np.int64),
        "directions": np.array(directions, np.str_),
        "documents": np.array(documents, np.str_),
        "dropped": np.array(json.dumps(dropped, ensure_ascii=False)),
        "bad": np.array(json.dumps([vars(record) for record in bad], ensure_ascii=False)),
        "bad_count": np.array(bad_count),
        "revision": np.array(json.dumps(revision)),
    }


def _pinned(source: Source, data_dir: str) -> tuple[Source, dict[str, str | None] | None]:
    """Return a source with the revision of its data set resolved, so that the commit recorded is the one read.

    Beside it stands what was ``asked`` for and the ``commit``, None where that is unknown; nothing for local data.
    """
    if isinstance(source, LinesSource) or source.dataset is None or folder_of(source.dataset, data_dir).is_dir():
        return source, None
    commit = resolve_commit(source.dataset)
    revision = {"asked": source.dataset.revision, "commit": commit}
    if commit is None:
        return source, revision
    dataset = source.dataset.model_copy(update={"revision": commit})
    return source.model_copy(update={"dataset": dataset}), revision


def recorded_unreadable(counts: Path) -> Unreadable:
    """Return the records of a source that could not be read, from the part that counted them."""
    stored = parts.load(counts, "bad", "bad_count", "records")
    first = [Bad(**entry) for entry in json.loads(str(stored["bad"]))]
    return Unreadable(first, int(stored["bad_count"]), int(stored["records"]))
