"""A source as the rest of stage 1 sees it: documents in one or several languages, their texts left on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.columns import Column
from langadapt.corpus.reading import prepare
from langadapt.corpus.scan import NOT_UTF8
from langadapt.corpus.turns import TURNS, spoken_in

Texts = dict[str, str]  # language code: the text in that language
Documents = NDArray[np.int64]


@dataclass
class ScannedColumn:
    """A column with what the scan found out about each of its texts; ``cluster`` is the first text like it anywhere."""

    code: str
    column: Column
    convert: str | None
    units: NDArray[np.int32]
    reasons: NDArray[np.uint8]
    exact: NDArray[np.uint64]
    part_paths: list[Path]
    cluster: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def read(self, rows: Documents) -> list[str]:
        """Return the texts of some rows as the scan saw them: prepared, of a record what is said in it."""
        rows = np.asarray(rows)
        readable = self.reasons[rows] != NOT_UTF8
        found = self.column.read(rows[readable].tolist())
        if self.code == TURNS:
            found = [spoken_in(text) for text in found]
        elif not self.column.encoded:  # a column that was written here is prepared already
            found = [prepare(text, self.code, self.convert) for text in found]
        texts = iter(found)
        return [next(texts) if ok else "" for ok in readable]


@dataclass
class Collection:
    """One source. ``rows[k]`` are the column rows, by language, of its k-th document or record; -1 where it has none.

    ``numbers`` are what ids are made of: the line or record in the source, from 1.
    """

    name: str
    columns: dict[str, ScannedColumn]
    rows: dict[str, NDArray[np.int64]]
    numbers: NDArray[np.int64]
    report: dict[str, Any]
    directions: NDArray[np.str_] | None = None  # of instructions; None for a source of texts
    named: NDArray[np.str_] | None = None  # what each record's document is called, "" for none; None: no record says

    @property
    def size(self) -> int:
        """Documents or records."""
        return len(self.numbers)

    def present(self, code: str) -> NDArray[np.bool_]:
        """Return which documents have a text in a language."""
        present: NDArray[np.bool_] = self.rows[code] >= 0
        return present

    def usable(self, code: str) -> NDArray[np.bool_]:
        """Return which documents have a text in a language that passed every filter."""
        return self._of(code, self.columns[code].reasons == 0, False)

    def bytes(self, code: str) -> NDArray[np.int64]:
        """Return the size of every document's text in a language, as it lies on disk."""
        return self._of(code, np.diff(self.columns[code].column.offsets), 0)

    def clusters(self, code: str) -> NDArray[np.int64]:
        """Return the cluster of every document's text in a language, -1 for none."""
        return self._of(code, self.columns[code].cluster, -1)

    def _of(self, code: str, values: NDArray[Any], nothing: Any) -> NDArray[Any]:
        """Return, of the values of a column's texts, those of every document."""
        rows = self.rows[code]
        if not len(values):
            return np.full(len(rows), nothing)
        return np.where(rows >= 0, values[rows], nothing)

    def all_clusters(self, documents: Documents) -> list[tuple[int, ...]]:
        """Return the clusters of all texts of some documents."""
        columns = [self.clusters(code)[documents].tolist() for code in self.columns]
        return [tuple(cluster for cluster in row if cluster >= 0) for row in zip(*columns, strict=True)]

    def groups(self) -> NDArray[np.int64] | None:
        """Return a number for every record that those of one named document share; None where no record names one."""
        if self.named is None:
            return None
        numbers: NDArray[np.int64] = np.unique(self.named, return_inverse=True)[1]
        return np.where(self.named == "", len(self.named) + np.arange(len(self.named)), numbers)

    def labels(self, documents: Documents) -> list[dict[str, str]]:
        """Return what the records of some documents say of where they are from: ``{"document": name}``, or nothing."""
        if self.named is None:
            return [{} for _ in documents]
        return [{"document": name} if name else {} for name in self.named[documents].tolist()]

    def ids(self, documents: Documents) -> list[str]:
        """Return the ids of some documents: source and line; before the line its language, where that is no pivot's."""
        pivot, *others = self.columns
        ids = []
        for document in documents.tolist():
            code = next(code for code in (pivot, *others) if self.rows[code][document] >= 0)
            ids.append(
                f"{self.name}:{self.numbers[document]}"
                if code == pivot
                else f"{self.name}:{code}:{self.numbers[document]}"
            )
        return ids

    def read(self, documents: Documents) -> list[Texts]:
        """Return the texts of some documents, prepared; a text that is no UTF-8 is empty."""
        found: list[Texts] = [{} for _ in documents]
        for code, scanned in self.columns.items():
            rows = self.rows[code][documents]
            with_text = np.flatnonzero(rows >= 0)
            for k, text in zip(with_text.tolist(), scanned.read(rows[with_text]), strict=True):
                found[k][code] = text
        return found

    def read_records(self, documents: Documents) -> list[dict[str, Any]]:
        """Return some records of a source of instructions."""
        rows = self.rows[TURNS][documents].tolist()
        return [json.loads(text) for text in self.columns[TURNS].column.read(rows)]
