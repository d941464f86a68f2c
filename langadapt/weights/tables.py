"""The results as CSV: a line for each tensor and stage, and for each of the tokens that moved most."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langadapt.files import write_text
from langadapt.weights.comparison import STAGES, Record

TENSORS, TOKENS = "weight_analysis_tensors.csv", "weight_analysis_tokens.csv"

_FIGURES = ["l2", "relative", "rms", "cosine", "share", "largest", "identical", "identical_by_rounding"]
_SPECTRUM = ["spectral_norm", "stable_rank", "effective_rank", "rank_90", "rank_95", "rank_99"]


def write_csv(results: Record, folder: str | Path) -> list[Path]:
    """Write both tables into a folder, figures unrounded, empty where undefined; return their paths.

    There is none of tokens where these are not known.
    """
    tensors = ["tensor", "type", "layer", "shape", "parameters", "stage", *_FIGURES, "delta_cosine", *_SPECTRUM]
    texts = {TENSORS: _text(tensors, _tensor_lines(results))}
    if results["embedding_rows"]:
        tokens = ["matrix", "script", "stage", "place", "id", "text", "bytes", "l2", "relative"]
        texts[TOKENS] = _text(tokens, _token_lines(results))
    for name, text in texts.items():
        write_text(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]


def _tensor_lines(results: Record) -> Iterable[list[Any]]:
    for tensor in results["tensors"]:
        shape = " ".join(map(str, tensor["shape"]))
        start = [tensor["name"], tensor["type"], tensor["layer"], shape, math.prod(tensor["shape"])]
        for stage in STAGES:
            figures = [tensor[stage.pair][name] for name in _FIGURES]
            spectrum = tensor[stage.pair].get("spectrum") or {}
            ranks = [spectrum.get(name) for name in _SPECTRUM]
            yield [*start, stage.file_name, *figures, tensor["delta_cosine"], *ranks]


def _token_lines(results: Record) -> Iterable[list[Any]]:
    new = [
        {**matrix, "name": f"{matrix['name']}, new rows"}
        for matrix in (results["vocabulary"] or {}).get("new_rows", [])
    ]
    for matrix in (*results["embedding_rows"], *new):
        for group in matrix["scripts"]:
            for stage in STAGES:
                for place, token in enumerate(group.get(stage.pair, {"moved": []})["moved"], start=1):
                    figures = [token[name] for name in ("id", "text", "bytes", "l2", "relative")]
                    yield [matrix["name"], group["script"], stage.file_name, place, *figures]


def _text(head: Sequence[str], lines: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return buffer.getvalue()
