"""The look of every chart: figures drawn without a screen, one palette that colour-blind readers can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import seaborn
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from langadapt.figures.fonts import families
from langadapt.files import atomic_path

DPI = 150
MISSING = "#d9d9d9"  # the grey of a figure that was not measured; never drawn as zero
_PALETTE: list[str] = seaborn.color_palette("colorblind").as_hex()


def color_of(position: int) -> str:
    """Return the colour of the n-th series, from 0; the same series keeps its colour in every chart of a report."""
    return _PALETTE[position % len(_PALETTE)]


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 8.0, height: float = 4.5, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches and its axes, row by row. ``options`` go to `Figure.subplots`.

    No window system: `matplotlib.pyplot` is not used.
    """
    # For the process and not in a context: matplotlib chooses fonts when a text is made, which callers do later.
    rcParams.update(_settings())
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    flat = list(axes.flat)
    for ax in flat:
        if ax.name == "rectilinear":
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_axisbelow(True)
            ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    return figure, flat


def note(figure: Figure, text: str) -> None:
    """Write a small note below a figure: what is measured, in which unit, what is missing."""
    figure.supxlabel(text, fontsize=8, color="#555555", x=0.01, ha="left")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _settings() -> Any:
    return {
        "font.family": families(),
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }
