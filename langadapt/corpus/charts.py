"""The charts of the data report: what became of the records of each source, and how long their texts are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import regex
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from langadapt.figures import MISSING, color_of, label, new_figure, note, save_figure

_LEAST_SHARE = 1e-4  # where the colour scale begins
_HEADING = 18  # characters in a line of a column's heading
_ABREAST = 6  # columns, as wide as a page can show and still be read


def draw_flow(flow: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw a table of what each step dropped from each source, coloured by the share of the records read.

    ``flow`` is ``{source: {"read": n, "steps": [(name, dropped), ...], "kept": n}}``. A step that made more records of
    fewer has dropped less than 0. More than six sources stand in tables below each other, each with its own steps.
    Numbers, and not the areas of a flow diagram, because losses of a thousandth matter.
    """
    columns = [(label(name, f"source {n}"), counts) for n, (name, counts) in enumerate(flow.items(), start=1)]
    width = math.ceil(len(columns) / math.ceil(len(columns) / _ABREAST))
    tables = [columns[k : k + width] for k in range(0, len(columns), width)]
    steps = [_in_order([name for name, _ in counts["steps"]] for _, counts in table) for table in tables]
    heights = [0.9 + 0.3 * (len(names) + 2) for names in steps]
    figure, axes = new_figure(len(tables), width=3.6 + 1.75 * width, height=1.2 + sum(heights), height_ratios=heights)
    for ax, table, names in zip(axes, tables, steps, strict=True):
        image = _draw_table(ax, table, names)
        ax.set_xlim(0, width)  # the last table may have fewer columns, but none that are wider
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, shrink=min(1, 4 / width), pad=0.02)
    bar.set_label("dropped, of the records read\n(log scale)", fontsize=8)
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    bar.ax.tick_params(labelsize=8)
    note(figure, "Records, from top to bottom in the order of the steps. –: no such step for this source.")
    save_figure(figure, path)


def _draw_table(ax: Axes, columns: Sequence[tuple[str, Mapping[str, Any]]], steps: Sequence[str]) -> QuadMesh:
    rows = ["read", *steps, "kept"]
    shares = np.full((len(rows), len(columns)), np.nan)
    for column, (_, counts) in enumerate(columns):
        dropped = dict(counts["steps"])
        _write(ax, column, 0, f"{counts['read']:,}", weight="bold")
        for row, name in enumerate(steps, start=1):
            if dropped.get(name):
                share = dropped[name] / counts["read"] if counts["read"] else math.nan
                shares[row, column] = max(share, _LEAST_SHARE)
                sign = "\u2212" if dropped[name] > 0 else "+"
                _write(ax, column, row, f"{sign}{abs(dropped[name]):,}  ({_percent(share)})")
            else:
                _write(ax, column, row, "0" if name in dropped else "–", color="#999999")
        share = counts["kept"] / counts["read"] if counts["read"] else math.nan
        _write(ax, column, len(rows) - 1, f"{counts['kept']:,}  ({_percent(share)})", weight="bold")
    colors = seaborn.light_palette(color_of(1), as_cmap=True)
    image = ax.pcolormesh(shares, cmap=colors, norm=LogNorm(_LEAST_SHARE, 1), edgecolors="white", linewidth=1.5)
    _frame(ax, [_wrapped(name) for name, _ in columns], rows)
    return image


def draw_lengths(
    histograms: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path, cutoff: int | None = None
) -> None:
    """Draw how long texts are in bytes, a row for each label, on one logarithmic axis, with a line at ``cutoff``.

    ``histograms`` is ``{label: {"edges": bytes, "counts": texts}}``, with one edge more than counts, all bins equally
    wide on a logarithmic scale; the first edge may be 0.
    """
    figure, axes = new_figure(len(histograms), width=8.5, height=1.1 + 1.05 * len(histograms), sharex=True)
    ends = [cutoff] if cutoff else []
    for position, (ax, (name, histogram)) in enumerate(zip(axes, histograms.items(), strict=True)):
        edges = np.maximum(histogram["edges"], 0.5)  # 0 has no logarithm
        counts = np.asarray(histogram["counts"])
        ax.yaxis.set_major_locator(MaxNLocator(2))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.tick_params(labelsize=8)
        title = f"{label(name, f'source {position + 1}')}: {counts.sum():,} texts"
        if counts.any():
            title += f", median about {EngFormatter(unit='B')(float(f'{_median(edges, counts):.2g}'))}"
            ends += [*edges[:-1][counts > 0], *edges[1:][counts > 0]]
            ax.stairs(counts / counts.sum(), edges, fill=True, color=color_of(position))
            ax.set_ylim(0, 1.05 * counts.max() / counts.sum())
        else:
            ax.set_yticks([])
        ax.set_title(title, fontsize=9, weight="normal")
        if cutoff:
            ax.axvline(cutoff, color="black", linestyle="--", linewidth=1)
    axes[-1].set_xscale("log")
    if ends:
        axes[-1].set_xlim(max(min(ends) / 2, 0.5), max(ends) * 2)
    axes[-1].xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=30))
    axes[-1].xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes[-1].xaxis.set_minor_locator(NullLocator())
    line = f" Dashed line: the cutoff, {cutoff:,} bytes." if cutoff else ""
    note(figure, f"Share of the texts of each row, by length in bytes of UTF-8 (log scale).{line}")
    save_figure(figure, path)


def _in_order(sequences: Iterable[Sequence[str]]) -> list[str]:
    """Return all names once, each behind those that come before it in its own sequence."""
    merged: list[str] = []
    for sequence in sequences:
        place = 0
        for name in sequence:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged


def _write(ax: Axes, column: int, row: int, text: str, **style: Any) -> None:
    ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, **style)


def _frame(ax: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Name the columns above and the rows at the left of a table, the first row on top."""
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_ylim(len(rows), 0)
    for line in (1, len(rows) - 1):
        ax.plot([0, len(columns)], [line, line], color=MISSING, linewidth=1)
    ax.set_yticks([row + 0.5 for row in range(len(rows))], rows, fontsize=9)
    ax.set_xticks([column + 0.5 for column in range(len(columns))], columns, fontsize=9)
    ax.tick_params(length=0, bottom=False, labelbottom=False, labeltop=True)


def _wrapped(name: str) -> str:
    """Break a name into lines, behind a character that separates; only what is longer than a line breaks elsewhere."""
    lines = [""]
    for piece in regex.findall(r"[^\s_/.:\-\u0f0b]*[\s_/.:\-\u0f0b]|[^\s_/.:\-\u0f0b]+", name):
        for part in regex.findall(rf"\X{{1,{_HEADING}}}", piece):  # never between a letter and its vowel sign
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > _HEADING:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    percent = 100 * abs(share)
    return f"{percent:.1f} %" if percent >= 0.95 else f"{percent:.2g} %" if percent >= 0.001 else "< 0.001 %"


def _median(edges: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> float:
    """Return the median, in bytes, of texts spread evenly over the logarithm of each bin."""
    below = [0, *accumulate(counts.tolist())]
    return float(np.exp(np.interp(below[-1] / 2, below, np.log(edges))))
