"""The few-shot study: what examples in the prompt do for each model, beside what fine-tuning did.

A study is there for a direction when a model was asked with several numbers of examples (`num_fewshot` is a list).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from langadapt.evaluation.comparison.figures import own_rank
from langadapt.evaluation.results import Evaluation, Translation
from langadapt.figures import color_of, new_figure, note
from langadapt.recipe.test_sets import OWN

_METRICS = {"chrf": "chrF", "bleu": "BLEU"}
_OWN = ("chat", "translation")  # prompts without examples, of some models only

Value = TypeVar("Value")


class FewShotRow(NamedTuple):
    """One point of the study; the field names are a table's header. Scores and their ends are from 0 to 100."""

    test_set: str
    direction: str
    metric: str  # chrF or BLEU
    model: str
    prompt: str  # 0-shot, 1-shot, ..., chat, translation
    score: float
    low: float | None  # ends of the 95 % interval; None for a single item
    high: float | None
    shuffled: float | None  # floor: the same hypotheses against other items' references
    n: int
    fewest_examples: int  # less than the prompt's name says where not all fitted
    comparable: str  # yes, or what differs from most models: other data, other metric, other examples


def fewshot_rows(evaluations: Mapping[str, Evaluation]) -> list[FewShotRow]:
    """Return the study's figures by test set, direction, metric, model and number of examples, own prompts last.

    ``evaluations`` are by model name, in the order of the charts; models that were asked only once stand in it too, to
    be compared with. Empty where there is no study.
    """
    rows = []
    for test_set, direction in _studied(evaluations):
        asked = [
            (model, translation)
            for model, evaluation in evaluations.items()
            for translation in sorted(evaluation.translations, key=lambda t: own_rank(t.prompt))
            if (translation.test_set, translation.direction) == (test_set, direction)
        ]
        for metric, shown in _METRICS.items():
            scored = [(model, translation) for model, translation in asked if metric in translation.scores]
            reasons = _reasons([translation for _, translation in scored], metric)
            for (model, translation), reason in zip(scored, reasons, strict=True):
                score = translation.scores[metric]
                rows.append(
                    FewShotRow(
                        test_set,
                        direction,
                        shown,
                        model,
                        translation.prompt.name,
                        score.score,
                        score.interval.low if score.interval else None,
                        score.interval.high if score.interval else None,
                        score.floors.get("shuffled"),
                        translation.n,
                        min(translation.prompt.examples, default=0),
                        reason,
                    )
                )
    return rows


def fewshot_chart(evaluations: Mapping[str, Evaluation]) -> Canvas | None:
    """Draw the score against the number of examples, a line a model, a row a direction; None where there is no study.

    Only figures that compare are drawn; the others are named below.
    """
    rows = fewshot_rows(evaluations)
    if not rows:
        return None
    colors = {model: color_of(position) for position, model in enumerate(evaluations)}
    panels = [list(group) for _, group in groupby(rows, key=lambda row: row[:3])]
    height = math.ceil(len(panels) / 2)
    figure, axes = new_figure(height, 2, width=12, height=1.3 + 3.7 * height)
    for ax, panel in zip(axes, panels, strict=False):
        drawn = [row for row in panel if row.comparable == "yes"]
        _panel(ax, drawn, colors)
        place = "" if panel[0].test_set == OWN else f" {panel[0].test_set}"
        direction = panel[0].direction.replace("-", " → ")
        ax.set_title(f"{panel[0].metric} {direction}{place}, n = {drawn[0].n:,}")
    for ax in axes[len(panels) :]:
        ax.remove()
    entries: dict[str, Artist] = {}
    for ax in axes[: len(panels)]:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    order = [
        name for model in colors for name in (model, *(_legend(model, prompt) for prompt in _OWN)) if name in entries
    ]
    figure.legend([entries[name] for name in order], order, loc="outside upper left", ncols=4)
    note(figure, "\n".join(textwrap.fill(line, 165) for line in _notes(rows)))
    return figure


