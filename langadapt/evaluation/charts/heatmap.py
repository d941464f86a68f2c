"""The figures of all metrics as a coloured table."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure as Canvas

from langadapt.evaluation.charts.panels import nothing, shortened, title_of
from langadapt.evaluation.comparison.figures import Comparison, Metric
from langadapt.figures import MISSING, new_figure, note


def heatmap(comparison: Comparison) -> Canvas:
    """One row a metric, one column a model; the colour says where a model stands between the row's worst and best.

    Both views of a translation have their rows. An entry is the value, its interval and the highest floor; in an own
    view, also how the model was asked.
    """
    models = list(comparison.results)
    metrics = comparison.shown
    if not metrics:
        return nothing("nothing was measured")
    shades = np.array([[_rank(metric, model) for model in models] for metric in metrics])
    figure, (ax,) = new_figure(width=max(8.5, 4.5 + 1.9 * len(models)), height=2.0 + 0.6 * len(metrics))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(MISSING)
    image = ax.imshow(shades, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (row, column), shade in np.ndenumerate(shades):
        entry = metrics[row].figures[models[column]]
        color = "white" if shade < 0.62 else "black"
        text = _entry(metrics[row], models[column])
        ax.text(column, row, text, ha="center", va="center", fontsize=9 if entry else 8, color=color, linespacing=1.3)
    ax.set_yticks(range(len(metrics)), [", ".join(filter(None, [title_of(m), m.prompt])) for m in metrics])
    names = [shortened(model) for model in models]
    slant = max(map(len, names)) > 14
    ax.set_xticks(range(len(models)), names, rotation=25 if slant else 0, ha="left" if slant else "center")
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    bar = figure.colorbar(image, ax=ax, ticks=[0, 1], aspect=25, shrink=min(1.0, 5 / len(metrics)), anchor=(0, 1))
    bar.ax.set_yticklabels(["worst", "best"])
    note(
        figure,
        "Value, 95 % interval, and after | the highest floor. Colour: where a figure lies between the worst and the\n"
        "best of its row, however close those are: compare the figures, not the colours. A row whose figures are\n"
        "equal has the middle colour. Grey: missing.",
    )
    return figure


def _entry(metric: Metric, model: str) -> str:
    figure = metric.figures[model]
    if figure is None:
        return f"n/a\n{metric.reasons[model]}"
    value = metric.show(figure.value) + (f" {figure.prompt}" if metric.view == "own" else "")
    interval = f"{metric.show(figure.interval.low)}–{metric.show(figure.interval.high)}" if figure.interval else ""
    floor = f"| {metric.show(max(figure.floors.values()))}" if figure.floors else ""
    return "\n".join(filter(None, [value, " ".join(filter(None, [interval, floor]))]))


def _rank(metric: Metric, model: str) -> float:
    """Return 0 for the worst figure of a row, 1 for the best, 0.5 where all are equal, NaN for a missing one."""
    values = [figure.value for figure in metric.figures.values() if figure]
    figure = metric.figures[model]
    if figure is None:
        return math.nan
    lowest, highest = min(values), max(values)
    share = (figure.value - lowest) / (highest - lowest) if highest > lowest else 0.5
    return 1 - share if metric.lower_is_better else share
