"""Which lines of several files belong together: by number where the files agree, else by re-alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.alignment import LineFeatures, align, features
from langadapt.errors import UserError
from langadapt.recipe.sources import LinesSource

if TYPE_CHECKING:
    from langadapt.corpus.sources import ScannedColumn

_READ_AT_ONCE = 4096  # lines


def pair_lines(
    columns: Mapping[str, ScannedColumn], source: LinesSource
) -> tuple[dict[str, NDArray[np.int64]], dict[str, Any]]:
    """Return the rows of every column that belong together, and how each column was paired with the first."""
    pivot, *others = columns
    lengths = {code: len(columns[code].column) for code in columns}
    rows = {pivot: np.arange(lengths[pivot])}
    if not others:
        return rows, {}
    if source.align == "never":
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{code} {count:,}" for code, count in lengths.items())
            raise UserError(
                f"`align: never`, but the files have different numbers of lines ({counts}). Set align: auto."
            )
        return {code: np.arange(lengths[code]) for code in columns}, {"by": "line number, not checked"}
    of_pivot = _features(columns[pivot])
    report: dict[str, Any] = {}
    for code in others:
        alignment = align(of_pivot, _features(columns[code]))
        partner = np.full(lengths[pivot], -1)
        for i, j in alignment.pairs:
            partner[i] = j
        rows[code] = partner
        report[f"{pivot}-{code}"] = {
            "by": "line number" if alignment.by_number else "re-alignment",
            "anchors": alignment.anchors,
            "pairs": len(alignment.pairs),
            "lines left out, line counts differ between anchors": alignment.ambiguous,
            "pairs left out, lengths or numbers do not fit": alignment.implausible,
        }
    paired = np.all([rows[code] >= 0 for code in others], axis=0)
    report["lines left out, unpaired in at least one language"] = int((~paired).sum())
    return {code: partners[paired] for code, partners in rows.items()}, report


def _features(scanned: ScannedColumn) -> list[LineFeatures]:
    column = scanned.column
    found: list[LineFeatures] = []
    for start in range(0, len(column), _READ_AT_ONCE):
        found += map(features, column.read(range(start, min(start + _READ_AT_ONCE, len(column)))))
    return found
