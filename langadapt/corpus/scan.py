"""The one pass over all text: cut into lines, clean, measure, and hash for deduplication; chunk by chunk, on all cores.

A chunk's result is small beside its text, 30 bytes a line and 8 bytes a band of its MinHash, so no text is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rensa
from numpy.typing import NDArray

from langadapt.corpus.alignment import extract
from langadapt.corpus.alignment.features import concatenate
from langadapt.corpus.cleaning import REASONS, reasons_to_drop
from langadapt.corpus.columns import decode_line, read_chunk
from langadapt.corpus.parts import Arrays
from langadapt.corpus.reading import prepare
from langadapt.corpus.turns import spoken_in
from langadapt.recipe.cleaning import CleaningSettings, DeduplicationSettings
from langadapt.recipe.language import load_language
from langadapt.text import normalize
from langadapt.text.blocks import Hashes, Ragged, blocks_of, mixed, sequences, shingles

NOT_UTF8 = len(REASONS)  # the reason of a line that is quarantined
BANDS, ROWS = 20, 6  # 99.8 % of the pairs with Jaccard 0.8 share a band, 27 % of those with 0.5
_SEED = 42
_SHORT = 100  # bytes; longer lines hold more than invisible characters
_EXAMPLES, _EXCERPT = 3, 200  # of each reason in a chunk; characters


@dataclass(frozen=True)
class ScanTask:
    """What a worker has to know of a column."""

    path: Path
    encoded: bool
    language: str | None  # None: the two sides of an instruction
    convert: str | None
    aligned: bool  # its lines are paired by what is in them
    cleaning: CleaningSettings
    deduplication: DeduplicationSettings

    @property
    def measures_texts(self) -> bool:
        """Whether the texts have to be looked into; else it is enough to know where they are."""
        return self.aligned or self.cleaning.measures_texts or self.deduplication.measures_texts


def scan_chunk(task: ScanTask, start: int, stop: int) -> Arrays:
    """Return what is to be known of the lines that start in a byte range, one entry a line.

    ``starts`` (bytes), ``units``, ``reasons`` (of `REASONS`, or `NOT_UTF8`), ``exact`` (a hash of all units; 0 for
    none), ``band_0`` and so on, `BANDS` of them, where near duplicates are looked for, for a few lines of each reason
    ``example_lines`` (from the first of the chunk), ``example_reasons`` and ``examples``, and the arrays of the
    lines' `Features` where they are to be aligned.
    """
    lines, starts = read_chunk(task.path, start, stop)
    if not task.measures_texts and (places := _places(lines, starts, start == 0)) is not None:
        return places
    texts, broken = _decode(lines, start == 0, task)
    language = load_language(task.language) if task.language else None
    no_keys = np.zeros((BANDS if task.deduplication.near else 0, 0), np.uint64)
    nothing = np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.uint64), no_keys
    measures, features = [], []
    for _, block in blocks_of(texts):
        near = task.deduplication.near
        keys = bands(block.units, task.deduplication) if near else np.zeros((0, len(block)), np.uint64)
        reasons = reasons_to_drop(block, language, task.cleaning)
        measures.append((block.units.lengths, reasons, sequences(block.units), keys))
        if task.aligned and language is not None:
            features.append(extract(block, language.segmentation))
    units, reasons, exact, keys = (np.concatenate(kind, axis=-1) for kind in zip(*measures or [nothing], strict=True))
    reasons[broken] = NOT_UTF8
    chosen = [k for reason in range(1, NOT_UTF8 + 1) for k in np.flatnonzero(reasons == reason)[:_EXAMPLES]]
    return {
        "starts": starts,
        "units": units.astype(np.int32),
        "reasons": reasons,
        "exact": exact,
        "example_lines": np.array(chosen, np.int64),
        "example_reasons": reasons[chosen],
        "examples": np.array([excerpt(texts[k] or repr(lines[k][:_EXCERPT])) for k in chosen], np.str_),
        **{f"band_{b}": of_band for b, of_band in enumerate(keys)},  # each is read on its own
        **(concatenate(features).arrays() if task.aligned else {}),
    }


def _places(lines: list[bytes], starts: NDArray[np.int64], first: bool) -> Arrays | None:
    """Return `scan_chunk` of lines of which only the place counts; None if some of them are blank or no UTF-8."""
    try:
        b"\n".join(lines).decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        return None
    if any(not line or line.isspace() or (len(line) <= _SHORT and not normalize(line.decode())) for line in lines):
        return None
    none = np.zeros(0, np.int64)
    return {
        "starts": starts,
        "units": np.zeros(len(lines), np.int32),
        "reasons": np.zeros(len(lines), np.uint8),
        "exact": np.zeros(len(lines), np.uint64),
        "example_lines": none,
        "example_reasons": none,
        "examples": np.zeros(0, np.str_),
    }


def bands(units: Ragged, settings: DeduplicationSettings) -> Hashes:
    """Return the MinHash of every text's shingles in `BANDS` keys: two texts that are near share one, most likely."""
    found = shingles(units, settings.shingle).distinct()
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.ascontiguousarray(found.values), found.offsets.astype(np.uint64), BANDS * ROWS, _SEED
    )
    digests = np.array(matrix.to_rows(), np.uint64).reshape(-1, BANDS, ROWS)
    keys = np.zeros(digests.shape[:2], np.uint64)
    for row in range(ROWS):
        keys = mixed(keys + digests[:, :, row])
    return np.ascontiguousarray(keys.T)


def similarity(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Return the Jaccard similarity of two sorted arrays of distinct hashes."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / max(1, len(first) + len(second) - shared)


def shingled(texts: Sequence[str], size: int) -> list[NDArray[np.generic]]:
    """Return the distinct shingles of every text, sorted."""
    return [row for _, block in blocks_of(texts) for row in _rows(shingles(block.units, size).distinct())]


def excerpt(text: str) -> str:
    """Return the beginning of a text, for a report."""
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


def _rows(ragged: Ragged) -> list[NDArray[np.generic]]:
    return [ragged[row] for row in range(len(ragged))]


def _decode(lines: list[bytes], first: bool, task: ScanTask) -> tuple[list[str], list[int]]:
    """Return the prepared text of every line, and the lines that are no UTF-8, whose text is empty."""
    texts, broken = [], []
    for number, line in enumerate(lines):
        try:
            text = decode_line(line, first and number == 0, task.encoded)
        except UnicodeDecodeError:
            broken.append(number)
            text = ""
        if task.language is None:
            texts.append(spoken_in(text) if text else "")
        else:  # a column that was written here is prepared already; preparing it again costs time
            texts.append(text if task.encoded else prepare(text, task.language, task.convert))
    return texts, broken
