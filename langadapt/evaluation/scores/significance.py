"""Is one model better than another, or did it have luck with the items? Paired bootstrap over all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sacrebleu.significance import PairedTest

from langadapt.evaluation.bootstrap import middle_95, resampled_ratios
from langadapt.evaluation.results import Document, Interval
from langadapt.metrics import MetricName, make_metric
from langadapt.recipe import load_language
from langadapt.text import normalize


def paired_p_values(
    hypotheses: Mapping[str, Sequence[str]],
    references: Sequence[str],
    target: str,
    metric: MetricName,
    resamples: int,
) -> dict[tuple[str, str], float]:
    """Return the two-sided p-value of every pair of models, named in the order of ``hypotheses``.

    ``hypotheses`` hold each model's texts for the same items, in the order of ``references``; all are brought into the
    target's normal form. The test is sacrebleu's paired bootstrap (Koehn 2004) with its fixed seed: the same resamples
    for both models, and the share of them whose absolute difference exceeds its mean by more than the observed one.
    Equal scores get 1, where sacrebleu would find two copies of one model significantly apart.

    Raises `ValueError` for lists of different lengths.
    """
    if wrong := [model for model, texts in hypotheses.items() if len(texts) != len(references)]:
        raise ValueError(f"{wrong[0]}: {len(hypotheses[wrong[0]])} hypotheses for {len(references)} references")
    language = load_language(target)
    normal = {m: [normalize(text, language.normalization) for text in texts] for m, texts in hypotheses.items()}
    expected = [normalize(text, language.normalization) for text in references]
    models = list(hypotheses)
    p_values: dict[tuple[str, str], float] = {}
    for position, baseline in enumerate(models[:-1]):
        others = models[position + 1 :]
        test = PairedTest(
            [(model, normal[model]) for model in (baseline, *others)],
            {metric: make_metric(metric, language)},
            [expected],
            test_type="bs",
            n_samples=resamples,
        )
        _, columns = test()
        [results] = (column for name, column in columns.items() if name != "System")
        for model, result in zip(others, results[1:], strict=True):
            p_values[baseline, model] = result.p_value if result.score != results[0].score else 1.0
    return p_values


def paired_bits(
    first: Sequence[Document], second: Sequence[Document], resamples: int
) -> tuple[float, Interval | None, float | None]:
    """Return by how many bits per byte ``second`` needs more than ``first``, its 95 % interval, and the p-value.

    Documents are resampled, the same for both models. The interval holds the middle 95 % of the differences (Efron and
    Tibshirani 1993, ch. 13); the p-value is the share of them at least as far from the observed difference as that is
    from zero, the observed one counted in. With one document there is neither.

    Raises `ValueError` unless both hold the same documents in the same order.
    """
    if [(d.test_set, d.language, d.id, d.bytes) for d in first] != [
        (d.test_set, d.language, d.id, d.bytes) for d in second
    ]:
        raise ValueError("two lists of different documents have no paired difference")
    sizes = np.array([document.bytes for document in first], np.float64)
    more = np.array([b.bits - a.bits for a, b in zip(first, second, strict=True)])
    difference = float(more.sum() / sizes.sum())
    if len(first) < 2:
        return difference, None, None
    drawn = resampled_ratios(more, sizes, resamples)
    further = int((np.abs(drawn - difference) >= abs(difference)).sum())
    return difference, middle_95(drawn), (further + 1) / (resamples + 1)
