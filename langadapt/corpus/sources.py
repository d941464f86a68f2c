"""Opening the sources of a recipe: every text scanned once, cleaned, told from its duplicates, and left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus import parts
from langadapt.corpus.cleaning import REASONS
from langadapt.corpus.columns import Column, chunks
from langadapt.corpus.duplicates import find_clusters
from langadapt.corpus.pairing import pair_lines
from langadapt.corpus.parts import Part
from langadapt.corpus.reading import Bad, prepare
from langadapt.corpus.scan import NOT_UTF8, ScanTask, scan_chunk
from langadapt.corpus.storing import EXAMPLES, TURNS, StoredSource, recorded_bad, store
from langadapt.errors import UserError
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.sources import LinesSource

Texts = dict[str, str]  # language code: the text in that language


@dataclass
class ScannedColumn:
    """A column and what the scan found out about each of its texts; ``cluster`` is the first text that equals it."""

    column: Column
    units: NDArray[np.int32]
    reasons: NDArray[np.uint8]
    exact: NDArray[np.uint64]
    part_paths: list[Path]
    base: int = 0  # number of the first text among the texts of all sources
    cluster: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def first(self) -> NDArray[np.bool_]:
        """Which texts are the first of their cluster."""
        first: NDArray[np.bool_] = self.cluster == self.base + np.arange(len(self.cluster))
        return first


@dataclass
class Collection:
    """One source. ``rows[k]`` are the column rows, by language, of its k-th document or record."""

    name: str
    columns: dict[str, ScannedColumn]
    rows: dict[str, NDArray[np.int64]]
    numbers: NDArray[np.int64]  # what ids are made of: line or record in the source, from 1
    convert: dict[str, str]
    report: dict[str, Any]
    directions: NDArray[np.str_] | None = None  # of instructions; None for a source of texts

    @property
    def size(self) -> int:
        """Documents or records."""
        return len(self.numbers)

    def usable(self, code: str) -> NDArray[np.bool_]:
        """Return which documents have a text in a language that passed every filter."""
        usable: NDArray[np.bool_] = self.columns[code].reasons[self.rows[code]] == 0
        return usable

    def first(self, code: str) -> NDArray[np.bool_]:
        """Return which documents have a text in a language that no text before equals."""
        return self.columns[code].first[self.rows[code]]

    def clusters(self, code: str) -> NDArray[np.int64]:
        """Return the cluster of every document's text in a language."""
        return self.columns[code].cluster[self.rows[code]]

    def read(self, documents: Sequence[int]) -> list[Texts]:
        """Return the texts of some documents, prepared; a text that is no UTF-8 is empty."""
        found: list[Texts] = [{} for _ in documents]
        for code, scanned in self.columns.items():
            rows = self.rows[code][list(documents)]
            readable = scanned.reasons[rows] != NOT_UTF8
            texts = iter(scanned.column.read(rows[readable].tolist()))
            for entry, ok in zip(found, readable, strict=True):
                text = next(texts) if ok else ""
                plain = scanned.column.encoded
                entry[code] = text if plain else prepare(text, code, self.convert.get(code))
        return found

    def read_records(self, documents: Sequence[int]) -> list[dict[str, Any]]:
        """Return some records of a source of instructions."""
        rows = self.rows[TURNS][list(documents)].tolist()
        return [json.loads(text) for text in self.columns[TURNS].column.read(rows)]


@dataclass(frozen=True)
class Sources:
    """Everything a recipe reads: its collections, what could not be read, and what deduplication found in all."""

    collections: list[Collection]
    quarantine: list[Bad]
    duplicates: dict[str, Any]


