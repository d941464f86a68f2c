"""One pass over three checkpoints: how far and in which direction each tensor moved.

Everything reported is a function of inner products between six vectors: the weights of the three checkpoints and
their three differences. So one 6 x 6 Gram matrix a tensor is all that is kept, and the matrix of a layer, of a type or
of the whole model is the sum of those of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy
import pandas
import torch
from tqdm import tqdm

from langadapt.errors import UserError
from langadapt.weights.checkpoints import CHUNK, Checkpoint, Tensor, chunks
from langadapt.weights.tensor_types import TYPES, layer_of, model_order, tensor_type

SCHEMA_VERSION = 1

_BASE, _CPT, _SFT, _CPT_DELTA, _SFT_DELTA, _BOTH_DELTA = range(6)
_PAIR_ROWS = {
    "base_cpt": (_BASE, _CPT, _CPT_DELTA),
    "cpt_sft": (_CPT, _SFT, _SFT_DELTA),
    "base_sft": (_BASE, _SFT, _BOTH_DELTA),
}
_PIECE = 2**15  # values worked on at a time: as six float64 rows they fit into a core's cache
_FEWEST = 3  # a rank correlation of fewer tensors says nothing

Record = dict[str, Any]


class Stage(NamedTuple):
    """A stage of training, by what it is called in files, in text, and in the results."""

    file_name: str
    title: str
    pair: str
    before: str


STAGES = (Stage("cpt", "CPT", "base_cpt", "base"), Stage("sft", "SFT", "cpt_sft", "CPT"))


def compare(checkpoints: Sequence[Checkpoint], output_matrix: str, chunk: int = CHUNK) -> Record:
    """Return the results that weight_analysis_results.json holds, from what `open_checkpoints` returns.

    Keys: ``tensors``, ``types``, ``layers`` (lists of records) and ``total``, each with the figures of
    `describe_change`; ``rank_correlation`` between the two stages' changes over the tensors. Layers pool their
    matrices only: norms and biases are of another scale and would drown them. ``chunk`` values of each checkpoint
    are in memory at a time; sums are float64 and depend on it only in their rounding. Raises `UserError` where a
    weight is NaN or infinite, naming the tensor.
    """
    tensors: list[Record] = []
    grams: list[torch.Tensor] = []
    sizes = {name: math.prod(tensor.shape) for name, tensor in checkpoints[0].tensors.items()}
    bar = tqdm(total=sum(sizes.values()), desc="comparing", unit="value", unit_scale=True, disable=None)
    with bar, _one_thread():
        for name in sorted(sizes, key=model_order):
            gram = gram_matrix([checkpoint.tensors[name] for checkpoint in checkpoints], chunk)
            _check_finite(name, gram, checkpoints)
            shape = list(checkpoints[0].tensors[name].shape)
            tensor = {"name": name, "type": tensor_type(name), "layer": layer_of(name), "shape": shape}
            tensors.append(tensor | describe_change(gram))
            grams.append(gram)
            bar.update(sizes[name])
    measured = list(zip(tensors, grams, strict=True))
    layers = sorted({tensor["layer"] for tensor in tensors if tensor["layer"] is not None})
    by_type = [(kind, [pair for pair in measured if pair[0]["type"] == kind]) for kind in TYPES]
    matrices = [pair for pair in measured if pair[0]["type"] not in ("norm", "bias")]
    by_layer = [(layer, [pair for pair in matrices if pair[0]["layer"] == layer]) for layer in layers]
    return {
        "schema_version": SCHEMA_VERSION,
        "checkpoints": {c.role: {"path": str(c.path), "dtype": c.dtype} for c in checkpoints},
        "output_matrix": output_matrix,
        "total": _pool(measured),
        "rank_correlation": rank_correlation(tensors),
        "types": [
            {"type": kind, **_pool(group), "rank_correlation": rank_correlation([tensor for tensor, _ in group])}
            for kind, group in by_type
            if group
        ],
        "layers": [{"layer": layer, **_pool(group)} for layer, group in by_layer],
        "tensors": tensors,
    }


def gram_matrix(tensors: Sequence[Tensor], chunk: int = CHUNK) -> torch.Tensor:
    """Return the 6 x 6 float64 inner products of base, CPT, SFT, CPT - base, SFT - CPT and SFT - base."""
    gram = torch.zeros(6, 6, dtype=torch.float64)
    buffer = torch.empty(6, _PIECE, dtype=torch.float64)
    for stored in zip(*(chunks(tensor, chunk) for tensor in tensors), strict=True):
        for pieces in zip(*(values.split(_PIECE) for values in stored), strict=True):
            rows = buffer[:, : len(pieces[0])]
            for row, piece in zip(rows, pieces, strict=False):
                row.copy_(piece)
            for earlier, later, change in _PAIR_ROWS.values():
                torch.sub(rows[later], rows[earlier], out=rows[change])
            gram.addmm_(rows, rows.T)
    return gram


def describe_change(gram: torch.Tensor) -> Record:
    """Return base_norm, {l2, relative, cosine} of each pair of checkpoints, and delta_cosine, from a Gram matrix.

    ``l2`` is the Euclidean norm of the difference, ``relative`` that norm over the norm of the pair's earlier
    checkpoint, ``cosine`` the cosine between the two weights, ``delta_cosine`` the one between CPT - base and
    SFT - CPT. A figure that a zero norm leaves undefined is None.
    """
    norms = gram.diagonal().sqrt().tolist()
    products = gram.tolist()

    def cosine(one: int, other: int) -> float | None:
        scale: float = norms[one] * norms[other]
        return max(-1.0, min(1.0, products[one][other] / scale)) if scale else None

    figures: Record = {"base_norm": norms[_BASE]}
    for pair, (earlier, later, change) in _PAIR_ROWS.items():
        relative = norms[change] / norms[earlier] if norms[earlier] else None
        figures[pair] = {"l2": norms[change], "relative": relative, "cosine": cosine(earlier, later)}
    figures["delta_cosine"] = cosine(_CPT_DELTA, _SFT_DELTA)
    return figures


def rank_correlation(tensors: Sequence[Record]) -> Record:
    """Return Spearman's rank correlation between the two stages' changes, for ``l2`` and for ``relative``.

    None where fewer than three tensors have both figures, or all of a stage's are equal.
    """
    result: Record = {}
    for key in ("l2", "relative"):
        changes = [[tensor[stage.pair][key] for stage in STAGES] for tensor in tensors]
        ranks = pandas.DataFrame(changes, dtype=float).dropna().rank()
        told_apart = len(ranks) >= _FEWEST and bool((ranks.nunique() > 1).all())
        result[key] = float(numpy.corrcoef(ranks.to_numpy().T)[0, 1]) if told_apart else None
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: pieces that fit a cache are done sooner than threads that are busy elsewhere meet."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_finite(name: str, gram: torch.Tensor, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint, square in zip(checkpoints, gram.diagonal(), strict=False):
        if not math.isfinite(square):
            raise UserError(
                f"{checkpoint.path}: the tensor {name} holds NaN or infinite values. Training diverged, or the file is "
                "damaged; take an earlier checkpoint."
            )


def _pool(measured: Sequence[tuple[Record, torch.Tensor]]) -> Record:
    """Return the figures of several tensors taken as one long vector."""
    return {
        "tensors": len(measured),
        "parameters": sum(math.prod(tensor["shape"]) for tensor, _ in measured),
        **describe_change(sum((gram for _, gram in measured), torch.zeros(6, 6, dtype=torch.float64))),
    }
