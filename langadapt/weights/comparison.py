"""From sums to figures: how far and in which direction each tensor, type and layer moved, and the model as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from tqdm import tqdm

from langadapt.errors import UserError
from langadapt.weights.checkpoints import Checkpoint
from langadapt.weights.measuring import PRODUCTS, SLICE, Source, Sums, added
from langadapt.weights.one_pass import Measured, measure_all
from langadapt.weights.resampling import correlation_test, mean_cosine, spearman
from langadapt.weights.rounding import unchanged_by_rounding
from langadapt.weights.spectra import ENERGIES, describe_spectrum, energies, rank_for, share_held
from langadapt.weights.tensor_types import TYPES, layer_of, model_order, tensor_type
from langadapt.weights.token_rows import Token, describe_rows, tokens_of
from langadapt.weights.vocabulary import Alignment, Rows, tokenizer_file

SCHEMA_VERSION = 3

_MOST = 0.99  # of the values: what is known of these is said of all

Record = dict[str, Any]


class Stage(NamedTuple):
    """A stage of training, by what it is called in files, in text, and in the results."""

    file_name: str
    title: str
    pair: str
    before: str


STAGES = (Stage("cpt", "CPT", "base_cpt", "base"), Stage("sft", "SFT", "cpt_sft", "CPT"))


def compare(
    checkpoints: Sequence[Checkpoint],
    output_matrix: str,
    alignment: Alignment | None = None,
    slice_size: int = SLICE,
    workers: int = 1,
    device: str = "cpu",
) -> Record:
    """Return the results that weight_analysis_results.json holds, from what `open_checkpoints` returns.

    Keys: ``tensors``, ``types``, ``layers``, ``type_layers`` (lists of records; the last has one for each type within
    each layer) and ``total``, each with the figures of `describe_change` and ``share``, its part of all squared change;
    ``rank_correlation`` between the two stages' changes over the tensors, and ``relation`` (`describe_relation`).
    Layers pool their matrices only: norms and biases are of another scale and would drown them. ``embedding_rows``
    has the ``scripts`` (`describe_rows`) of embedding and output matrix, where there is a tokenizer.json to tell
    tokens by. ``vocabulary`` (None where all have the same) counts the rows that were matched by token, and gives the
    change by SFT of those that the base lacks, which no other figure holds. ``slice_size`` values of each checkpoint
    are in a worker's memory at a time; figures depend on it only in their rounding. Raises `UserError` where a weight
    is NaN or infinite, naming the tensor.
    """
    names = sorted(checkpoints[0].tensors, key=model_order)
    sources = [[checkpoint.tensors[name] for checkpoint in checkpoints] for name in names]
    found = measure_all(sources, slice_size, workers, device)
    measured: list[tuple[Record, Sums]] = []
    for name, triple, one in zip(names, sources, found, strict=True):
        _check_finite(name, one.sums, checkpoints)
        record = {"name": name, "type": tensor_type(name), "layer": layer_of(name), "shape": list(triple[0].shape)}
        rounding = _rounding(one, [tensor.dtype for tensor in triple])
        measured.append((record | describe_change(one.sums, rounding), one.sums))
    tensors = [tensor for tensor, _ in measured]
    layers = list(dict.fromkeys(tensor["layer"] for tensor in tensors if tensor["layer"] is not None))
    by_type = [(kind, [pair for pair in measured if pair[0]["type"] == kind]) for kind in TYPES]
    matrices = [pair for pair in measured if pair[0]["type"] not in ("norm", "bias")]
    by_layer = [(layer, [pair for pair in matrices if pair[0]["layer"] == layer]) for layer in layers]
    by_both = [(kind, n, [pair for pair in group if pair[0]["layer"] == n]) for kind, group in by_type for n in layers]
    vocabulary = alignment and {**alignment.counts, "new_rows": []}
    if alignment and vocabulary:
        tokens = _tokens(checkpoints[1:])
        new = [_new_rows(triple, checkpoints[1:], tokens, slice_size, workers, device) for triple in alignment.new_rows]
        vocabulary["new_rows"] = new
    results: Record = {
        "schema_version": SCHEMA_VERSION,
        "checkpoints": {c.role: {"path": str(c.path), "dtype": c.dtype} for c in checkpoints},
        "output_matrix": output_matrix,
        "vocabulary": vocabulary,
        "total": _pool(measured),
        "rank_correlation": rank_correlation(tensors),
        "types": [
            {"type": kind, **_pool(group), "rank_correlation": rank_correlation([tensor for tensor, _ in group])}
            for kind, group in by_type
            if group
        ],
        "layers": [{"layer": layer, **_pool(group)} for layer, group in by_layer if group],
        "type_layers": [{"type": kind, "layer": layer, **_pool(group)} for kind, layer, group in by_both if group],
        "relation": describe_relation(tensors),
        "embedding_rows": _embedding_rows(_tokens(checkpoints), names, sources, found),
        "tensors": tensors,
    }
    pooled = (results["total"], *results["types"], *results["layers"], *results["type_layers"])
    for record in (*pooled, *tensors):
        for stage in STAGES:
            all_change = results["total"][stage.pair]["l2"]
            record[stage.pair]["share"] = (record[stage.pair]["l2"] / all_change) ** 2 if all_change else None
    return results


def add_spectra(results: Record, checkpoints: Sequence[Checkpoint], slice_size: int = SLICE) -> None:
    """Add ``spectrum`` (`describe_spectrum`) of each stage to every matrix of ``results``, and ``lora_rank``.

    ``lora_rank`` holds for each stage the least rank of adapters on all attention and MLP matrices that could have
    carried 90, 95 and 99 % of their squared change, ``lora_share`` the share that adapters of rank 1, 2, 4 and so on
    could have carried; None where a stage changed none of them.
    """
    matrices = [t for t in results["tensors"] if len(t["shape"]) == 2 and min(t["shape"]) > 1]
    adapted: dict[str, list[NDArray[numpy.float64]]] = {stage.pair: [] for stage in STAGES}
    for tensor in tqdm(matrices, desc="spectra", unit="matrix", disable=None):
        for place, stage in enumerate(STAGES):
            before, after = (checkpoint.tensors[tensor["name"]] for checkpoint in checkpoints[place : place + 2])
            squares = energies(before, after, slice_size)
            tensor[stage.pair]["spectrum"] = describe_spectrum(squares)
            if tensor["type"] in ("attention", "cross-attention", "mlp") and squares[0] > 0:
                adapted[stage.pair].append(squares)
    results["lora_rank"] = {
        pair: {str(part): rank_for(spectra, part) for part in ENERGIES} if spectra else None
        for pair, spectra in adapted.items()
    }
    results["lora_share"] = {pair: share_held(spectra) if spectra else None for pair, spectra in adapted.items()}


def describe_change(sums: Sums, rounding: Mapping[str, float | None]) -> Record:
    """Return base_norm, the figures of each pair of checkpoints, and delta_cosine, from `Sums`.

    ``l2`` is the Euclidean norm of the difference, ``relative`` that norm over the norm of the pair's earlier
    checkpoint, ``rms`` it over the root of the number of values, ``cosine`` the cosine between the two weights,
    ``delta_cosine`` the one between CPT - base and SFT - CPT. Of the pairs that are a stage also ``largest``, the
    largest absolute change of a weight, ``identical``, the share of weights left exactly as they were, and
    ``identical_by_rounding``, the share that rounding explains (`unchanged_by_rounding`, given by pair in
    ``rounding``). A figure that a zero norm leaves undefined is None.
    """
    aa, ad, ae, dd, de, ee = sums.products.tolist()
    squares = {"base": aa, "cpt": aa + 2 * ad + dd, "sft": aa + 2 * (ad + ae + de) + dd + ee}
    # Of each pair: the square of the change, and its inner product with the earlier weights.
    moves = {"base_cpt": (dd, ad), "cpt_sft": (ee, ae + de), "base_sft": (dd + 2 * de + ee, ad + ae)}
    figures: Record = {"base_norm": math.sqrt(aa)}
    for pair, (square, along) in moves.items():
        before, after = (math.sqrt(max(0.0, squares[name])) for name in pair.split("_"))
        l2 = math.sqrt(max(0.0, square))
        figures[pair] = {
            "l2": l2,
            "relative": l2 / before if before else None,
            "rms": l2 / math.sqrt(sums.values) if sums.values else None,
            "cosine": _cosine(before**2 + along, before * after),
        }
    for place, stage in enumerate(STAGES):
        figures[stage.pair] |= {
            "largest": float(sums.largest[place]),
            "identical": int(sums.identical[place]) / sums.values if sums.values else None,
            "identical_by_rounding": rounding[stage.pair],
        }
    figures["delta_cosine"] = _cosine(de, math.sqrt(dd) * math.sqrt(ee))
    return figures


def rank_correlation(tensors: Sequence[Record]) -> Record:
    """Return Spearman's rank correlation between the two stages' changes, for ``l2`` and for ``relative``.

    None where fewer than three tensors have both figures, or all of a stage's are equal.
    """
    return {key: spearman(_both(tensors, key)[0]) for key in ("l2", "relative")}


def describe_relation(tensors: Sequence[Record]) -> Record:
    """Return how sure the relation between the two stages' changes is.

    ``test`` is of the rank correlation of the relative changes (`correlation_test`), ``mean_cosine`` of the cosines
    between the changes. ``base_sft_artefact`` is the rank correlation that comes out when the change from base to SFT,
    which contains CPT's, is taken for the change by SFT: it is no finding, and is there to be recognised.
    """
    pairs, compared = _both(tensors, "relative")
    turned = [tensor for tensor in tensors if tensor["delta_cosine"] is not None]
    sizes = [math.prod(tensor["shape"]) for tensor in turned]
    contained = [[tensor["base_cpt"]["l2"], tensor["base_sft"]["l2"]] for tensor in tensors]
    return {
        "test": correlation_test(pairs, [tensor["type"] for tensor in compared]),
        "mean_cosine": mean_cosine([tensor["delta_cosine"] for tensor in turned], sizes),
        "base_sft_artefact": spearman(numpy.array(contained).reshape(-1, 2).T),
    }


def _both(tensors: Sequence[Record], key: str) -> tuple[NDArray[numpy.float64], list[Record]]:
    """Return a figure of both stages [2, n] of the n tensors that have it in both, and these tensors."""
    defined = [tensor for tensor in tensors if all(tensor[stage.pair][key] is not None for stage in STAGES)]
    figures = [[tensor[stage.pair][key] for stage in STAGES] for tensor in defined]
    return numpy.array(figures, dtype=float).reshape(-1, 2).T, defined


def _tokens(checkpoints: Sequence[Checkpoint]) -> dict[int, Token]:
    """Return the tokens of the first checkpoint that has a tokenizer; none where none has."""
    files = (tokenizer_file(checkpoint.path) for checkpoint in checkpoints)
    return next((tokens_of(file.parent) for file in files if file), {})


def _embedding_rows(
    tokens: Mapping[int, Token],
    names: Sequence[str],
    sources: Sequence[Sequence[Source]],
    found: Sequence[Measured],
) -> list[Record]:
    return [
        {"name": name, "scripts": _scripts(triple[0], one.sums, tokens, {s.pair: n for n, s in enumerate(STAGES)})}
        for name, triple, one in zip(names, sources, found, strict=True)
        if tokens and one.sums.by_row is not None
    ]


def _scripts(first: Source, sums: Sums, tokens: Mapping[int, Token], pairs: Mapping[str, int]) -> list[Record]:
    """Return `describe_rows` of a matrix whose rows are those of the tensor ``first``, in that one's model."""
    assert sums.by_row is not None
    rows = first.numbers.tolist() if isinstance(first, Rows) else range(first.rows)
    return describe_rows(sums.by_row, rows, tokens, pairs)


