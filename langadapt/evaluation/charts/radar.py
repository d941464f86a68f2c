"""All metrics on the spokes of one wheel, better outwards."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas
from matplotlib.projections.polar import PolarAxes

from langadapt.evaluation.charts.panels import nothing, shortened, title_of
from langadapt.evaluation.comparison.figures import Comparison, Figure, Metric
from langadapt.figures import color_of, new_figure, note

_SPOKES = 12  # more cannot be labelled


def radar_chart(comparison: Comparison) -> Canvas:
    """One spoke a metric, with the ends of its scale written on it; intervals lie along it, crosses are floors."""
    metrics, left_out = _chosen(comparison)
    if not metrics:
        return nothing("nothing was measured")
    angles = [2 * math.pi * position / len(metrics) for position in range(len(metrics))]
    figure, (ax,) = new_figure(width=12, height=7.5, subplot_kw={"projection": "polar"})
    assert isinstance(ax, PolarAxes)
    figure.set_layout_engine("none")  # it would take the long labels for part of the circle and cut them
    ax.set_position((0.20, 0.17, 0.42, 0.67))
    ax.set_theta_offset(math.pi / 2)
    ax.set_theta_direction(-1)
    ends = [_end(metric, metrics) for metric in metrics]
    broken = []
    for position, (model, result) in enumerate(
        (m, [metric.figures[m] for metric in metrics]) for m in comparison.results
    ):
        radii = [_radius(f.value if f else math.nan, m, end) for f, m, end in zip(result, metrics, ends, strict=True)]
        if any(map(math.isnan, radii)):
            broken.append(shortened(model))
        # A missing value is NaN, where the line is interrupted.
        color, name = color_of(position), shortened(model)
        ax.plot([*angles, angles[0]], [*radii, radii[0]], marker="o", markersize=4, color=color, label=name)
        for angle, f, metric, end in zip(angles, result, metrics, ends, strict=True):
            if f and f.interval:
                reach = [_radius(value, metric, end) for value in (f.interval.low, f.interval.high)]
                ax.plot([angle, angle], reach, color=color, linewidth=3.5, alpha=0.35, solid_capstyle="butt")
    for angle, metric, end in zip(angles, metrics, ends, strict=True):
        floor = max(_floors(metric), default=None)
        if floor is not None:
            ax.plot(angle, _radius(floor, metric, end), marker="x", markersize=8, color="black", linestyle="none")
    ax.set_ylim(0, 1)
    ax.set_yticks([0.25, 0.5, 0.75, 1.0], [])
    ax.set_xticks(angles, [])
    for angle, metric, end in zip(angles, metrics, ends, strict=True):
        side = math.sin(angle)
        align = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        ax.text(angle, 1.12, _spoke(metric, end), ha=align, va="center", fontsize=9)
    figure.legend(loc="upper right", borderaxespad=1)
    said = (
        "Each spoke runs from the centre to the rim over the scale written on it; rings are quarters of it. "
        "Thick along a spoke: 95 % intervals. Cross: the highest floor of any model."
    )
    if broken:
        said += f" Lines are open where a figure is missing: {', '.join(broken)}."
    if left_out:
        said += f" Left out for room: {', '.join(metric.key for metric in left_out)}."
    note(figure, textwrap.fill(said, 150))
    return figure


def _chosen(comparison: Comparison) -> tuple[list[Metric], list[Metric]]:
    """Return the spokes and what found no room: BLEU goes first, since chrF is of the same texts."""
    metrics = comparison.main
    if len(metrics) > _SPOKES:
        metrics = sorted(metrics, key=lambda metric: metric.name == "BLEU")
        kept = metrics[:_SPOKES]
        return [metric for metric in comparison.main if metric in kept], metrics[_SPOKES:]
    return metrics, []


def _radius(value: float, metric: Metric, end: float) -> float:
    share = max(0.0, value / end) if not math.isnan(value) else value
    return 1 - share if metric.lower_is_better else share


def _end(metric: Metric, metrics: Sequence[Metric]) -> float:
    """Return the end of a spoke's scale: 1, 2 or 5 times a power of ten, the same for one metric everywhere."""
    # Rounded, since a perfect BLEU comes as 100.00000000000004.
    highest = round(max(other.highest for other in metrics if other.name == metric.name), 6)
    if highest == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 5, 10) if highest <= step * power)


def _floors(metric: Metric) -> list[float]:
    figures: list[Figure] = [figure for figure in metric.figures.values() if figure]
    return [floor for figure in figures for floor in figure.floors.values()]


def _spoke(metric: Metric, end: float) -> str:
    scale = f"{end:g} (centre) to 0 (rim)" if metric.lower_is_better else f"0 (centre) to {end:g} (rim)"
    return "\n".join(filter(None, [*textwrap.wrap(title_of(metric), 24), metric.prompt, scale]))
