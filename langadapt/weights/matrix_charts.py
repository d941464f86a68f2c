"""Charts of layers and matrices: change by type and layer, and the ranks of the changes."""

from __future__ import annotations

import math

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from langadapt.figures import MISSING, color_of, new_figure
from langadapt.weights.axes import (
    colors,
    definition,
    depth_axis,
    depths,
    notes,
    say,
    short_layer,
    stacks_of,
    title,
    type_legend,
)
from langadapt.weights.comparison import STAGES, Record, Stage
from langadapt.weights.spectra import ENERGIES

_MOST_WRITTEN = 16  # layers up to which there is room for a figure in each cell
_MOST_TICKS = 20
_MARKS = "o^"  # of the two stages


def draw_heatmap(results: Record) -> Figure:
    """Return the relative change of each type within each layer, a table a stage."""
    types = [kind["type"] for kind in results["types"]]
    types = [kind for kind in types if any(record["type"] == kind for record in results["type_layers"])]
    layers = [record["layer"] for record in results["layers"]]
    width = min(15.0, max(8.0, 3.5 + 0.9 * len(layers)))
    figure, axes = new_figure(2, 1, width=width, height=2.6 + 0.9 * max(2, len(types)))
    for ax, stage in zip(axes, STAGES, strict=True):
        ax.set_title(f"{stage.before} → {stage.title}")
        shades = numpy.full((len(types), len(layers)), math.nan)
        for record in results["type_layers"]:
            if record["layer"] in layers and record[stage.pair]["relative"]:
                place = types.index(record["type"]), layers.index(record["layer"])
                shades[place] = 100 * record[stage.pair]["relative"]
        if numpy.isnan(shades).all():
            say(ax, f"{stage.title} changed no tensor within a layer")
        else:
            _cells(figure, ax, shades, types, layers)
    axes[-1].set_xlabel(f"layer{stacks_of(layers)}")
    title(figure, "Relative change by type of tensor and layer")
    sentences = [definition(stage) for stage in STAGES]
    notes(
        figure,
        [
            *sentences,
            "Each table has a colour scale of its own, and it is logarithmic. Grey: none, unchanged, or zero before.",
        ],
    )
    return figure


def _cells(figure: Figure, ax: Axes, shades: numpy.ndarray, types: list[str], layers: list[int | str]) -> None:
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_facecolor(MISSING)
    low, high = float(numpy.nanmin(shades)), float(numpy.nanmax(shades))
    norm = LogNorm(low / 1.05, high * 1.05)
    image = ax.imshow(shades, cmap="viridis", norm=norm, aspect="auto")
    if len(layers) <= _MOST_WRITTEN:
        for (row, column), shade in numpy.ndenumerate(shades):
            if not math.isnan(shade):
                color = "white" if norm(shade) < 0.62 else "black"
                ax.text(column, row, f"{shade:.2g}", ha="center", va="center", fontsize=8, color=color)
    every = math.ceil(len(layers) / _MOST_TICKS)
    ax.set_xticks(range(0, len(layers), every), [short_layer(layer) for layer in layers[::every]])
    ax.set_yticks(range(len(types)), types)
    ax.tick_params(length=0)
    bar = figure.colorbar(image, ax=ax, pad=0.01, aspect=12)
    ticks = [low, math.sqrt(low * high), high] if high > 1.2 * low else [low]
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(ticks, labels=[f"{tick:.2g} %" for tick in ticks])


def draw_spectrum(results: Record) -> Figure | None:
    """Return what low rank holds of the changes, and the effective rank of each; None without spectra."""
    if "lora_share" not in results:
        return None
    figure, (left, right) = new_figure(1, 2, width=14, height=5.2)
    _shares_by_rank(left, results)
    layers = [layer["layer"] for layer in results["layers"]]
    matrices = [tensor for tensor in results["tensors"] if any(tensor[s.pair].get("spectrum") for s in STAGES)]
    for stage, mark in zip(STAGES, _MARKS, strict=True):
        changed = [tensor for tensor in matrices if tensor[stage.pair].get("spectrum")]
        places = depths(changed, layers)
        parts = [_effective_part(tensor, stage) for tensor in changed]
        fill = colors(changed)
        right.scatter(
            places, parts, s=22, alpha=0.75, marker=mark, linewidths=0.9, edgecolors=fill,
            facecolors=fill if stage is STAGES[0] else "none",
        )  # fmt: skip
    if matrices:
        depth_axis(right, layers)
        right.set_ylim(0, 102)
    else:
        say(right, "no matrix changed")
    right.set_title("Effective rank of each change (filled: CPT, open triangle: SFT)")
    right.set_ylabel("effective rank, % of the full rank")
    present = {tensor["type"] for tensor in matrices}
    type_legend(right, [kind for kind in results["types"] if kind["type"] in present])
    title(figure, "How many directions the changes have")
    held = (
        "Left: what the best adapters of one rank on all attention and MLP matrices would hold; dotted: 90, 95, 99 %."
    )
    notes(
        figure,
        [
            held,
            "Effective rank: exp of the entropy of the singular values, each as its share of their sum.",
            "Noise has full rank: the rounding of weights kept in 16 bits raises both curves' ranks.",
        ],
    )
    return figure


def _shares_by_rank(ax: Axes, results: Record) -> None:
    curves = {stage: results["lora_share"][stage.pair] for stage in STAGES if results["lora_share"][stage.pair]}
    for place, (stage, curve) in enumerate(curves.items()):
        ranks, shares = zip(*curve, strict=True)
        label = f"{stage.before} → {stage.title}"
        color = color_of(STAGES.index(stage))
        ax.plot(ranks, [100 * share for share in shares], marker=_MARKS[place], color=color, markersize=5, label=label)
    ax.set_title("What adapters of a rank could have carried")
    ax.set_xlabel("rank (log scale)")
    ax.set_ylabel("share of the squared change, %")
    if not curves:
        say(ax, "no attention or MLP matrix changed")
        return
    for part in ENERGIES:
        ax.axhline(part, color="#888888", linestyle=":", linewidth=1)
    most = max(curve[-1][0] for curve in curves.values())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks := [2**power for power in range(most.bit_length())], list(map(str, ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, 102)
    ax.legend(loc="lower right")


def _effective_part(tensor: Record, stage: Stage) -> float:
    return float(100 * tensor[stage.pair]["spectrum"]["effective_rank"] / min(tensor["shape"]))