def open_sources(settings: PreprocessSettings, command: str, folder: Path) -> Sources:
    """Open every source of a recipe; finished work stays in ``folder`` for the next run, should this one be ended.

    ``command`` is what a user runs to get a file that is missing. The collections are in the recipe's order. Raises
    `UserError` for missing or empty files, and where more than `max_bad_ratio` of a source's records cannot be read,
    naming the first.
    """
    way_out = f"Get it with: {command}" if settings.download else "Check `data_dir` and `sources`."
    workers = parts.worker_count(settings.workers)
    stored = {name: store(name, source, settings, way_out, folder) for name, source in settings.sources.items()}
    parts.finish([part for source in stored.values() for part in source.parts], workers, "reading records")
    columns = {
        (name, code): _scan_parts(source, code, settings, folder)
        for name, source in stored.items()
        for code in source.files
    }
    parts.finish([part for some in columns.values() for part in some], workers, "scanning text")
    collections, quarantine = [], []
    for name, source in stored.items():
        scanned = {code: _gather(source, code, columns[name, code]) for code in source.files}
        unread = recorded_bad(source)
        bad = [*unread, *_bad_lines(source, scanned)]
        records = max(len(column.column) for column in scanned.values()) + len(unread)
        _check_bad_ratio(name, bad, records, settings)
        quarantine += bad
        collections.append(_collect(name, source, scanned))
    return Sources(collections, quarantine, _deduplicate(collections, settings))


def _scan_parts(source: StoredSource, code: str, settings: PreprocessSettings, folder: Path) -> list[Part]:
    path = source.files[code]
    language = None if code == TURNS else code
    task = ScanTask(
        path, source.encoded, language, source.source.convert.get(code), settings.cleaning, settings.deduplicate
    )
    of = [settings.cleaning.model_dump(), settings.deduplicate.model_dump(), task.convert, task.language, task.encoded]
    mark = parts.fingerprint(path, *of)
    return [
        Part(folder / f"scan-{mark}-{number}.npz", partial(scan_chunk, task), (start, stop), stop - start)
        for number, (start, stop) in enumerate(chunks(path))
    ]


def _gather(source: StoredSource, code: str, scans: list[Part]) -> ScannedColumn:
    """Put the chunks of a column together."""
    path = source.files[code]
    loaded = [parts.load(part.path) for part in scans]
    arrays = {
        key: np.concatenate([chunk[key] for chunk in loaded] or [np.zeros(0, kind)])
        for key, kind in (("starts", np.int64), ("units", np.int32), ("reasons", np.uint8), ("exact", np.uint64))
    }
    offsets = np.append(arrays["starts"], path.stat().st_size)
    column = Column(path, offsets, source.encoded)
    return ScannedColumn(column, arrays["units"], arrays["reasons"], arrays["exact"], [part.path for part in scans])


def _bad_lines(source: StoredSource, scanned: dict[str, ScannedColumn]) -> list[Bad]:
    return [
        Bad(str(source.files[code]), int(row) + 1, "not valid UTF-8", "")
        for code, column in scanned.items()
        for row in np.flatnonzero(column.reasons == NOT_UTF8)
    ]


def _check_bad_ratio(name: str, bad: list[Bad], records: int, settings: PreprocessSettings) -> None:
    if len(bad) > settings.max_bad_ratio * records:
        shown = "".join(f"\n  {one.file}, line {one.line}: {one.reason}. {one.excerpt}" for one in bad[:5])
        raise UserError(
            f"source {name}: {len(bad):,} of {records:,} records cannot be read, more than max_bad_ratio="
            f"{settings.max_bad_ratio:g} allows. Mend or convert the file (e.g. iconv -f ENCODING -t UTF-8), or raise "
            f"max_bad_ratio to leave them out. The first:{shown}"
        )


