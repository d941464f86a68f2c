"""The five charts of a comparison. Every model is in every chart; a figure that is missing is written as such."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import LogFormatter

from langadapt.errors import UserError
from langadapt.evaluation.comparison import Comparison, Metric
from langadapt.figures import MISSING, color_of, label, new_figure, note, save_figure
from langadapt.recipe import load_language

_FLOOR_NOTE = "Black line: the floor, what the same hypotheses get when the references are shuffled among them."
_GREY = "#777777"


def draw_charts(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Draw all five charts into a folder; return their paths."""
    charts = {
        "perplexity_comparison.png": perplexity_chart,
        "translation_metrics_comparison.png": translation_chart,
        "combined_metrics_overview.png": overview_chart,
        "metrics_heatmap.png": heatmap,
        "radar_chart.png": radar_chart,
    }
    paths = [Path(folder) / name for name in charts]
    for path, draw in zip(paths, charts.values(), strict=True):
        save_figure(draw(comparison), path)
    return paths


def perplexity_chart(comparison: Comparison) -> Canvas:
    """Bits per byte as bars from zero; token perplexity as points on a logarithmic axis, which has no zero."""
    figure, (left, right) = new_figure(1, 2, width=11, height=_height(comparison), sharey=True)
    metric = comparison.metrics[0]
    _bars(left, metric, metric.highest)
    left.set_title("Bits per byte (lower is better)")
    _points(right, comparison)
    note(figure, metric.count)
    return figure


