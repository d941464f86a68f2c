"""What the charts of stage 5 share: types by colour, relative change by logarithm, layers in depth, titles."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from langadapt.figures import color_of, note
from langadapt.weights.comparison import Record, Stage
from langadapt.weights.tensor_types import TYPES

_COLORS = dict(zip(TYPES, map(color_of, (0, 5, 1, 8, 2, 7, 4, 3, 9)), strict=True))
_MOST_TICKS = 8


def colors(tensors: Sequence[Record]) -> list[str]:
    """Return the colour of each tensor's type; a type has one colour in all charts."""
    return [_COLORS[tensor["type"]] for tensor in tensors]


def scatter(ax: Axes, across: Sequence[float], up: Sequence[float], tensors: Sequence[Record]) -> None:
    """Draw a dot for each tensor."""
    ax.scatter(across, up, color=colors(tensors), s=18, alpha=0.75, linewidths=0)


def type_legend(ax: Axes, types: Sequence[Record]) -> None:
    """Put the legend of types to the right of ``ax``."""
    marks = [
        Line2D([], [], marker="o", linestyle="", color=color, label=kind["type"])
        for kind, color in zip(types, colors(types), strict=True)
    ]
    ax.legend(handles=marks, loc="upper left", bbox_to_anchor=(1.01, 1), title="type")


def log_axis(ax: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Make an axis logarithmic around ``values`` (not empty, above zero), with plain numbers at 1, 2, 5 or at 1 only.

    The limits are themselves 1, 2 or 5 times a power of ten, so that there are always two labels to read a scale from.
    """
    low, high = min(values) * 0.95, max(values) * 1.05
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    limits = max(step for step in steps if step <= low), min(step for step in steps if step >= high)
    ticks = [step for step in steps if limits[0] <= step <= limits[1]]
    if len(ticks) > _MOST_TICKS:
        powers = [10.0**decade for decade in decades if limits[0] <= 10.0**decade <= limits[1]]
        ticks = powers[:: math.ceil(len(powers) / _MOST_TICKS)]
    ax.set(**{f"{which}scale": "log", f"{which}lim": limits})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def depth_axis(ax: Axes, layers: Sequence[int | str]) -> None:
    """Make the x axis run from the embedding through the layers to the output, as `depths` places them.

    ``layers`` are what `layer_of` calls them, in their order.
    """
    before, after = _ends(len(layers))
    shown = range(0, len(layers), max(1, math.ceil(len(layers) / 10)))
    ax.set_xticks([before, *shown, after], ["in", *(short_layer(layers[place]) for place in shown), "out"])
    ax.set_xlim(before - 0.8, after + 0.8)
    ax.set_xlabel(f"layer{stacks_of(layers)} (in: embedding; out: final norm and output)")


def short_layer(layer: int | str) -> str:
    """Return what an axis calls a layer: 3, or e3 for ``encoder 3``."""
    return re.sub(r"(?<=^[ed])\w+ ", "", str(layer))


def stacks_of(layers: Sequence[int | str]) -> str:
    """Return what the letters of `short_layer` mean, in brackets; nothing for a model of one stack."""
    return " (e: encoder; d: decoder)" if any(isinstance(layer, str) for layer in layers) else ""


def depths(tensors: Sequence[Record], layers: Sequence[int | str]) -> list[float]:
    """Return the place of each tensor on a `depth_axis`."""
    before, after = _ends(len(layers))
    places: dict[int | str, float] = {layer: float(place) for place, layer in enumerate(layers)}
    outside = [before if tensor["type"] in ("embedding", "position") else after for tensor in tensors]
    return [places.get(t["layer"], place) for t, place in zip(tensors, outside, strict=True)]


def rows_axis(ax: Axes, labels: Sequence[str], rows: int) -> None:
    """Label the rows of a chart of horizontal bars, the first on top, with room for ``rows``."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)


def say(ax: Axes, text: str) -> None:
    """Put words in the place of a chart that has nothing to show."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#555555")


def title(figure: Figure, text: str) -> None:
    """Write the title of a figure."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold")


def notes(figure: Figure, sentences: Sequence[str]) -> None:
    """Write sentences below a figure, each on its line."""
    note(figure, "\n".join(sentences))


def definition(stage: Stage) -> str:
    """Return what relative change means for a stage."""
    return f"Relative change: norm of ({stage.title} − {stage.before}) over norm of {stage.before}; Frobenius norms."


def _ends(layers: int) -> tuple[float, float]:
    gap = 1 + layers / 25
    return -gap, layers - 1 + gap
