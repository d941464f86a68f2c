"""Which lines of several files belong together: by number where a recipe says so, else by re-alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus import parts
from langadapt.corpus.alignment import FeatureParts, align
from langadapt.corpus.progress import Advance
from langadapt.errors import UserError


def pair_lines(
    scans: Mapping[str, list[Path]], folder: Path, advance: Advance
) -> tuple[dict[str, NDArray[np.int64]], dict[str, Any]]:
    """Return the rows of every file that belong together, and a report of how the files lie to each other.

    ``scans`` holds the scanned parts of each file, with its features. The result is kept in ``folder`` for a run that
    goes on where this one ended. ``advance`` is told the share of the work just done.
    """
    path = folder / f"pairs-{parts.fingerprint({code: [p.name for p in paths] for code, paths in scans.items()})}.npz"
    if not path.is_file():
        done = 0.0

        def progress(share: float) -> None:
            nonlocal done
            advance(share - done)
            done = share

        alignment = align({code: FeatureParts(paths) for code, paths in scans.items()}, progress)
        report = json.dumps(alignment.report, ensure_ascii=False)
        parts.keep(path, {"rows": alignment.rows, "report": np.array(report)})
    found = parts.load(path)
    rows = found["rows"]
    return {code: rows[:, k] for k, code in enumerate(scans)}, json.loads(str(found["report"]))


def rows_by_number(name: str, files: Mapping[str, str], lengths: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Return line n of every file with line n of the others; raise `UserError` where their numbers of lines differ.

    ``name`` is what the source is called, ``files`` has the name of each language's file.
    """
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{files[code]} {count:,}" for code, count in lengths.items())
        raise UserError(
            f"source {name}: `align: never`, but its files have different numbers of lines ({counts}). Mend them, "
            "or set align: auto."
        )
    return {code: np.arange(length) for code, length in lengths.items()}
