"""The results in words: what changed most, how the stages relate, and what the figures cannot tell."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from langadapt.weights.comparison import STAGES, Record, Stage
from langadapt.weights.summary_relation import relation
from langadapt.weights.summary_rows import embedding_rows, new_rows
from langadapt.weights.wording import WIDTH, heading, paragraph, percent

_LISTED = 10
_STEPS = {"bfloat16": "one part in 128 to 256", "float16": "one part in 1,024 to 2,048"}

_LIMITS = (
    "Size is not importance. How far a tensor moved says nothing about what the move does; a small change of a norm "
    "can matter more than a large one of an embedding. What the model gained or lost is measured in stage 4.",
    "L2 grows with the number of values in a tensor, and relative change with how small the tensor was: a bias or a "
    "norm near zero can show a large relative change that hardly matters. Read the two together.",
    "The figures of a tensor pool all its values. An embedding whose change is small may have moved a few thousand "
    "rows far and left the rest alone.",
    "The two stages' changes correlate in size across tensors for reasons that have nothing to do with language: "
    "tensors of one type have a like scale and get like steps from the optimiser. Direction (the cosine of the deltas) "
    "is what tells whether one stage goes on with, ignores or undoes the other.",
    "This is one run of each stage. Without a second seed nobody knows which differences between layers would come "
    "again.",
)


def summarise(results: Record) -> str:
    """Return the text of analysis_summary.txt, from what `compare` returns."""
    parts = ["What training changed in the weights", "=" * 36, "", *_compared(results)]
    for stage in STAGES:
        parts += ["", *_stage(results, stage)]
    parts += ["", *embedding_rows(results), "", *relation(results), "", *_limits(results)]
    return "\n".join(parts) + "\n"


def headline(results: Record) -> list[str]:
    """Return the whole model's figures in three lines."""
    lines = [
        f"{stage.title}: {percent(results['total'][stage.pair]['relative'])} of the {stage.before} weights' norm "
        f"(L2 {results['total'][stage.pair]['l2']:.4g})"
        for stage in STAGES
    ]
    cosine = results["total"]["delta_cosine"]
    return [*lines, f"cosine between the two changes: {'not defined' if cosine is None else format(cosine, '.4f')}"]


def _compared(results: Record) -> list[str]:
    total = results["total"]
    roles = [f"  {role:9} {c['path']} ({c['dtype']})" for role, c in results["checkpoints"].items()]
    return [
        *roles,
        *paragraph(
            f"{total['tensors']} tensors with {total['parameters']:,} parameters were compared. Output matrix: "
            f"{results['output_matrix']}. Relative change is the L2 (Frobenius) norm of the difference over the norm "
            "of the earlier checkpoint of the pair; several tensors are taken as one long vector."
        ),
        *_vocabulary(results["vocabulary"]),
    ]


def _vocabulary(vocabulary: Record | None) -> list[str]:
    if vocabulary is None:
        return []
    left_out = ", ".join(f"{count:,} of {role}" for role, count in vocabulary["rows_left_out"].items())
    words = (
        "The vocabularies differ. Rows of embedding and output matrix were matched by token: "
        f"{vocabulary['rows_compared']:,} rows are compared, {left_out} are left out of every figure. "
    )
    for new in vocabulary["new_rows"]:
        words += (
            f"Of {new['name']}, the {new['shape'][0]:,} rows of new tokens have no base to compare with; SFT changed "
            f"them by {percent(new['cpt_sft']['relative'])} of their norm after CPT. {new_rows(new)}"
        )
    return paragraph(words)


def _lora_rank(results: Record, stage: Stage) -> list[str]:
    ranks = results.get("lora_rank", {}).get(stage.pair)
    if ranks is None:
        return []
    parts = ", ".join(f"rank {rank} for {part} %" for part, rank in ranks.items())
    return paragraph(
        f"Adapters on all attention and MLP matrices could have carried this part of their squared change: {parts}. "
        "That is a bound on what low rank can hold of this very change. An adapter that is trained may find another "
        "change that does as well, and rounding to 16 bits adds noise of full rank."
    )


def _identical(figures: Record, stage: Stage) -> list[str]:
    words = f"{percent(figures['identical'])} of the weights are exactly what they were in {stage.before}"
    if (explained := figures["identical_by_rounding"]) is not None:
        words += (
            f"; updates of one size for all weights of a tensor would leave {percent(explained)} so, only because "
            "16-bit numbers are too coarse to hold them. What goes beyond that was hardly trained (for example rows "
            "of tokens that the texts do not have)"
        )
    return paragraph(f"{words}. The largest change of a single weight is {figures['largest']:.3g}.")


