"""The charts of stage 5, drawn from the results alone.

Tensors are compared by relative change, because the L2 norm of a change grows with the number of values in a tensor;
where L2 is drawn, its axis says so. Relative changes span orders of magnitude, so most of their axes are logarithmic;
what a logarithm cannot show is counted in the note below the chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from langadapt.figures import MISSING, color_of, new_figure, save_figure
from langadapt.weights.axes import (
    colors,
    definition,
    depth_axis,
    depths,
    log_axis,
    notes,
    rows_axis,
    say,
    scatter,
    title,
    type_legend,
)
from langadapt.weights.comparison import STAGES, Record, Stage
from langadapt.weights.matrix_charts import draw_heatmap, draw_spectrum
from langadapt.weights.tensor_types import TYPES
from langadapt.weights.token_charts import draw_scripts, draw_tokens

_BINS_A_DECADE = 10
CHARTS = {
    "cpt_layer_changes.png": "CPT: the tensors that changed most",
    "sft_layer_changes.png": "SFT: the tensors that changed most",
    "cpt_layer_types.png": "CPT: change by type of tensor",
    "sft_layer_types.png": "SFT: change by type of tensor",
    "cpt_distributions.png": "CPT: distribution of change over tensors and layers",
    "sft_distributions.png": "SFT: distribution of change over tensors and layers",
    "cpt_sft_correlation.png": "How the two stages' changes relate",
    "type_layer_heatmap.png": "Change by type and layer",
    "embedding_scripts.png": "Embedding rows by script",
    "embedding_tokens.png": "The tokens whose rows moved most",
    "spectrum.png": "Ranks of the changes",
}  # and what each shows

_FEWEST_ROWS = 8  # below this a chart of bars would be too low for its legend


def draw_charts(results: Record, folder: str | Path, top_k: int = 20) -> list[Path]:
    """Draw the charts of ``results`` (what `compare` and `add_spectra` make) into ``folder``; return their paths.

    ``top_k`` is how many tensors, or tokens, the charts of the largest changes show. Only results with a tokenizer
    have charts of tokens, and only those with spectra one of these.
    """
    cpt, sft = STAGES
    charts = {
        "cpt_layer_changes.png": draw_layer_changes(results, cpt, top_k),
        "sft_layer_changes.png": draw_layer_changes(results, sft, top_k),
        "cpt_layer_types.png": draw_layer_types(results, cpt),
        "sft_layer_types.png": draw_layer_types(results, sft),
        "cpt_distributions.png": draw_distributions(results, cpt),
        "sft_distributions.png": draw_distributions(results, sft),
        "cpt_sft_correlation.png": draw_correlation(results),
        "type_layer_heatmap.png": draw_heatmap(results),
        "embedding_scripts.png": draw_scripts(results),
        "embedding_tokens.png": draw_tokens(results, top_k),
        "spectrum.png": draw_spectrum(results),
    }
    drawn = {name: figure for name, figure in charts.items() if figure is not None}
    for name, figure in drawn.items():
        save_figure(figure, Path(folder) / name)
    return [Path(folder) / name for name in drawn]


def draw_layer_changes(results: Record, stage: Stage, top_k: int) -> Figure:
    """Return bars of the ``top_k`` tensors that a stage changed most, once by relative change and once by L2."""
    changed = [tensor for tensor in results["tensors"] if tensor[stage.pair]["l2"]]
    shown = min(top_k, len(changed))
    rows = max(shown, _FEWEST_ROWS)
    figure, (left, right) = new_figure(1, 2, width=15, height=2.0 + 0.24 * rows)
    for ax, key, scale, label in (
        (left, "relative", 100, f"relative change, % of the {stage.before} norm"),
        (right, "l2", 1, "L2 norm of the change (grows with the tensor's size)"),
    ):
        measured = [tensor for tensor in changed if tensor[stage.pair][key] is not None]
        largest = sorted(measured, key=lambda tensor: -tensor[stage.pair][key])[:top_k]
        values = [scale * tensor[stage.pair][key] for tensor in largest]
        bars = ax.barh(range(len(largest)), values, color=colors(largest))
        ax.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        ax.margins(x=0.1)
        ax.set_xlabel(label)
        names = [tensor["name"].removeprefix("model.").removesuffix(".weight") for tensor in largest]
        rows_axis(ax, names, rows)
        ax.tick_params(axis="y", labelsize=8)
        if not largest:
            say(ax, f"{stage.title} changed no tensor")
    type_legend(right, results["types"])
    title(figure, f"{stage.title}: the tensors that changed most, {shown} of {len(results['tensors'])}")
    notes(figure, [definition(stage), *_left_out(results, [stage])])
    return figure


def draw_layer_types(results: Record, stage: Stage) -> Figure:
    """Return the relative change of each type, its tensors as dots, and each type's share of all change."""
    types = results["types"]
    total = results["total"]
    figure, (left, right) = new_figure(1, 2, width=14, height=2.4 + 0.55 * len(types))
    row_of = {kind["type"]: row for row, kind in enumerate(types)}
    for ax in (left, right):
        rows_axis(ax, [f"{kind['type']} ({kind['tensors']})" for kind in types], len(types))
    drawn = _with_relative(results["tensors"], [stage])
    if drawn:
        pooled = _with_relative(types, [stage])
        values = _percent(pooled, stage)
        scatter(left, _percent(drawn, stage), [row_of[tensor["type"]] for tensor in drawn], drawn)
        left.scatter(values, [row_of[kind["type"]] for kind in pooled], marker="|", s=500, color="black")
        for kind, value in zip(pooled, values, strict=True):
            place = (value, row_of[kind["type"]])
            left.annotate(f"{value:.3g} %", place, (0, 13), textcoords="offset points", ha="center", size=8)
        log_axis(left, "x", _percent(drawn + pooled, stage))
        squares = [100 * (kind[stage.pair]["l2"] / total[stage.pair]["l2"]) ** 2 for kind in types]
        sizes = [100 * kind["parameters"] / total["parameters"] for kind in types]
        for offset, shares, label, color in (
            (-0.2, squares, "squared change", color_of(0)),
            (0.2, sizes, "parameters", MISSING),
        ):
            bars = right.barh([row + offset for row in row_of.values()], shares, 0.38, label=label, color=color)
            right.bar_label(bars, [f"{share:.3g} %" for share in shares], padding=3, fontsize=8)
        right.set_xlim(0, 115)
        right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="share of")
    else:
        for ax in (left, right):
            say(ax, f"{stage.title} changed no tensor that was not all zero")
    left.set_title("Each dot a tensor, each mark the whole type")
    left.set_xlabel(f"relative change, % of the {stage.before} norm (log scale)")
    right.set_title("Where the change is, and where the parameters are")
    right.set_xlabel("share of the whole model, %")
    title(figure, f"{stage.title}: change by type of tensor (how many tensors)")
    notes(figure, [definition(stage), *_left_out(results, [stage])])
    return figure


