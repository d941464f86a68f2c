"""What training on one language did to the others."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from langadapt.evaluation.charts.panels import draw_interval, nothing, one_row_a_model, say_missing, title_of
from langadapt.evaluation.comparison.figures import Change, Comparison, Metric
from langadapt.evaluation.tables.figures import p_in_words
from langadapt.figures import color_of, new_figure, note


def forgetting_chart(comparison: Comparison) -> Canvas:
    """The change of each model against the first one, a panel a metric: loss to the left, gain to the right."""
    metrics = list({change.metric.key: change.metric for change in comparison.forgetting}.values())
    if not metrics:
        return nothing("no other language was measured on two models, so nothing shows what was forgotten")
    baseline = comparison.forgetting[0].baseline
    columns = min(2, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    others = [model for model in comparison.results if model != baseline]
    figure, axes = new_figure(
        rows, columns, width=max(8, 6 * columns), height=(1.6 + 0.42 * len(others)) * rows + 0.3, sharey=True
    )
    for ax, metric in zip(axes, metrics, strict=False):
        changes = {change.model: change for change in comparison.forgetting if change.metric.key == metric.key}
        _panel(ax, metric, others, changes, list(comparison.results))
    for ax in axes[len(metrics) :]:
        ax.remove()
    note(
        figure,
        f"Differences from {baseline}; to the left of zero is what was lost. Thin lines with ends: 95 % intervals,\n"
        "by bootstrap over documents. p: paired bootstrap, not corrected for the number of comparisons.",
    )
    return figure


def _panel(ax: Axes, metric: Metric, models: list[str], changes: dict[str, Change], everyone: list[str]) -> None:
    one_row_a_model(ax, models)
    sign = -1 if metric.lower_is_better else 1
    ends = [0.0]
    for row, model in enumerate(models):
        change = changes.get(model)
        if change is None:
            say_missing(ax, row, metric.reasons.get(model, "not measured"))
            continue
        gain = sign * change.difference
        ax.barh(row, gain, height=0.65, color=color_of(everyone.index(model)))
        reach = [gain]
        if change.interval:
            reach = sorted(sign * end for end in (change.interval.low, change.interval.high))
            draw_interval(ax, row, reach[0], gain, reach[1])
        text = f"{'+' if change.difference > 0 else ''}{metric.show(change.difference)}"
        text += "" if change.p is None else f", {p_in_words(change.p)}"
        side = 1 if gain >= 0 else -1
        end = max([gain, *reach], key=lambda value: side * value)
        align = "left" if side > 0 else "right"
        ax.annotate(text, (end, row), (6 * side, 0), textcoords="offset points", va="center", ha=align, fontsize=9)
        ends += [gain, *reach]
    room = 0.75 * (max(ends) - min(ends) or 1.0)  # for the text beside the bars
    ax.set_xlim(min(ends) - room * (min(ends) < 0), max(ends) + room * (max(ends) > 0))
    ax.axvline(0, color="black", linewidth=0.8)
    ax.locator_params(axis="x", nbins=5)
    if metric.lower_is_better:
        ax.xaxis.set_major_formatter(lambda value, _: f"{-value:+g}" if value else "0")
    ax.set_xlabel("← lost    gained →")
    ax.set_title(", ".join(filter(None, [title_of(metric), metric.prompt])))
