"""Likelihood, translation, and the overview of all metrics, as bars from zero."""

from __future__ import annotations

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogFormatter

from langadapt.evaluation.charts.panels import (
    INTERVAL_NOTE,
    bars,
    floor_legend,
    height_of,
    nothing,
    one_row_a_model,
    say_missing,
    title_of,
)
from langadapt.evaluation.comparison.figures import Comparison, Metric, View
from langadapt.figures import color_of, new_figure, note

_VIEWS: tuple[View, ...] = ("shared", "own")


def perplexity_chart(comparison: Comparison) -> Canvas:
    """Bits per byte as bars from zero; token perplexity as points on a logarithmic axis, which has no zero.

    One row of panels a text.
    """
    metrics = [metric for metric in comparison.metrics if metric.kind == "likelihood"]
    if not metrics:
        return nothing("no likelihood was measured")
    rows = len(metrics)
    figure, axes = new_figure(rows, 2, width=11, height=height_of(comparison) * rows, sharey=True)
    for metric, left, right in zip(metrics, axes[::2], axes[1::2], strict=True):
        bars(left, metric, metric.highest)
        left.set_title(title_of(metric))
        left.set_xlabel(f"lower is better; {metric.count}")
        _points(right, comparison, metric)
    note(figure, INTERVAL_NOTE)
    return figure


def translation_chart(comparison: Comparison) -> Canvas:
    """BLEU and chrF, one row a direction; side by side the shared prompt and each model's own, where they differ.

    A metric has one scale for all directions and both views.
    """
    metrics = [
        metric for metric in comparison.metrics if metric.kind == "translation" and metric.name in ("BLEU", "chrF")
    ]
    if not metrics:
        return nothing("no translation was measured")
    columns: list[tuple[str, View]] = [(name, view) for view in _VIEWS for name in ("BLEU", "chrF")]
    columns = [column for column in columns if any((m.name, m.view) == column for m in metrics)]
    places = list(dict.fromkeys((metric.test_set, metric.of) for metric in metrics))
    found = {(m.test_set, m.of, m.name, m.view): m for m in metrics}
    figure, axes = new_figure(
        len(places),
        len(columns),
        width=1.5 + 4.2 * len(columns),
        height=(height_of(comparison) + 0.25) * len(places) + 0.3,
        sharey=True,
    )
    for number, ax in enumerate(axes):
        place, (name, view) = places[number // len(columns)], columns[number % len(columns)]
        metric = found.get((*place, name, view))
        if metric is None:
            _blank(
                ax, list(comparison.results), "No shared prompt:\nall were asked in chat" if view == "shared" else ""
            )
            continue
        bars(ax, metric, max(other.highest for other in metrics if other.name == name), show_prompts=view == "own")
        asked = "own prompts" if view == "own" else f"all {metric.prompt}"
        ax.set_title(f"{title_of(metric)}\n{asked}, {metric.count}")
    floor_legend(figure, metrics)
    note(figure, f"{INTERVAL_NOTE} A figure compares within its panel: the panels differ in direction or prompt.")
    return figure


def overview_chart(comparison: Comparison) -> Canvas:
    """Every metric in one picture, each on a scale of its own from zero."""
    metrics = comparison.shown
    if not metrics:
        return nothing("nothing was measured")
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure, axes = new_figure(
        rows, columns, width=max(8, 4.2 * columns + 1.5), height=(height_of(comparison) + 0.2) * rows + 0.3, sharey=True
    )
    for ax, metric in zip(axes, metrics, strict=False):
        bars(ax, metric, metric.highest, show_prompts=metric.view == "own")
        better = "lower is better" if metric.lower_is_better else "higher is better"
        ax.set_title(
            "\n".join([*textwrap.wrap(title_of(metric), 36), ", ".join(filter(None, [metric.prompt, better]))])
        )
    for ax in axes[len(metrics) :]:
        ax.remove()
    floor_legend(figure, metrics)
    note(figure, f"Each panel has a scale of its own. {INTERVAL_NOTE}")
    return figure


def _blank(ax: Axes, models: list[str], title: str) -> None:
    """Leave a panel empty, but for its title and the models' names, which its row may have nowhere else."""
    one_row_a_model(ax, models)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.xaxis.set_visible(False)
    ax.set_title(title)


def _points(ax: Axes, comparison: Comparison, metric: Metric) -> None:
    """Draw token perplexities; hollow, and with a warning, where they do not compare."""
    models = list(comparison.results)
    one_row_a_model(ax, models)
    same = comparison.same_tokenization(metric)
    values = {}
    for row, model in enumerate(models):
        likelihood = comparison.likelihood(model, metric)
        if likelihood is None:
            say_missing(ax, row, metric.reasons[model])
        else:
            values[row] = likelihood.token_perplexity
    for row, value in values.items():
        ax.plot(value, row, "o", markersize=9, color=color_of(row), fillstyle="full" if same else "none")
        text = f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
        ax.annotate(text, (value, row), (8, 0), textcoords="offset points", va="center", fontsize=9)
    lowest, highest = min(values.values()), max(values.values())
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.5, highest * 1.5 * (highest / lowest) ** 0.2)
    ax.xaxis.set_major_formatter(LogFormatter())
    ax.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ax.set_title("Token perplexity" if same else "Token perplexity (not comparable)")
    ax.set_xlabel(f"lower is better; logarithmic scale; {'same tokenizer' if same else 'tokenized differently'}")
