"""All figures of one direction under one prompt, from its hypotheses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from langadapt.evaluation.results import Contamination, Prediction, Prompt, Score, Slice, Translation
from langadapt.evaluation.scores.adequacy import Adequacy, score_meaning
from langadapt.evaluation.scores.contamination import FoundItems
from langadapt.evaluation.scores.corpus import Counts, count, floor_texts, score_corpus
from langadapt.evaluation.scores.diagnostics import Identifier, diagnose
from langadapt.evaluation.test_sets import sha256_of_items
from langadapt.metrics import METRICS, make_metric
from langadapt.recipe import load_language
from langadapt.text import normalize, units

_BUCKETS = 4
_SMALLEST = 20  # items of a slice: what fewer say is noise
_OTHERS = "others"
_OURS = "hypotheses"

Rescore = Callable[[Sequence[int]], dict[str, float]]  # positions of items -> score of these by metric


def score_translation(
    predictions: Sequence[Prediction],
    prompt: Prompt,
    *,
    resamples: int,
    contamination: FoundItems | None = None,
    adequacy: Sequence[Adequacy] = (),
    identifier: Identifier | None = None,
) -> Translation:
    """Return scores, floors, diagnostics and slices of one direction's ``predictions`` (one or more).

    Everything is counted in the target's normal form; a copied source is the source in that form too.

    ``contamination`` comes from one search for all test sets: `find_items` of every source and reference in the
    recipe's ``training_files``; an item counts when either of its texts was found. ``adequacy`` are `Labse` and
    `Comet` of ``labse_model`` and ``comet_model``; the caller leaves out, and says so, what `Adequacy.refusal` refuses
    for the direction (raises `ValueError` otherwise). ``identifier`` is `load_identifier` of ``language_identifier``.
    """
    first = predictions[0]
    source, _, code = first.direction.partition("-")
    target = load_language(code)

    def normal(texts: Sequence[str]) -> list[str]:
        return [normalize(text, target.normalization) for text in texts]

    hypotheses = normal([prediction.hypothesis for prediction in predictions])
    references = normal([prediction.reference for prediction in predictions])
    sources = normal([prediction.source for prediction in predictions])
    neighbours = [None if p.neighbour is None else normalize(p.neighbour, target.normalization) for p in predictions]
    floors = floor_texts(hypotheses, sources, neighbours)

    scores: dict[str, Score] = {}
    counted: dict[str, Counts] = {}
    for name in METRICS:
        counts = count(make_metric(name, target), {_OURS: hypotheses, **floors}, references)
        counted[name] = counts.pop(_OURS)
        scores[name] = score_corpus(counted[name], counts, resamples)
    by_item = {}
    for meaning in adequacy:
        if reason := meaning.refusal(source, code):
            raise ValueError(f"{first.direction}: {reason}")
        scores[meaning.name], by_item[meaning.name] = score_meaning(
            meaning, sources, hypotheses, references, floors, resamples
        )

    def rescore(part: Sequence[int]) -> dict[str, float]:
        found = {name: counts.score(part) for name, counts in counted.items()}
        return found | {name: float(values[list(part)].mean()) for name, values in by_item.items()}

    return Translation(
        test_set=first.test_set,
        direction=first.direction,
        prompt=prompt,
        n=len(predictions),
        scores=scores,
        diagnostics=diagnose(
            hypotheses, references, sources, [prediction.stop_reason for prediction in predictions], target, identifier
        ),
        slices=[
            *_slices("length", length_buckets(references, target.segmentation), rescore),
            *_slices("source", origins([prediction.origin for prediction in predictions]), rescore),
        ],
        contamination=_clean_part(predictions, contamination, rescore) if contamination else None,
        items_sha256=sha256_of_items([[prediction.source, prediction.reference] for prediction in predictions]),
    )


def length_buckets(references: Sequence[str], unit: str) -> dict[str, list[int]]:
    """Return the positions of references by length, in up to four buckets of about as many, named by their range.

    References of one length share a bucket; 20 items are wanted in each, and none has fewer than 10. So there are fewer
    buckets where there are few items or few lengths, and none at all (an empty dict) where one would hold them all.
    """
    wanted = min(_BUCKETS, len(references) // _SMALLEST)
    if wanted < 2:
        return {}
    lengths = np.array([len(units(reference)) for reference in references])
    edges = np.unique(np.quantile(lengths, np.arange(1, wanted) / wanted, method="lower"))
    while (sizes := np.bincount(np.searchsorted(edges, lengths), minlength=len(edges) + 1)).min() < _SMALLEST // 2:
        edges = np.delete(edges, min(int(sizes.argmin()), len(edges) - 1))  # one bucket with the next
    bucket = np.searchsorted(edges, lengths)  # edge k is the longest of bucket k
    found = {}
    for number in np.unique(bucket):
        items = np.flatnonzero(bucket == number)
        low, high = lengths[items].min(), lengths[items].max()
        found[f"{low} {unit}" if low == high else f"{low}-{high} {unit}"] = items.tolist()
    return found if len(found) > 1 else {}


def origins(names: Sequence[str | None]) -> dict[str, list[int]]:
    """Return the positions of items by origin, the most frequent first; those of fewer than 20 items are one.

    An empty dict where that leaves a single one.
    """
    counts = Counter(name for name in names if name is not None)
    large = [name for name, number in counts.most_common() if number >= _SMALLEST]
    found = {name: [item for item, other in enumerate(names) if other == name] for name in large}
    if rest := [item for item, name in enumerate(names) if name not in found]:
        found.setdefault(_OTHERS, []).extend(rest)
    return found if len(found) > 1 else {}


def _slices(by: Literal["length", "source"], parts: dict[str, list[int]], rescore: Rescore) -> list[Slice]:
    return [Slice(by=by, name=name, n=len(part), scores=rescore(part)) for name, part in parts.items()]


def _clean_part(predictions: Sequence[Prediction], found: FoundItems, rescore: Rescore) -> Contamination:
    clean = [
        item
        for item, prediction in enumerate(predictions)
        if not found.holds(prediction.source) and not found.holds(prediction.reference)
    ]
    return Contamination(
        ngram=found.ngram,
        threshold=found.threshold,
        contaminated=len(predictions) - len(clean),
        clean=len(clean),
        scores=rescore(clean) if clean else {},
    )