def translation_chart(comparison: Comparison) -> Canvas:
    """BLEU and chrF side by side, one row a direction; a metric has one scale for all directions."""
    metrics = comparison.metrics[1:]
    if not metrics:
        return _nothing("no translation was measured")
    rows = len(metrics) // 2
    figure, axes = new_figure(rows, 2, width=11, height=_height(comparison) * rows, sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        _bars(ax, metric, max(other.highest for other in metrics if other.name == metric.name))
        ax.set_title(", ".join(filter(None, [_title(metric), metric.count])))
    note(figure, _FLOOR_NOTE)
    return figure


def overview_chart(comparison: Comparison) -> Canvas:
    """Every metric in one picture, each on a scale of its own from zero."""
    columns = min(3, len(comparison.metrics))
    rows = math.ceil(len(comparison.metrics) / columns)
    figure, axes = new_figure(
        rows, columns, width=max(8, 4 * columns + 1), height=_height(comparison) * rows, sharey=True
    )
    for ax, metric in zip(axes, comparison.metrics, strict=False):
        _bars(ax, metric, metric.highest)
        ax.set_title(_title(metric))
    for ax in axes[len(comparison.metrics) :]:
        ax.remove()
    note(figure, f"Each panel has a scale of its own. {_FLOOR_NOTE}")
    return figure


def heatmap(comparison: Comparison) -> Canvas:
    """The figures as a table; the colour says where a model stands between the worst and the best of its column."""
    models, metrics = list(comparison.results), comparison.metrics
    shades = np.full((len(models), len(metrics)), np.nan)
    for column, metric in enumerate(metrics):
        for row, model in enumerate(models):
            shades[row, column] = _rank(metric, model)
    figure, (ax,) = new_figure(width=max(8.5, 3 + 1.5 * len(metrics)), height=1.9 + 0.5 * len(models))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(MISSING)
    image = ax.imshow(shades, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (row, column), shade in np.ndenumerate(shades):
        metric, model = metrics[column], models[row]
        entry = metric.figures[model]
        text = metric.show(entry.value) if entry else f"n/a\n{metric.reasons[model]}"
        color = "white" if shade < 0.5 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=9 if entry else 8, color=color)
    ax.set_xticks(range(len(metrics)), [_title(metric).replace(" ", "\n", 1) for metric in metrics])
    ax.set_yticks(range(len(models)), models)
    ax.tick_params(length=0)
    bar = figure.colorbar(image, ax=ax, ticks=[0, 1])
    bar.ax.set_yticklabels(["worst", "best"])
    note(
        figure,
        "Colour: where a figure lies between the worst and the best of its column, however close those are: compare\n"
        "the figures, not the colours. A column whose figures are equal has the middle colour. Grey: missing.",
    )
    return figure


def radar_chart(comparison: Comparison) -> Canvas:
    """One spoke a metric, better outwards, with the ends of its scale written on it."""
    metrics = comparison.metrics
    angles = [2 * math.pi * position / len(metrics) for position in range(len(metrics))]
    figure, (ax,) = new_figure(width=11, height=6.5, subplot_kw={"projection": "polar"})
    assert isinstance(ax, PolarAxes)
    figure.set_layout_engine("none")  # it would take the long labels for part of the circle and cut them
    ax.set_position((0.22, 0.17, 0.40, 0.67))
    ax.set_theta_offset(math.pi / 2)
    ax.set_theta_direction(-1)
    ends = [_radar_end(metric, metrics) for metric in metrics]
    broken = []
    for position, model in enumerate(comparison.results):
        radii = []
        for metric, end in zip(metrics, ends, strict=True):
            value = metric.figures[model]
            share = math.nan if value is None else value.value / end
            radii.append(1 - share if metric.lower_is_better else share)
        if any(map(math.isnan, radii)):
            broken.append(model)
        # A missing value is NaN, where the line is interrupted.
        ax.plot([*angles, angles[0]], [*radii, radii[0]], marker="o", color=color_of(position), label=model)
    ax.set_ylim(0, 1)
    ax.set_yticks([0.25, 0.5, 0.75, 1.0], [])
    ax.set_xticks(angles, [])
    for angle, metric, end in zip(angles, metrics, ends, strict=True):
        side = math.sin(angle)
        align = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        ax.text(angle, 1.12, _spoke(metric, end), ha=align, va="center")
    figure.legend(loc="upper right", borderaxespad=1)
    said = "Each spoke runs from the centre to the rim over the scale written on it; rings are quarters of it."
    if broken:
        said += f" Lines are open where a figure is missing: {', '.join(broken)}."
    note(figure, textwrap.fill(said, 150))
    return figure


def _bars(ax: Axes, metric: Metric, highest: float) -> None:
    """Draw one horizontal bar a model from zero, its value, and its floor; ``highest`` is the end of the scale."""
    _one_row_a_model(ax, list(metric.figures))
    ax.set_xlim(0, highest * 1.25 or 1.0)
    for row, (model, figure) in enumerate(metric.figures.items()):
        if figure is None:
            ax.text(0, row, f" n/a: {metric.reasons[model]}", va="center", fontsize=9, color=_GREY)
            continue
        ax.barh(row, figure.value, height=0.65, color=color_of(row))
        end = max(figure.value, figure.floor or 0.0)
        ax.annotate(metric.show(figure.value), (end, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
        if figure.floor is not None:
            ax.plot([figure.floor, figure.floor], [row - 0.42, row + 0.42], color="black", linewidth=1.8)
    if metric.count:
        ax.locator_params(axis="x", nbins=6)
    else:
        ax.set_xticks([])


def _points(ax: Axes, comparison: Comparison) -> None:
    """Draw token perplexities; hollow, and with a warning, where they do not compare."""
    models = list(comparison.results)
    _one_row_a_model(ax, models)
    same = comparison.same_tokenization
    metric = comparison.metrics[0]
    values = {}
    for row, model in enumerate(models):
        perplexity = comparison.token_perplexity(model)
        if perplexity is None:
            place = ax.get_yaxis_transform()
            ax.text(0, row, f" n/a: {metric.reasons[model]}", va="center", fontsize=9, color=_GREY, transform=place)
        else:
            values[row] = perplexity
    for row, value in values.items():
        ax.plot(value, row, "o", markersize=9, color=color_of(row), fillstyle="full" if same else "none")
        text = f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
        ax.annotate(text, (value, row), (8, 0), textcoords="offset points", va="center", fontsize=9)
    if values:
        lowest, highest = min(values.values()), max(values.values())
        ax.set_xscale("log")
        ax.set_xlim(lowest / 1.5, highest * 1.5 * (highest / lowest) ** 0.2)
        ax.xaxis.set_major_formatter(LogFormatter())
        ax.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    else:
        ax.set_xticks([])
    ax.set_title("Token perplexity (lower is better)" if same else "Token perplexity (not comparable)")
    ax.set_xlabel("logarithmic scale; same tokenizer" if same else "logarithmic scale; tokenized differently")


def _one_row_a_model(ax: Axes, models: Sequence[str]) -> None:
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x", color="#e6e6e6", linewidth=0.8)


def _height(comparison: Comparison) -> float:
    return 1.3 + 0.42 * len(comparison.results)


def _rank(metric: Metric, model: str) -> float:
    """Return 0 for the worst figure of a column, 1 for the best, 0.5 where all are equal, NaN for a missing one."""
    values = [figure.value for figure in metric.figures.values() if figure]
    figure = metric.figures[model]
    if figure is None:
        return math.nan
    lowest, highest = min(values), max(values)
    share = (figure.value - lowest) / (highest - lowest) if highest > lowest else 0.5
    return 1 - share if metric.lower_is_better else share


def _radar_end(metric: Metric, metrics: Sequence[Metric]) -> float:
    """Return the end of a spoke's scale: 1, 2 or 5 times a power of ten, the same for one metric in all directions."""
    # Rounded, since a perfect BLEU comes as 100.00000000000004.
    highest = round(max(other.highest for other in metrics if other.name == metric.name), 6)
    if highest == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 5, 10) if highest <= step * power)


def _spoke(metric: Metric, end: float) -> str:
    scale = f"{end:g} (centre) to 0 (rim)" if metric.lower_is_better else f"0 (centre) to {end:g} (rim)"
    return f"{_title(metric)}\n{scale}"


def _title(metric: Metric) -> str:
    if metric.direction is None:
        return "Bits per byte"
    source, target = map(_language, metric.direction.split("-"))
    return f"{metric.name} {source} → {target}"


def _language(code: str) -> str:
    """Return a language's own name for itself, or its code where it has no profile or the fonts lack its script."""
    try:
        return label(load_language(code).autonym, code)
    except UserError:
        return code


def _nothing(reason: str) -> Canvas:
    figure, (ax,) = new_figure(height=2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, reason, ha="center", va="center", color=_GREY)
    return figure