def _stage(results: Record, stage: Stage) -> list[str]:
    total = results["total"][stage.pair]
    tensors = results["tensors"]
    changed = [tensor for tensor in tensors if tensor[stage.pair]["l2"]]
    lines = heading(f"{stage.title} ({stage.before} to {stage.title})")
    if not changed:
        return [*lines, *paragraph(f"{stage.title} changed nothing: every tensor is what it was in {stage.before}.")]
    words = (
        f"{stage.title} moved the weights by {percent(total['relative'])} of their norm (L2 {total['l2']:.4g}); one "
        f"minus the cosine between the weights before and after is {1 - total['cosine']:.2g}. "
    )
    if len(changed) < len(tensors):
        words += f"{len(tensors) - len(changed)} of {len(tensors)} tensors did not change at all. "
    kinds = _by_relative(results["types"], stage)
    layers = _by_relative(results["layers"], stage)
    if kinds:
        share = max(results["types"], key=lambda kind: kind[stage.pair]["l2"])
        words += (
            f"By type, {kinds[0]['type']} changed most for its size ({percent(kinds[0][stage.pair]['relative'])}) and "
            f"{kinds[-1]['type']} least ({percent(kinds[-1][stage.pair]['relative'])}); {share['type']} holds "
            f"{percent((share[stage.pair]['l2'] / total['l2']) ** 2)} of the squared change and "
            f"{percent(share['parameters'] / results['total']['parameters'])} of the parameters. "
        )
    if len(layers) > 1:
        most = ", ".join(map(_layer, layers[:3]))
        words += (
            f"By layer, norms and biases left aside, the largest relative changes are in {most} "
            f"({_layer(layers[0])}: "
            f"{percent(layers[0][stage.pair]['relative'])}), the smallest in {_layer(layers[-1])} "
            f"({percent(layers[-1][stage.pair]['relative'])})."
        )
    lines += paragraph(words) + _identical(total, stage) + _lora_rank(results, stage)
    columns = f"{'tensors':>7}  {'parameters':>14}  {'relative':>10}  {'L2':>10}  {'of all squared change':>21}"
    width = max(10, *(len(kind["type"]) for kind in results["types"]))
    lines += ["", f"  {'type':{width}}  {columns}"]
    for kind in results["types"]:
        name, figures = kind["type"].ljust(width), kind[stage.pair]
        lines.append(
            f"  {name}  {kind['tensors']:7}  {kind['parameters']:14,}  {percent(figures['relative']):>10}  "
            f"{figures['l2']:10.4g}  {percent((figures['l2'] / total['l2']) ** 2):>21}"
        )
    for key, title in (("relative", "Largest relative change"), ("l2", "Largest L2 change")):
        measured = [tensor for tensor in changed if tensor[stage.pair][key] is not None]
        lines += ["", f"  {title}:"]
        for tensor in sorted(measured, key=lambda tensor: -tensor[stage.pair][key])[:_LISTED]:
            figures = tensor[stage.pair]
            lines.append(f"    {percent(figures['relative']):>10}   L2 {figures['l2']:<10.4g} {tensor['name']}")
    return lines


def _layer(layer: Record) -> str:
    return f"layer {layer['layer']}" if isinstance(layer["layer"], int) else str(layer["layer"])


def _limits(results: Record) -> list[str]:
    lines = heading("What these figures do not show")
    limits = list(_LIMITS)
    for dtype, step in _STEPS.items():
        stored = [role for role, c in results["checkpoints"].items() if dtype in c["dtype"].split(", ")]
        if stored:
            limits.append(
                f"{', '.join(stored)}: stored in {dtype}, where neighbouring numbers are {step} apart. A weight that "
                "training moved by less than half of that is written back unchanged, and one that crosses the middle "
                "is written a whole step away, so small changes here are partly rounding."
            )
    for limit in limits:
        lines += textwrap.wrap(limit, WIDTH, initial_indent="- ", subsequent_indent="  ")
    return lines


def _by_relative(records: Sequence[Record], stage: Stage) -> list[Record]:
    defined = [record for record in records if record[stage.pair]["relative"] is not None]
    return sorted(defined, key=lambda record: -record[stage.pair]["relative"])