def draw_distributions(results: Record, stage: Stage) -> Figure:
    """Return the distribution of relative changes over tensors, and where in the depth of the model they are."""
    layers = [layer["layer"] for layer in results["layers"]]
    figure, (left, right) = new_figure(1, 2, width=13, height=5)
    drawn = _with_relative(results["tensors"], [stage])
    if drawn:
        values = _percent(drawn, stage)
        low, high = math.log10(0.99 * min(values)), math.log10(1.01 * max(values))
        bins = math.ceil((high - low) * _BINS_A_DECADE)
        by_type = [[tensor for tensor in drawn if tensor["type"] == kind] for kind in TYPES]
        present = [group for group in by_type if group]
        left.hist(
            [_percent(group, stage) for group in present],
            bins=[10 ** (low + (high - low) * edge / bins) for edge in range(bins + 1)],
            stacked=True,
            color=[colors(group)[0] for group in present],
        )
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        log_axis(left, "x", values)
        scatter(right, depths(drawn, layers), values, drawn)
        depth_axis(right, layers)
        log_axis(right, "y", values)
    else:
        for ax in (left, right):
            say(ax, f"{stage.title} changed no tensor that was not all zero")
    left.set_title("How many tensors changed how much")
    left.set_xlabel(f"relative change, % of the {stage.before} norm (log scale)")
    left.set_ylabel("tensors")
    right.set_title("Where in the model: each dot a tensor")
    right.set_ylabel("relative change, % (log scale)")
    type_legend(right, results["types"])
    title(figure, f"{stage.title}: distribution of change over {len(drawn)} tensors")
    notes(figure, [definition(stage), *_left_out(results, [stage])])
    return figure


