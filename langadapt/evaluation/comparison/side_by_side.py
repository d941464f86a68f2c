"""Several models side by side: which figures may stand in one column, and why the others may not.

A translation score depends on the model and on the prompt. Two views keep them apart: all models under one shared
few-shot prompt, and each model under its own, which is chat where it has one, else the prompt with most examples; of
a translator it is the source alone, which no other model shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from langadapt.errors import UserError
from langadapt.evaluation.comparison.bars import bars_for, judge
from langadapt.evaluation.comparison.cautions import cautions_of
from langadapt.evaluation.comparison.differences import add_differences
from langadapt.evaluation.comparison.figures import Comparison, Figure, Metric, View, own_rank
from langadapt.evaluation.results import Choices, Evaluation, Likelihood, Translation, read_results
from langadapt.recipe.bars import Bar
from langadapt.recipe.test_sets import OWN

SCORES = {"bleu": "BLEU", "chrf": "chrF", "chrf++": "chrF++", "comet": "COMET", "labse": "LaBSE"}
_STAGES = ("base", "cpt", "sft")
Key = TypeVar("Key", bound=tuple[str, ...])


def load_comparison(
    folder: str | Path, order: Sequence[str] | None, resamples: int = 1000, bars: Sequence[Bar] = ()
) -> Comparison:
    """Compare every result of a folder, test the differences on the items in the files beside them, and judge ``bars``.

    A file that cannot be read is a caution, not an error. Raises `UserError` when no result can be read.
    """
    found, problems = read_results(folder)
    if not found:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{folder}: no results to compare. Make one: python 4_evaluate.py --model_path P --model_name N{listed}"
        )
    comparison = add_differences(put_side_by_side(found, order, bars), folder, resamples)
    return replace(comparison, cautions=problems + comparison.cautions)


def put_side_by_side(
    found: dict[str, Evaluation], order: Sequence[str] | None = None, bars: Sequence[Bar] | None = None
) -> Comparison:
    """Put results, given from oldest to newest, side by side; ``bars`` are those that each was measured for if None.

    Figures stand in one column only when they were measured on the same items with the same signature and, in the
    shared view, the same prompt: those that most models share, or of the newest where it is a tie. A model measured
    otherwise keeps its row and loses the figure. Raises `UserError` where ``order`` names a model that is not there.
    """
    models = _ordered(list(found), order)
    translators = [model for model, result in found.items() if _is_translator(result)]
    metrics: list[Metric] = []
    for key in _keys((x.test_set, x.language) for result in found.values() for x in result.likelihoods):
        texts = {model: _bits_per_byte(_likelihood(result, key)) for model, result in found.items()}
        absent = dict.fromkeys(translators, "not defined")
        metrics.append(_metric("likelihood", "bits per byte", key, texts, models, absent=absent))
    for key in _keys((x.test_set, x.direction) for result in found.values() for x in result.translations):
        metrics += _translation_metrics(key, found, models)
    for test_set, language, shots in _keys(
        (x.test_set, x.language, f"{x.num_fewshot}-shot, {x.method}") for r in found.values() for x in r.choices
    ):
        asked = {model: _choices(result, (test_set, language, shots)) for model, result in found.items()}
        for name in ("accuracy", "normalised accuracy"):
            measured = {model: _accuracy(value, name) for model, value in asked.items()}
            if any(measured.values()):
                metrics.append(_metric("choices", name, (test_set, language), measured, models, prompt=shots))
    results = {model: found[model] for model in models}
    if bars is None:
        bars = [bar for result in results.values() for bar in bars_for(result)]
    return Comparison(results, metrics, cautions_of(results, metrics), verdicts=judge(bars, results))


def _translation_metrics(key: tuple[str, str], found: Mapping[str, Evaluation], models: Sequence[str]) -> list[Metric]:
    asked = {model: _translations(result, key) for model, result in found.items()}
    translators = [model for model, result in found.items() if _is_translator(result)]
    name = _shared_prompt(asked)
    shared = {model: next((t for t in all_ if t.prompt.name == name), None) for model, all_ in asked.items()}
    own = {model: max(all_, key=lambda t: own_rank(t.prompt), default=None) for model, all_ in asked.items()}
    views: list[tuple[View, str, dict[str, Translation | None]]] = []
    if name is not None:
        views.append(("shared", name, shared))
    if own != shared:
        views.append(("own", "own prompts", own))
    metrics = []
    for view, prompt, chosen in views:
        for score, shown in SCORES.items():
            measured = {model: _score(t, score, view) for model, t in chosen.items()}
            if any(measured.values()):
                absent = dict.fromkeys(translators if view == "shared" else [], "has no such prompt")
                metrics.append(_metric("translation", shown, key, measured, models, view, prompt, absent))
    return metrics


def _is_translator(result: Evaluation) -> bool:
    return any(translation.prompt.format == "translation" for translation in result.translations)


def _shared_prompt(asked: Mapping[str, Sequence[Translation]]) -> str | None:
    """Return the few-shot prompt that most models were asked with, the longest of those; None where there is none."""
    prompts = [t.prompt for all_ in asked.values() for t in all_ if t.prompt.format == "few_shot"]
    names = [prompt.name for prompt in prompts]
    best = max(prompts, key=lambda prompt: (names.count(prompt.name), prompt.asked), default=None)
    return best.name if best else None


def _bits_per_byte(likelihood: Likelihood | None) -> Figure | None:
    if likelihood is None:
        return None
    count = f"{likelihood.documents:,} documents, {likelihood.bytes:,} bytes"
    return Figure(likelihood.bits_per_byte, likelihood.interval, {}, count, likelihood.items_sha256, "")


def _score(translation: Translation | None, name: str, view: View) -> Figure | None:
    score = translation and translation.scores.get(name)
    if not translation or not score:
        return None
    prompt = translation.prompt
    count, asked = f"n = {translation.n:,}", prompt.first if view == "shared" else ""
    items = translation.items_sha256
    return Figure(score.score, score.interval, score.floors, count, items, score.signature, prompt.name, asked)


def _accuracy(choices: Choices | None, name: str) -> Figure | None:
    if choices is None:
        return None
    plain = name == "accuracy"
    value = choices.accuracy if plain else choices.normalised
    if value is None:
        return None
    interval = choices.interval if plain else choices.normalised_interval
    floors = {} if choices.chance is None else {"chance": choices.chance}
    return Figure(value, interval, floors, f"n = {choices.n:,}", choices.items_sha256, choices.signature)


def _metric(
    kind: Literal["likelihood", "translation", "choices"],
    name: str,
    key: tuple[str, str],
    measured: Mapping[str, Figure | None],
    models: Sequence[str],
    view: View | None = None,
    prompt: str = "",
    absent: Mapping[str, str] | None = None,
) -> Metric:
    """Return a column for ``models``, in their order, of figures given from oldest to newest.

    ``absent`` says of some models why they can have no figure in it.
    """
    conditions = [figure.condition for figure in measured.values() if figure]
    shared = max(reversed(conditions), key=conditions.count)  # of equally frequent ones the newest
    figures: dict[str, Figure | None] = {}
    reasons, apart = {}, {}
    for model in models:
        figure = measured[model]
        figures[model] = figure if figure and figure.condition == shared else None
        if figure is None:
            reasons[model] = (absent or {}).get(model, "not measured")
        elif figure.condition != shared:
            unlike = [one != other for one, other in zip(figure.condition, shared, strict=True)]
            reasons[model] = ("other data", "other metric", "other prompt")[unlike.index(True)]
            apart[model] = figure
    return Metric(kind, name, *key, figures, reasons, apart, view, prompt)


def _keys(found: Iterable[Key]) -> list[Key]:
    """Return each key once, in the order of its first appearance, the recipe's own test set first."""
    return sorted(dict.fromkeys(found), key=lambda key: key[0] != OWN)


def _likelihood(result: Evaluation, key: tuple[str, str]) -> Likelihood | None:
    return next((x for x in result.likelihoods if (x.test_set, x.language) == key), None)


def _translations(result: Evaluation, key: tuple[str, str]) -> list[Translation]:
    return [x for x in result.translations if (x.test_set, x.direction) == key]


def _choices(result: Evaluation, key: tuple[str, str, str]) -> Choices | None:
    return next(
        (x for x in result.choices if (x.test_set, x.language, f"{x.num_fewshot}-shot, {x.method}") == key), None
    )


def _ordered(found: Sequence[str], order: Sequence[str] | None) -> list[str]:
    """Return the models as ``order`` has them, or by stage; the rest from oldest to newest."""
    if order is None:
        return sorted(found, key=_stage)
    absent = [model for model in order if model not in found]
    if absent:
        raise UserError(f"`order` names {', '.join(absent)}, without a result (there are: {', '.join(found)}).")
    return [*order, *(model for model in found if model not in order)]


def _stage(model: str) -> int:
    return next((n for n, stage in enumerate(_STAGES) if model.lower().startswith(stage)), len(_STAGES))
