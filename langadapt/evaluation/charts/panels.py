"""What the charts share: a panel of bars with one row a model, titles, the mark of what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from langadapt.errors import UserError
from langadapt.evaluation.comparison.figures import Comparison, Metric
from langadapt.figures import MISSING, color_of, label, new_figure
from langadapt.recipe import load_language
from langadapt.recipe.test_sets import OWN

GREY = "#777777"
INTERVAL_NOTE = "Thin lines with ends: 95 % intervals by bootstrap."
_FLOORS: dict[str, tuple[str, Literal["-", "--", ":", "-."]]] = {
    "shuffled": ("floor: the same hypotheses, references shuffled", "-"),
    "copied_source": ("floor: the source, copied", "--"),
    "neighbour": ("floor: the neighbour language", ":"),
    "chance": ("chance", "-."),
}


def bars(ax: Axes, metric: Metric, highest: float, show_prompts: bool = False) -> None:
    """Draw one horizontal bar a model from zero, with value, interval and floors; ``highest`` ends the scale."""
    one_row_a_model(ax, list(metric.figures))
    ax.set_xlim(min([0.0, *(f.value * 1.2 for f in metric.figures.values() if f)]), highest * 1.28 or 1.0)
    for row, (model, figure) in enumerate(metric.figures.items()):
        if figure is None:
            say_missing(ax, row, metric.reasons[model])
            continue
        ax.barh(row, figure.value, height=0.65, color=color_of(row))
        if figure.interval:
            draw_interval(ax, row, figure.interval.low, figure.value, figure.interval.high)
        for name, floor in figure.floors.items():
            ax.plot([floor, floor], [row - 0.42, row + 0.42], color="black", linewidth=1.5, linestyle=_FLOORS[name][1])
        ends = [figure.value, *figure.floors.values(), *([figure.interval.high] if figure.interval else [])]
        text = metric.show(figure.value) + (f"  {figure.prompt}" if show_prompts else "")
        ax.annotate(text, (max(ends), row), (5, 0), textcoords="offset points", va="center", fontsize=9)
    if metric.count:
        ax.locator_params(axis="x", nbins=6)
    else:
        ax.set_xticks([])


def draw_interval(ax: Axes, row: int, low: float, value: float, high: float) -> None:
    """Draw an interval as an error bar; a value that bootstrap put outside its interval stands at its end."""
    reach = [[max(0.0, value - low)], [max(0.0, high - value)]]
    ax.errorbar(value, row, xerr=reach, color="#222222", elinewidth=1.0, capsize=2.5, fmt="none")


def say_missing(ax: Axes, row: int, reason: str) -> None:
    """Mark a row without a figure: a grey field from edge to edge that says why, which no bar looks like."""
    ax.axhspan(row - 0.33, row + 0.33, color=MISSING, alpha=0.5, linewidth=0)
    place = ax.get_yaxis_transform()
    ax.text(0.02, row, f"n/a: {reason}", va="center", fontsize=9, color="#555555", transform=place)


def floor_legend(figure: Canvas, metrics: Sequence[Metric]) -> None:
    """Explain, above the panels, the lines of the floors that any of the metrics has."""
    found = {name for metric in metrics for f in metric.figures.values() if f for name in f.floors}
    lines = [
        Line2D([], [], color="black", linestyle=style, label=text)
        for name, (text, style) in _FLOORS.items()
        if name in found
    ]
    if lines:
        figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), fontsize=9)


def one_row_a_model(ax: Axes, models: Sequence[str]) -> None:
    """Give each model a row, the first at the top."""
    ax.set_yticks(range(len(models)), [shortened(model) for model in models])
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x", color="#e6e6e6", linewidth=0.8)


def height_of(comparison: Comparison) -> float:
    """Return the inches that a panel with one row a model needs."""
    return 1.3 + 0.42 * len(comparison.results)


def title_of(metric: Metric) -> str:
    """Return a metric with its languages by their own names, and its test set where it is not the recipe's own."""
    if metric.kind == "translation":
        source, target = map(language_name, metric.of.split("-"))
        place = f"{source} → {target}"
    else:
        place = language_name(metric.of)
    name = metric.name[0].upper() + metric.name[1:] if metric.kind != "translation" else metric.name
    return f"{name} {place}" + ("" if metric.test_set == OWN else f" ({metric.test_set})")


def language_name(code: str) -> str:
    """Return a language's own name for itself, or its code where it has no profile or the fonts lack its script."""
    try:
        return label(load_language(code).autonym, code)
    except UserError:
        return code


def shortened(name: str, limit: int = 28) -> str:
    """Return a long name with its middle left out, so that the ends, which tell names apart, stay."""
    half = limit // 2
    return name if len(name) <= limit else f"{name[:half]}…{name[-half + 1 :]}"


def nothing(reason: str) -> Canvas:
    """Return a chart that only says why there is none."""
    figure, (ax,) = new_figure(height=2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, reason, ha="center", va="center", color=GREY)
    return figure