def _studied(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, str]]:
    """Return every test set and direction that some model was asked with several numbers of examples."""
    shots: dict[tuple[str, str], dict[str, set[int]]] = {}
    for model, evaluation in evaluations.items():
        for translation in evaluation.translations:
            if translation.prompt.format == "few_shot":
                models = shots.setdefault((translation.test_set, translation.direction), {})
                models.setdefault(model, set()).add(translation.prompt.asked)
    return [key for key, models in shots.items() if any(len(numbers) > 1 for numbers in models.values())]


def _reasons(translations: Sequence[Translation], metric: str) -> list[str]:
    """Say of each translation whether it was measured as most were: the same items, signature and examples."""
    conditions = [(t.items_sha256, t.scores[metric].signature) for t in translations]
    shared = _most(conditions)
    alike = [t for t, condition in zip(translations, conditions, strict=True) if condition == shared]
    prompts = {
        name: _most([t.prompt.first for t in alike if t.prompt.name == name])
        for name in {t.prompt.name for t in alike if t.prompt.format == "few_shot"}
    }
    reasons = []
    for translation, condition in zip(translations, conditions, strict=True):
        if condition != shared:
            reasons.append("other data" if condition[0] != shared[0] else "other metric")
        elif translation.prompt.first != prompts.get(translation.prompt.name, translation.prompt.first):
            reasons.append("other examples")
        else:
            reasons.append("yes")
    return reasons


def _most(values: Sequence[Value]) -> Value:
    return max(values, key=values.count)


def _panel(ax: Axes, rows: Sequence[FewShotRow], colors: Mapping[str, str]) -> None:
    asked = [row for row in rows if row.prompt not in _OWN]
    for model, group in groupby(asked, key=lambda row: row.model):
        points, color = list(group), colors[model]
        ax.plot([*map(_shots, points)], [row.score for row in points], "o-", color=color, markersize=5, label=model)
        known = [(_shots(row), row.low, row.high) for row in points if row.low is not None and row.high is not None]
        if len(known) > 1:
            x, low, high = ([*values] for values in zip(*known, strict=True))
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        for x_only, low_end, high_end in known if len(known) == 1 else []:
            ax.vlines(x_only, low_end, high_end, color=color, linewidth=1.2)
        for row in points:
            if row.fewest_examples < _shots(row):
                ax.plot(_shots(row), row.score, "o", color=color, markersize=5, markerfacecolor="white")
        floor = [(_shots(row), row.shuffled) for row in points if row.shuffled is not None]
        ax.plot([x for x, _ in floor], [value for _, value in floor], ":", color=color, linewidth=1.2, marker="_")
    for row in rows:
        if row.prompt in _OWN:
            label = _legend(row.model, row.prompt)
            ax.axhline(row.score, color=colors[row.model], linestyle="--", linewidth=1.5, label=label)
            if row.low is not None and row.high is not None:
                ax.axhspan(row.low, row.high, color=colors[row.model], alpha=0.08, linewidth=0)
    shots = sorted({_shots(row) for row in asked})
    ax.set_xticks(shots)
    if shots:
        ax.set_xlim(shots[0] - 0.3, shots[-1] + 0.3)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("examples in the prompt")


def _legend(model: str, prompt: str) -> str:
    return f"{model}, {prompt}"


def _shots(row: FewShotRow) -> int:
    return int(row.prompt.partition("-")[0])


def _notes(rows: Sequence[FewShotRow]) -> list[str]:
    said = (
        "Bands: 95 % intervals by bootstrap over items. Dotted: floor, the same hypotheses against the references of "
    )
    said += "other items."
    if any(row.prompt == "chat" for row in rows):
        said += " Dashed: asked through the model's chat template, without examples."
    if any(row.prompt == "translation" for row in rows):
        said += " Translation: of a translator, which is given the source alone."
    if any(row.prompt not in _OWN and row.fewest_examples < _shots(row) for row in rows):
        said += " Hollow: the examples did not all fit into some prompts."
    apart = dict.fromkeys(
        f"{row.model} {row.direction} {row.prompt} ({row.comparable})" for row in rows if row.comparable != "yes"
    )
    return [said, f"Not drawn, since not measured as most were: {', '.join(apart)}."] if apart else [said]
