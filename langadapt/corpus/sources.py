"""Opening the sources of a recipe: every text scanned once, cleaned, told from its duplicates, and left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus import parts
from langadapt.corpus.cleaning import REASONS
from langadapt.corpus.collection import Collection, Documents, ScannedColumn
from langadapt.corpus.columns import Column, chunks
from langadapt.corpus.duplicates import find_clusters
from langadapt.corpus.pairing import pair_lines, rows_by_number
from langadapt.corpus.parts import Part
from langadapt.corpus.progress import Advance, Progress
from langadapt.corpus.reading import Bad
from langadapt.corpus.scan import NOT_UTF8, ScanTask, scan_chunk
from langadapt.corpus.storing import (
    EXAMPLES,
    QUARANTINED,
    StoredSource,
    Unreadable,
    profiles,
    recorded_unreadable,
    store,
)
from langadapt.corpus.turns import TURNS
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.sources import LinesSource


@dataclass(frozen=True)
class Sources:
    """Everything a recipe reads: its collections, what could not be read, and what deduplication found in all."""

    collections: list[Collection]
    quarantine: list[Bad]
    duplicates: dict[str, Any]


def open_sources(settings: PreprocessSettings, command: str, folder: Path, progress: Progress) -> Sources:
    """Open every source of a recipe; finished work stays in ``folder`` for the next run, should this one be ended.

    ``command`` is what a user runs to get a file that is missing. The collections are in the recipe's order. Raises
    `UserError` for missing or empty files, and where more than `max_bad_ratio` of a source's records cannot be read,
    naming the first.
    """
    way_out = f"Get it with: {command}" if settings.download else "Check `data_dir` and `sources`."
    workers = parts.worker_count(settings.workers)
    stored = {name: store(name, source, settings, way_out, folder) for name, source in settings.sources.items()}
    with progress.phase("reading records") as advance:
        parts.finish([part for source in stored.values() for part in source.parts], workers, advance)
    columns = {
        (name, code): _scan_parts(source, code, settings, folder)
        for name, source in stored.items()
        for code in source.files
    }
    with progress.phase("scanning text") as advance:
        parts.finish([part for some in columns.values() for part in some], workers, advance)
    scans = {
        name: {code: _gather(source, code, columns[name, code]) for code in source.files}
        for name, source in stored.items()
    }
    with progress.phase("pairing lines") as advance:
        paired = _pair_all(stored, scans, folder, advance)
    collections, quarantine = [], []
    for name, source in stored.items():
        scanned = scans[name]
        unreadable = recorded_unreadable(source.counts) if source.counts else _unreadable_lines(source, scanned)
        unreadable.check(name, settings.max_bad_ratio)
        quarantine += unreadable.first
        collections.append(_collect(name, source, scanned, paired.get(name)))
    with progress.phase("finding duplicates") as advance:
        duplicates = _deduplicate(collections, settings, advance)
    return Sources(collections, quarantine, duplicates)


def _scan_parts(source: StoredSource, code: str, settings: PreprocessSettings, folder: Path) -> list[Part]:
    path = source.files[code]
    language = None if code == TURNS else code
    convert = source.source.convert.get(code)
    aligned = _is_aligned(source)
    task = ScanTask(path, source.encoded, language, convert, aligned, settings.cleaning, settings.deduplicate)
    limits = [settings.cleaning.model_dump(), settings.deduplicate.model_dump()]
    known = profiles([language] if language else [])
    mark = parts.fingerprint(path, source.encoded, language, known, convert, aligned, *limits)
    return [
        Part(folder / f"scan-{mark}-{number}.npz", partial(scan_chunk, task), (start, stop), stop - start)
        for number, (start, stop) in enumerate(chunks(path))
    ]


def _gather(source: StoredSource, code: str, scans: list[Part]) -> ScannedColumn:
    """Put the chunks of a column together."""
    path = source.files[code]
    kinds = {"starts": np.int64, "units": np.int32, "reasons": np.uint8, "exact": np.uint64}
    loaded = [parts.load(part.path, *kinds) for part in scans]
    arrays = {
        key: np.concatenate([chunk[key] for chunk in loaded] or [np.zeros(0, kind)]) for key, kind in kinds.items()
    }
    offsets = np.append(arrays["starts"], path.stat().st_size)
    column = Column(path, offsets, source.encoded)
    convert = source.source.convert.get(code)
    paths = [part.path for part in scans]
    return ScannedColumn(code, column, convert, arrays["units"], arrays["reasons"], arrays["exact"], paths)


def _unreadable_lines(source: StoredSource, scanned: dict[str, ScannedColumn]) -> Unreadable:
    """Return the lines that are no UTF-8, of the lines of all languages."""
    rows = {code: np.flatnonzero(column.reasons == NOT_UTF8) for code, column in scanned.items()}
    bad = (
        Bad(str(source.files[code]), row + 1, "not valid UTF-8", "")
        for code, of_column in rows.items()
        for row in of_column.tolist()
    )
    records = sum(len(column.column) for column in scanned.values())
    return Unreadable(list(islice(bad, QUARANTINED)), sum(map(len, rows.values())), records)


def _collect(
    name: str,
    source: StoredSource,
    scanned: dict[str, ScannedColumn],
    paired: tuple[dict[str, Documents], dict[str, Any]] | None,
) -> Collection:
    report: dict[str, Any] = {}
    directions = documents = None
    if source.counts:
        counts = parts.load(source.counts)
        if revision := json.loads(str(counts["revision"])):
            report["revision"] = revision
        numbers = counts["numbers"]
        rows = {code: np.arange(len(numbers)) for code in scanned}
        dropped = json.loads(str(counts["dropped"]))
        report["records"] = int(counts["records"])
        report["dropped"] = {reason: count for reason, (count, _) in sorted(dropped.items())}
        if bad := int(counts["bad_count"]):
            report["dropped"]["quarantined: cannot be read"] = bad
        report["examples"] = {reason: examples for reason, (_, examples) in sorted(dropped.items())}
        if TURNS in scanned:
            directions = counts["directions"]
            report["by direction"] = dict(sorted(Counter(directions.tolist()).items()))
        elif counts["documents"].any():
            documents = counts["documents"]
            report["named documents"] = len(np.unique(documents[documents != ""]))
    else:
        assert isinstance(source.source, LinesSource)
        lengths = report["lines"] = {code: len(column.column) for code, column in scanned.items()}
        if paired is not None:
            rows, report["pairing"] = paired
            rows = _with_unpaired(rows, lengths)
        else:
            rows = rows_by_number(name, source.source.files, lengths)
        numbers = _line_numbers(rows)
    report["documents"] = len(numbers)
    report["texts"] = {code: _flow(column) for code, column in scanned.items()}
    return Collection(name, scanned, rows, numbers, report, directions, documents)


def _pair_all(
    stored: dict[str, StoredSource], scans: dict[str, dict[str, ScannedColumn]], folder: Path, advance: Advance
) -> dict[str, tuple[dict[str, Documents], dict[str, Any]]]:
    """Pair the lines of every source that is to be aligned."""
    aligned = {name: scans[name] for name, source in stored.items() if _is_aligned(source)}
    lines = {name: sum(len(column.column) for column in scanned.values()) for name, scanned in aligned.items()}
    found = {}
    for name, scanned in aligned.items():
        files = {code: column.part_paths for code, column in scanned.items()}
        share = lines[name] / max(1, sum(lines.values()))
        found[name] = pair_lines(files, folder, partial(_scaled, advance, share))
    return found


def _scaled(advance: Advance, whole: float, share: float) -> None:
    advance(whole * share)


def _is_aligned(source: StoredSource) -> bool:
    """Say whether the lines of a source are paired by what is in them, so that the scan has to keep their features."""
    return isinstance(source.source, LinesSource) and len(source.files) > 1 and source.source.align == "auto"


def _with_unpaired(paired: dict[str, Documents], lengths: dict[str, int]) -> dict[str, Documents]:
    """Add every line that is in no row as a document of its own, in its language alone."""
    pieces = {code: [rows] for code, rows in paired.items()}
    for code, rows in paired.items():
        alone = np.setdiff1d(np.arange(lengths[code]), rows)
        for other in paired:
            pieces[other].append(alone if other == code else np.full(len(alone), -1))
    return {code: np.concatenate(some) for code, some in pieces.items()}


def _line_numbers(rows: dict[str, Documents]) -> NDArray[np.int64]:
    """Return the line of every document, from 1, in the first language that it has."""
    numbers = np.zeros(len(next(iter(rows.values()))), np.int64)
    for of_language in reversed(rows.values()):
        numbers = np.where(of_language >= 0, of_language + 1, numbers)
    return numbers


def _flow(scanned: ScannedColumn) -> dict[str, Any]:
    """Return how many texts of a column each filter dropped, with examples."""
    names = [*REASONS, "quarantined: not valid UTF-8"]
    counts = np.bincount(scanned.reasons, minlength=len(names)).tolist()
    examples: dict[str, list[Any]] = {}
    row = 0
    for path in scanned.part_paths:
        chunk = parts.load(path, "starts", "example_lines", "example_reasons", "examples")
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


def _deduplicate(collections: Sequence[Collection], settings: PreprocessSettings, advance: Advance) -> dict[str, Any]:
    """Give every text its cluster, over all sources and languages together."""
    columns = [column for collection in collections for column in collection.columns.values()]
    bases = np.cumsum([0, *(len(column.exact) for column in columns)])
    exact = np.concatenate([np.where(column.reasons == 0, column.exact, 0) for column in columns])

    def band(b: int) -> NDArray[np.uint64]:
        key = f"band_{b}"
        return np.concatenate([parts.load(path, key)[key] for column in columns for path in column.part_paths])

    def read(numbers: Sequence[int]) -> list[str]:
        which = np.searchsorted(bases, numbers, side="right") - 1
        rows = np.asarray(numbers) - bases[which]
        return [columns[k].read(rows[n : n + 1])[0] for n, k in enumerate(which.tolist())]

    clusters, report = find_clusters(exact, band, read, settings.deduplicate, advance)
    for column, base in zip(columns, bases, strict=False):
        column.cluster = clusters[base : base + len(column.exact)]
    return report
