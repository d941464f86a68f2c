"""What a source is stored as: columns on disk, a user's own files of lines or what was read out of other containers."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langadapt.corpus import parts
from langadapt.corpus.columns import write_columns
from langadapt.corpus.parts import Arrays, Part
from langadapt.corpus.reading import Bad, Dropped, TextRow, TurnRow, open_bytes, read_rows
from langadapt.corpus.reading.hub import is_folder, resolve_commit
from langadapt.files import atomic_path, require_file
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.sources import COMPRESSED, FieldsSource, LinesSource, PairsSource, Source, languages_of

TURNS = "turns"  # the one column of a source of instructions: records, a JSON text each
EXAMPLES = 3  # of each reason in the report


@dataclass
class StoredSource:
    """A source as columns on disk: the files of a user as they are, or what was read out of them."""

    source: Source
    files: dict[str, Path]
    encoded: bool
    parts: list[Part]
    counts: Path | None  # the part that says what reading dropped


def source_files(source: Source, data_dir: str) -> list[Path]:
    """Return the files that a source is read from, as far as they are there; none of a data set."""
    root = Path(data_dir).expanduser()
    names = source.files.values() if isinstance(source, LinesSource) else source.file
    places = [str(root / Path(name).expanduser()) for name in names]
    found = dict.fromkeys(path for place in places for path in (place, *sorted(glob.glob(place))))
    return [path for path in map(Path, found) if path.is_file()]


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
    mark = parts.fingerprint(source.model_dump(mode="json"), *paths)
    codes = languages_of(source) if isinstance(source, FieldsSource | PairsSource) else [TURNS]
    targets = {code: folder / f"{name}-{code}-{mark}.jsonl" for code in codes}
    size = sum(path.stat().st_size for path in paths)
    counts = folder / f"{name}-{mark}.npz"
    part = Part(counts, _store_records, (source, settings.data_dir, way_out, targets), size)
    return StoredSource(source, targets, True, [part], counts)


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


def _store_records(source: Source, data_dir: str, way_out: str, targets: dict[str, Path]) -> Arrays:
    """Write the texts of a source as columns; return the number of each record, what was dropped, and the revision."""
    source, revision = _pinned(source, data_dir)
    numbers: list[int] = []
    directions: list[str] = []
    dropped: dict[str, list[Any]] = {}
    bad: list[Bad] = []

    def kept() -> Iterator[dict[str, str]]:
        for row in read_rows(source, data_dir, way_out):
            if isinstance(row, Bad):
                bad.append(row)
            elif isinstance(row, Dropped):
                entry = dropped.setdefault(row.reason, [0, []])
                entry[0] += 1
                if len(entry[1]) < EXAMPLES:
                    entry[1].append([row.number, row.excerpt])
            else:
                numbers.append(row.number)
                if isinstance(row, TurnRow):
                    directions.append(f"{row.source_lang}-{row.target_lang}")
                yield row.texts if isinstance(row, TextRow) else {TURNS: json.dumps(row.record, ensure_ascii=False)}

    write_columns(targets, kept())
    return {
        "numbers": np.array(numbers, np.int64),
        "directions": np.array(directions, np.str_),
        "dropped": np.array(json.dumps(dropped, ensure_ascii=False)),
        "bad": np.array(json.dumps([vars(record) for record in bad], ensure_ascii=False)),
        "revision": np.array(json.dumps(revision)),
    }


def _pinned(source: Source, data_dir: str) -> tuple[Source, dict[str, str | None] | None]:
    """Return a source with the revision of its data set resolved, so that the commit recorded is the one read.

    Beside it stands what was ``asked`` for and the ``commit``, None where that is unknown; nothing for local data.
    """
    if isinstance(source, LinesSource) or source.dataset is None or is_folder(source.dataset, data_dir):
        return source, None
    commit = resolve_commit(source.dataset)
    revision = {"asked": source.dataset.revision, "commit": commit}
    if commit is None:
        return source, revision
    dataset = source.dataset.model_copy(update={"revision": commit})
    return source.model_copy(update={"dataset": dataset}), revision


def recorded_bad(source: StoredSource) -> list[Bad]:
    """Return the records of a source that could not be read, once its parts are done; none for files of lines."""
    return [Bad(**entry) for entry in json.loads(str(parts.load(source.counts)["bad"]))] if source.counts else []
