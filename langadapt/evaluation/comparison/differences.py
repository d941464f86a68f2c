"""Which differences between models are more than chance: paired tests on the very items that both were given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeVar

from langadapt.errors import UserError
from langadapt.evaluation.comparison.figures import Change, Comparison, Metric
from langadapt.evaluation.results import (
    Document,
    Interval,
    Likelihood,
    Prediction,
    read_documents,
    read_predictions,
)
from langadapt.evaluation.scores.significance import paired_bits, paired_p_values

_TESTED: dict[str, Literal["bleu", "chrf", "chrf++"]] = {"BLEU": "bleu", "chrF": "chrf", "chrF++": "chrf++"}
Item = TypeVar("Item", Document, Prediction)
_Bits = dict[tuple[str, str], tuple[float, Interval | None]]  # by baseline and model


def add_differences(comparison: Comparison, folder: str | Path, resamples: int) -> Comparison:
    """Return the comparison with the p-values of all pairs of models and what was forgotten, read from ``folder``.

    Likelihoods are resampled over documents, BLEU and chrF over records. Items that are missing, or not those that the
    figures are of, cost their model the p-values, and are a caution.
    """
    results, problems = comparison.results, list[str]()
    documents = _read((m for m, r in results.items() if r.likelihoods), read_documents, folder, problems)
    predictions = _read((m for m, r in results.items() if r.translations), read_predictions, folder, problems)
    metrics, bits = [], {}
    for metric in comparison.metrics:
        p_values: dict[tuple[str, str], float] = {}
        if metric.kind == "likelihood":
            p_values, bits[metric.key] = _likelihood_differences(comparison, metric, documents, resamples, problems)
        elif metric.name in _TESTED:
            p_values = _score_differences(comparison, metric, predictions, resamples, problems)
        metrics.append(replace(metric, p_values=p_values))
    tested = replace(comparison, metrics=metrics)
    cautions = comparison.cautions + list(dict.fromkeys(problems))
    return replace(tested, cautions=cautions, forgetting=_forgetting(tested, bits))


def _read(
    models: Iterable[str], read: Callable[[str | Path, str], list[Item]], folder: str | Path, problems: list[str]
) -> dict[str, list[Item]]:
    """Return the items of each model whose file can be read; say the others' in ``problems``."""
    found = {}
    for model in models:
        try:
            found[model] = read(folder, model)
        except UserError as error:
            problems.append(f"{error} Until then its differences cannot be tested.")
    return found


def _likelihood_differences(
    comparison: Comparison,
    metric: Metric,
    documents: Mapping[str, Sequence[Document]],
    resamples: int,
    problems: list[str],
) -> tuple[dict[tuple[str, str], float], _Bits]:
    """Return the p-values and, by baseline and model, the differences in bits per byte with their intervals."""
    items: dict[str, list[Document]] = {}
    for model, all_ in documents.items():
        likelihood = comparison.likelihood(model, metric)
        if likelihood is None:
            continue
        mine = [d for d in all_ if (d.test_set, d.language) == (metric.test_set, metric.of)]
        if _are_of(likelihood, mine):
            items[model] = mine
        else:
            problems.append(_stale(model, metric, "documents"))
    p_values: dict[tuple[str, str], float] = {}
    differences: _Bits = {}
    for baseline, model in combinations(_in_order(metric, items), 2):
        if [d.id for d in items[baseline]] == [d.id for d in items[model]]:
            difference, interval, p = paired_bits(items[baseline], items[model], resamples)
            differences[baseline, model] = difference, interval
            if p is not None:
                p_values[baseline, model] = p
    return p_values, differences


def _are_of(likelihood: Likelihood, documents: Sequence[Document]) -> bool:
    """Whether a likelihood is the sum of these documents, and not of the same ones under other weights."""
    size, bits = sum(document.bytes for document in documents), sum(document.bits for document in documents)
    same = (len(documents), size) == (likelihood.documents, likelihood.bytes)
    return same and math.isclose(bits, likelihood.bits_per_byte * size, rel_tol=1e-6)


def _score_differences(
    comparison: Comparison,
    metric: Metric,
    predictions: Mapping[str, Sequence[Prediction]],
    resamples: int,
    problems: list[str],
) -> dict[tuple[str, str], float]:
    items: dict[str, list[Prediction]] = {}
    for model, all_ in predictions.items():
        translation = comparison.translation(model, metric)
        if translation is None:
            continue
        key = (metric.test_set, metric.of, translation.prompt.name)
        mine = [p for p in all_ if (p.test_set, p.direction, p.prompt_name) == key]
        if len(mine) == translation.n:
            items[model] = sorted(mine, key=lambda prediction: prediction.id)
        else:
            problems.append(_stale(model, metric, "predictions"))
    models = _in_order(metric, items)
    if not models:
        return {}
    references = [prediction.reference for prediction in items[models[0]]]
    same = [model for model in models if [prediction.reference for prediction in items[model]] == references]
    problems += [_stale(model, metric, "predictions") for model in models if model not in same]
    if len(same) < 2 or len(references) < 2:
        return {}
    hypotheses = {model: [prediction.hypothesis for prediction in items[model]] for model in same}
    target = metric.of.split("-")[1]
    try:
        return paired_p_values(hypotheses, references, target, _TESTED[metric.name], resamples)
    except UserError as error:  # a tokenizer that this machine lacks
        problems.append(f"{metric.key}: differences are not tested: {error}")
        return {}


def _in_order(metric: Metric, items: Mapping[str, object]) -> list[str]:
    return [model for model in metric.figures if model in items]


def _stale(model: str, metric: Metric, kind: str) -> str:
    return f"{model}_{kind}.jsonl: not the items of {model}'s {metric.key}, so its differences there are not tested"


def _forgetting(comparison: Comparison, bits: Mapping[str, _Bits]) -> list[Change]:
    """Return what each model lost or gained against the first one on languages that none of the results trains.

    Bits per byte of other languages, and chrF into them; of two views of a direction the shared prompt, so that the
    stage is compared and not the prompt. The first model, in the order of the charts, is the baseline; a translator is
    no stage of a decoder model, nor the other way round.
    """
    trained = {result.settings.get("language") for result in comparison.results.values()}
    baseline, *models = comparison.results
    changes = []
    for metric in comparison.main:
        if metric.name not in ("bits per byte", "chrF") or metric.of.split("-")[-1] in trained:
            continue
        before = metric.figures[baseline]
        for model in models:
            after = metric.figures[model]
            if before and after and (before.prompt == "translation") == (after.prompt == "translation"):
                known = bits.get(metric.key, {}).get((baseline, model))
                difference, interval = known or (after.value - before.value, None)
                p = metric.p_value(baseline, model)
                changes.append(Change(metric, baseline, model, difference, interval, p))
    return changes