def _rounding(measured: Measured, dtypes: Sequence[str]) -> dict[str, float | None]:
    sums = measured.sums
    return {
        stage.pair: unchanged_by_rounding(
            measured.samples[place], dtypes[place], dtypes[place + 1], sums.products[square] / max(1, sums.values)
        )
        for place, (stage, square) in enumerate(zip(STAGES, (3, 5), strict=True))
    }


def _cosine(product: float, scale: float) -> float | None:
    return max(-1.0, min(1.0, product / scale)) if scale else None


def _check_finite(name: str, sums: Sums, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `UserError` for the earliest checkpoint that has a NaN or an infinite value in a tensor."""
    latest = [max(factors) for factors in PRODUCTS]
    for place, checkpoint in enumerate(checkpoints):
        if not numpy.isfinite(sums.products[[factor == place for factor in latest]]).all():
            raise UserError(
                f"{checkpoint.path}: the tensor {name} holds NaN or infinite values. Training diverged, or the file is "
                "damaged; take an earlier checkpoint."
            )


def _new_rows(
    triple: Sequence[Source],
    checkpoints: Sequence[Checkpoint],
    tokens: Mapping[int, Token],
    slice_size: int,
    workers: int,
    device: str,
) -> Record:
    """Return the norm after CPT, and the change by SFT, of rows that the base lacks; CPT stands in for the base."""
    [one] = measure_all([triple], slice_size, workers, device)
    _check_finite(triple[0].name, one.sums, [checkpoints[0], *checkpoints])
    figures = describe_change(one.sums, _rounding(one, [tensor.dtype for tensor in triple]))
    return {
        "name": triple[0].name,
        "shape": list(triple[0].shape),
        "cpt_norm": figures["base_norm"],
        "cpt_sft": figures["cpt_sft"],
        "scripts": _scripts(triple[0], one.sums, tokens, {"cpt_sft": 1}),
    }


def _pool(measured: Sequence[tuple[Record, Sums]]) -> Record:
    """Return the figures of several tensors taken as one long vector."""
    sums = added([sums for _, sums in measured])
    rounding: dict[str, float | None] = {}
    for stage in STAGES:
        explained = [(record[stage.pair]["identical_by_rounding"], one.values) for record, one in measured]
        known = [(share, count) for share, count in explained if share is not None]
        covered = sum(count for _, count in known)
        # Where a tensor did not change at all, rounding can be neither blamed nor cleared.
        enough = covered > _MOST * sums.values
        rounding[stage.pair] = sum(share * count for share, count in known) / covered if enough else None
    return {"tensors": len(measured), "parameters": sums.values, **describe_change(sums, rounding)}
