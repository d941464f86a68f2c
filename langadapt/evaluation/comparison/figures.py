"""The value objects of a comparison: a figure, a column of figures that compare, a change, and all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from langadapt.evaluation.results import Evaluation, Interval, Likelihood, Prompt, Translation
from langadapt.recipe.bars import Bar
from langadapt.recipe.test_sets import OWN

View = Literal["shared", "own"]

_PERCENT = ("BLEU", "chrF", "chrF++")  # from 0 to 100, where the others are of the order of 1


@dataclass(frozen=True)
class Figure:
    """One measured value with its interval and floors, and what must be the same for another to stand beside it."""

    value: float
    interval: Interval | None
    floors: dict[str, float]
    count: str  # what it was measured on, e.g. n = 100
    items_sha256: str
    signature: str
    prompt: str = ""  # Prompt.name; empty where nothing was asked
    asked: str = ""  # the first prompt, letter for letter, where it must be the same

    @property
    def condition(self) -> tuple[str, str, str]:
        """What has to be equal: the items, the metric's signature, the prompt."""
        return self.items_sha256, self.signature, self.asked


@dataclass(frozen=True)
class Metric:
    """A column of the comparison. A model without a comparable figure has None, and a reason of two words.

    ``apart`` holds the figures that were measured, but not as the others were. ``p_values`` are of differences between
    two models (`differences.add_differences`); a pair that could not be compared has none.
    """

    kind: Literal["likelihood", "translation", "choices"]
    name: str  # bits per byte, BLEU, chrF, accuracy, ...
    test_set: str
    of: str  # a language, or a direction
    figures: dict[str, Figure | None]  # by model, in the order of the charts
    reasons: dict[str, str]
    apart: dict[str, Figure]
    view: View | None = None
    prompt: str = ""  # what all were asked, e.g. 4-shot; "own prompts" where each was asked its own way
    p_values: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The metric in plain text, unlike every other's: ``chrF zh-bo, 4-shot``."""
        place = self.of if self.test_set == OWN else f"{self.of} {self.test_set}"
        return ", ".join(filter(None, [f"{self.name} {place}", self.prompt]))

    @property
    def lower_is_better(self) -> bool:
        """True for bits per byte, False for scores."""
        return self.kind == "likelihood"

    @property
    def count(self) -> str:
        """What the figures were measured on, the same for all of them; empty where there are none."""
        return next((figure.count for figure in self.figures.values() if figure), "")

    @property
    def signature(self) -> str:
        """The signature that all figures share; empty where there are none."""
        return next((figure.signature for figure in self.figures.values() if figure), "")

    @property
    def highest(self) -> float:
        """The largest value, end of an interval or floor, at least 0."""
        figures = [figure for figure in self.figures.values() if figure]
        ends = [figure.interval.high for figure in figures if figure.interval]
        return max([0.0, *ends, *(f.value for f in figures), *(v for f in figures for v in f.floors.values())])

    def show(self, value: float) -> str:
        """Return a value with the digits that mean something."""
        return f"{value:.2f}" if self.name in _PERCENT else f"{value:.3f}"

    def p_value(self, first: str, second: str) -> float | None:
        """Return the p-value of the difference between two models, None where it was not tested."""
        return self.p_values.get((first, second), self.p_values.get((second, first)))

    def ranked(self) -> list[str]:
        """Return the models that have a figure, best first."""
        values = {model: figure.value for model, figure in self.figures.items() if figure}
        return sorted(values, key=lambda model: values[model], reverse=not self.lower_is_better)

    def leader(self, alpha: float = 0.05) -> str | None:
        """Return the model that is better than every other at ``p < alpha``, None where there is none."""
        best, *others = self.ranked() or [""]
        tested = [self.p_value(best, other) for other in others]
        return best if tested and all(p is not None and p < alpha for p in tested) else None


@dataclass(frozen=True)
class Change:
    """A figure of one model against the baseline's: ``difference`` is the model's minus the baseline's."""

    metric: Metric
    baseline: str
    model: str
    difference: float
    interval: Interval | None
    p: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether a model clears a bar. ``why`` says how the figure was measured, or why there is none."""

    bar: Bar
    model: str
    outcome: Literal["pass", "fail", "not measured"]
    value: float | None
    why: str


@dataclass(frozen=True)
class Comparison:
    """All results of a folder: by model in the order of the charts, metric by metric, with what has to be said."""

    results: dict[str, Evaluation]
    metrics: list[Metric]  # likelihoods, then translations, then choices
    cautions: list[str]
    forgetting: list[Change] = field(default_factory=list)  # on other languages than the one that is trained
    verdicts: list[Verdict] = field(default_factory=list)  # on the bars, of each model that they name

    @property
    def shown(self) -> list[Metric]:
        """The metrics of charts and sentences: all but chrF++, which the tables have beside chrF."""
        return [metric for metric in self.metrics if metric.name != "chrF++"]

    @property
    def main(self) -> list[Metric]:
        """One figure of each kind: of a direction BLEU and chrF in the shared view, where all models can have one.

        A translator has no few-shot prompt, so that beside translators each model is shown under its own.
        """
        shared = {(metric.test_set, metric.of) for metric in self.metrics if metric.view == "shared"}
        shared -= {
            (translation.test_set, translation.direction)
            for result in self.results.values()
            for translation in result.translations
            if translation.prompt.format == "translation"
        }
        return [
            metric
            for metric in self.metrics
            if metric.kind != "translation"
            or (
                metric.name in ("BLEU", "chrF")
                and (metric.view == "shared") == ((metric.test_set, metric.of) in shared)
            )
        ]

    def likelihood(self, model: str, metric: Metric) -> Likelihood | None:
        """Return the likelihood behind a model's figure, None where it has no place in the column."""
        if metric.kind != "likelihood" or metric.figures[model] is None:
            return None
        found = self.results[model].likelihoods
        return next(x for x in found if (x.test_set, x.language) == (metric.test_set, metric.of))

    def same_tokenization(self, metric: Metric) -> bool:
        """Whether token perplexities compare: the text was cut into the same tokens for all models of the column."""
        found = [self.likelihood(model, metric) for model in metric.figures]
        return len({likelihood.tokenization_sha256 for likelihood in found if likelihood}) < 2

    def translation(self, model: str, metric: Metric) -> Translation | None:
        """Return the translation behind a model's figure, None where it has no place in the column."""
        figure = metric.figures[model]
        if metric.kind != "translation" or figure is None:
            return None
        key = (metric.test_set, metric.of, figure.prompt)
        return next(x for x in self.results[model].translations if (x.test_set, x.direction, x.prompt.name) == key)


def own_rank(prompt: Prompt) -> tuple[bool, int]:
    """Return what a model's own prompt has most of: its own format before few-shot, then more examples before fewer."""
    return prompt.format != "few_shot", prompt.asked
