"""Several models side by side: which figures may stand in one column, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from langadapt.errors import UserError
from langadapt.evaluation.results import Evaluation, read_results

_STAGES = ("base", "cpt", "sft")


@dataclass(frozen=True)
class Figure:
    """One measured value, and what has to be the same for another to stand beside it."""

    value: float
    floor: float | None
    count: str  # what it was measured on, e.g. 100 records
    items_sha256: str
    signature: str


@dataclass(frozen=True)
class Metric:
    """A column of the comparison. A model without a comparable figure has None, and a reason of two words.

    ``apart`` holds the figures that were measured, but not on what the others were.
    """

    name: str  # bits per byte, BLEU or chrF
    direction: str | None
    figures: dict[str, Figure | None]  # by model, in the order of the charts
    reasons: dict[str, str]
    apart: dict[str, Figure]

    @property
    def key(self) -> str:
        """The metric in plain text: ``chrF zh-bo``."""
        return f"{self.name} {self.direction}" if self.direction else self.name

    @property
    def lower_is_better(self) -> bool:
        """True for bits per byte, False for scores."""
        return self.direction is None

    @property
    def count(self) -> str:
        """What the figures were measured on, the same for all of them; empty where there are none."""
        return next((figure.count for figure in self.figures.values() if figure), "")

    @property
    def highest(self) -> float:
        """The largest value or floor, 0 where there is none."""
        figures = [figure for figure in self.figures.values() if figure]
        return max((max(figure.value, figure.floor or 0.0) for figure in figures), default=0.0)

    def show(self, value: float) -> str:
        """Return a value with the digits that mean something."""
        return f"{value:.2f}" if self.direction else f"{value:.3f}"


@dataclass(frozen=True)
class Comparison:
    """All results of a folder: by model in the order of the charts, metric by metric, with what has to be said."""

    results: dict[str, Evaluation]
    metrics: list[Metric]  # bits per byte first, then BLEU and chrF of each direction
    cautions: list[str]

    def token_perplexity(self, model: str) -> float | None:
        """Return a model's token perplexity, None where its bits per byte have no place in the comparison either."""
        likelihood = self.results[model].perplexity
        return likelihood.token_perplexity if likelihood and self.metrics[0].figures[model] else None

    @property
    def same_tokenization(self) -> bool:
        """Whether token perplexities compare: the held-out text was cut into the same tokens for all models."""
        compared = [result.perplexity for model, result in self.results.items() if self.metrics[0].figures[model]]
        return len({likelihood.tokenization_sha256 for likelihood in compared if likelihood}) < 2


def load_comparison(folder: str | Path, order: Sequence[str] | None) -> Comparison:
    """Compare every result of a folder; a file that cannot be read is a caution. Raise `UserError` when none can."""
    found, problems = read_results(folder)
    if not found:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{folder}: no results to compare. Make one: python 4_evaluate.py --model_path P --model_name N{listed}"
        )
    comparison = put_side_by_side(found, order)
    return replace(comparison, cautions=problems + comparison.cautions)


def put_side_by_side(found: dict[str, Evaluation], order: Sequence[str] | None = None) -> Comparison:
    """Put results, given from oldest to newest, side by side.

    Figures stand in one column only when they were measured on the same items with the same signature: those that most
    models share, or of the newest where it is a tie. A model measured otherwise keeps its row and loses the figure.
    """
    results = {model: found[model] for model in _ordered(list(found), order)}
    metrics = [_metric("bits per byte", None, {model: _bits_per_byte(found[model]) for model in found}, results)]
    for direction in dict.fromkeys(direction for result in found.values() for direction in result.translation):
        for name, key in (("BLEU", "bleu"), ("chrF", "chrf")):
            measured = {model: _score(found[model], direction, key) for model in found}
            metrics.append(_metric(name, direction, measured, results))
    return Comparison(results, metrics, _missing(results) + _differences(results, metrics))


def _bits_per_byte(result: Evaluation) -> Figure | None:
    likelihood = result.perplexity
    if likelihood is None:
        return None
    count = f"{likelihood.documents:,} documents, {likelihood.bytes:,} bytes"
    return Figure(likelihood.bits_per_byte, None, count, likelihood.items_sha256, "")


def _score(result: Evaluation, direction: str, name: str) -> Figure | None:
    translation = result.translation.get(direction)
    if translation is None:
        return None
    score = getattr(translation, name)
    return Figure(score.score, score.floor, f"n = {translation.n:,}", translation.items_sha256, score.signature)


def _metric(name: str, direction: str | None, measured: Mapping[str, Figure | None], models: Iterable[str]) -> Metric:
    """Return a column for ``models``, in their order, of figures given from oldest to newest."""
    conditions = [(figure.items_sha256, figure.signature) for figure in measured.values() if figure]
    shared = max(reversed(conditions), key=conditions.count, default=None)  # of equally frequent ones the newest
    figures: dict[str, Figure | None] = {}
    reasons, apart = {}, {}
    for model in models:
        figure = measured[model]
        figures[model] = figure if figure and (figure.items_sha256, figure.signature) == shared else None
        if figure is None or shared is None:
            reasons[model] = "not measured"
        elif figures[model] is None:
            reasons[model] = "other metric" if figure.items_sha256 == shared[0] else "other data"
            apart[model] = figure
    return Metric(name, direction, figures, reasons, apart)


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


def _missing(results: dict[str, Evaluation]) -> list[str]:
    return [f"{model}: {key}: {reason}" for model, result in results.items() for key, reason in result.missing.items()]


def _differences(results: dict[str, Evaluation], metrics: Sequence[Metric]) -> list[str]:
    """Say what was not the same for all models, and so may explain a difference between their figures."""
    said = []
    for model in results:
        apart = [
            f"{metric.key} {metric.show(metric.apart[model].value)} ({metric.reasons[model]})"
            for metric in metrics
            if model in metric.apart
        ]
        if apart:
            said.append(f"{model}: {', '.join(apart)}: not measured as for most models, so in no column")
        limit = results[model].settings.get("limit")
        if limit is not None:
            said.append(f"{model}: limit={limit}: at most so many documents, and records a direction, were scored")
    conditions = {
        "prompts": {
            model: " + ".join(sorted({t.prompt.describe() for t in result.translation.values() if t}))
            for model, result in results.items()
        },
        "likelihood windows": {
            model: f"{result.perplexity.max_length} tokens" for model, result in results.items() if result.perplexity
        },
        "number formats": {model: result.dtype for model, result in results.items()},
    }
    for what, by_model in conditions.items():
        if len(set(filter(None, by_model.values()))) > 1:
            each = ", ".join(f"{model}: {value}" for model, value in by_model.items() if value)
            said.append(f"{what} differ ({each}); a difference between figures may be theirs")
    return said