def draw_correlation(results: Record) -> Figure:
    """Return the two stages' relative changes against each other, and the cosine between their directions."""
    layers = [layer["layer"] for layer in results["layers"]]
    figure, (left, right) = new_figure(1, 2, width=13, height=5.4)
    rho, cosine = results["rank_correlation"]["relative"], results["total"]["delta_cosine"]
    ranked = sum(all(t[stage.pair]["relative"] is not None for stage in STAGES) for t in results["tensors"])
    over = f": Spearman's ρ = {rho:.2f} over {ranked} tensors" if rho is not None else ""
    left.set_title("Size of the two changes" + over)
    right.set_title("Direction of the two changes" + (f": all in all {cosine:.2g}" if cosine is not None else ""))
    drawn = _with_relative(results["tensors"], STAGES)
    if drawn:
        across, up = (_percent(drawn, stage) for stage in STAGES)
        scatter(left, across, up, drawn)
        left.axline((1, 1), (2, 2), color="#888888", linestyle="--", linewidth=1)
        log_axis(left, "x", across)
        log_axis(left, "y", up)
    else:
        say(left, "no tensor changed in both stages")
    turned = [tensor for tensor in results["tensors"] if tensor["delta_cosine"] is not None]
    if turned:
        scatter(right, depths(turned, layers), [tensor["delta_cosine"] for tensor in turned], turned)
        right.axhline(0, color="#888888", linestyle="--", linewidth=1)
        right.set_ylim(-1.05, 1.05)
        depth_axis(right, layers)
    else:
        say(right, "no tensor changed in both stages")
    left.set_xlabel("base → CPT, relative change in % (log scale)")
    left.set_ylabel("CPT → SFT, relative change in % (log scale)")
    right.set_ylabel("cosine between CPT − base and SFT − CPT")
    type_legend(right, results["types"])
    title(figure, "How the two stages' changes relate, tensor by tensor")
    caution = (
        "A correlation of sizes across tensors mostly reflects what kind of tensor each is (look within one colour), "
        "and says nothing about direction."
    )
    dashes = "Dashed line: left, the same relative change in both stages; right, unrelated directions."
    notes(figure, [caution, dashes, *_left_out(results, STAGES)])
    return figure


def _with_relative(records: Sequence[Record], stages: Sequence[Stage]) -> list[Record]:
    """Return the tensors or types whose relative change can stand on a logarithmic axis."""
    return [record for record in records if all(record[stage.pair]["relative"] for stage in stages)]


def _percent(records: Sequence[Record], stage: Stage) -> list[float]:
    return [100 * record[stage.pair]["relative"] for record in records]


def _left_out(results: Record, stages: Sequence[Stage]) -> list[str]:
    sentences = []
    count = len(results["tensors"])
    for stage in stages:
        unchanged = sum(not tensor[stage.pair]["l2"] for tensor in results["tensors"])
        undefined = sum(tensor[stage.pair]["relative"] is None for tensor in results["tensors"])
        if unchanged:
            sentences.append(
                f"Not drawn: {unchanged} of {count} tensors, which {stage.title} left exactly as they were."
            )
        if undefined:
            sentences.append(
                f"Without a relative change: {undefined} of {count} tensors, all zero before {stage.title}."
            )
    return sentences