def _collect(name: str, source: StoredSource, scanned: dict[str, ScannedColumn]) -> Collection:
    report: dict[str, Any] = {}
    directions = None
    if source.counts:
        counts = parts.load(source.counts)
        numbers = counts["numbers"]
        rows = {code: np.arange(len(numbers)) for code in scanned}
        dropped = json.loads(str(counts["dropped"]))
        bad = len(recorded_bad(source))
        report["records"] = len(numbers) + bad + sum(count for count, _ in dropped.values())
        report["dropped"] = {reason: count for reason, (count, _) in sorted(dropped.items())}
        if bad:
            report["dropped"]["quarantined: cannot be read"] = bad
        report["examples"] = {reason: examples for reason, (_, examples) in sorted(dropped.items())}
        if TURNS in scanned:
            directions = counts["directions"]
            report["by direction"] = dict(sorted(Counter(directions.tolist()).items()))
    else:
        assert isinstance(source.source, LinesSource)
        report["lines"] = {code: len(column.column) for code, column in scanned.items()}
        rows, report["pairing"] = pair_lines(scanned, source.source)
        numbers = rows[next(iter(rows))] + 1
    report["documents"] = len(numbers)
    report["texts"] = {code: _flow(column) for code, column in scanned.items()}
    return Collection(name, scanned, rows, numbers, source.source.convert, report, directions)


def _flow(scanned: ScannedColumn) -> dict[str, Any]:
    """Return how many texts of a column each filter dropped, with examples."""
    names = [*REASONS, "quarantined: not valid UTF-8"]
    counts = np.bincount(scanned.reasons, minlength=len(names)).tolist()
    examples: dict[str, list[Any]] = {}
    row = 0
    for path in scanned.part_paths:
        chunk = parts.load(path)
        found = zip(
            chunk["example_lines"].tolist(), chunk["example_reasons"].tolist(), chunk["examples"].tolist(), strict=True
        )
        for line, reason, text in found:
            shown = examples.setdefault(names[reason], [])
            if len(shown) < EXAMPLES:
                shown.append([row + line + 1, text])
        row += len(chunk["starts"])
    dropped = {name: count for name, count in zip(names[1:], counts[1:], strict=True) if count}
    return {
        "read": len(scanned.reasons),
        "dropped": dropped,
        "kept": counts[0],
        "examples": examples,
        "bytes": _histogram(np.diff(scanned.column.offsets)[scanned.reasons == 0]),
    }


def _histogram(sizes: NDArray[np.int64]) -> dict[str, list[int]]:
    """Count texts by their size, in bins whose edges are a factor of two apart."""
    bins = np.bincount(np.log2(np.maximum(sizes, 1)).astype(np.int64), minlength=1)
    first = int(np.argmax(bins > 0))
    return {"edges": [1 << k for k in range(first, len(bins) + 1)], "counts": bins[first:].tolist()}


def _deduplicate(collections: Sequence[Collection], settings: PreprocessSettings) -> dict[str, Any]:
    """Give every text its cluster, over all sources and languages together; the first text of each is the one to use.

    Text pairs come before single texts, since a pair can do what a single text can and more.
    """
    ordered = sorted(collections, key=lambda collection: -len(collection.columns))
    columns = [column for collection in ordered for column in collection.columns.values()]
    bases = np.cumsum([0, *(len(column.exact) for column in columns)])
    for column, base in zip(columns, bases, strict=False):
        column.base = int(base)
    exact = np.concatenate([np.where(column.reasons == 0, column.exact, 0) for column in columns])

    def band(b: int) -> NDArray[np.uint64]:
        return np.concatenate([parts.load(path)["bands"][b] for column in columns for path in column.part_paths])

    def read(numbers: Sequence[int]) -> list[str]:
        return [text for number in numbers for text in _text(number)]

    def _text(number: int) -> list[str]:
        which = int(np.searchsorted(bases, number, side="right")) - 1
        return columns[which].column.read([number - int(bases[which])])

    clusters, report = find_clusters(exact, band, read, settings.deduplicate)
    for column, base in zip(columns, bases, strict=False):
        column.cluster = clusters[base : base + len(column.exact)]
    for collection in collections:
        for code, column in collection.columns.items():
            flow = collection.report["texts"][code]
            repeated = int(((column.reasons == 0) & ~column.first).sum())
            if repeated:
                flow["dropped"]["duplicate of a text before"] = repeated
                flow["kept"] -= repeated
    return report
