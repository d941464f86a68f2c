"""The rows of embedding and output matrix in words: which scripts, and which tokens, moved."""

from __future__ import annotations

from langadapt.weights.comparison import STAGES, Record
from langadapt.weights.token_rows import PARTIAL, most_moved
from langadapt.weights.wording import heading, paragraph, percent

_LISTED = 10
_GROUPS = 12


def embedding_rows(results: Record) -> list[str]:
    """Return the lines on rows by script, and on the tokens that moved most."""
    lines = heading("Rows of tokens, by script")
    if not results["embedding_rows"]:
        return [*lines, *paragraph("None of the checkpoints has a tokenizer.json, so rows are not told apart.")]
    for matrix in results["embedding_rows"]:
        lines += ["", f"  {matrix['name']}", f"  {'script':22} {'rows':>9}  {_columns('CPT')}  {_columns('SFT')}"]
        for group in matrix["scripts"][:_GROUPS]:
            figures = "  ".join(_figures(group[stage.pair]) for stage in STAGES)
            lines.append(f"  {group['script']:22} {group['rows']:9,}  {figures}")
        if len(matrix["scripts"]) > _GROUPS:
            lines.append(f"  and {len(matrix['scripts']) - _GROUPS} more groups: see weight_analysis_results.json")
        for stage in STAGES:
            tokens = most_moved(matrix["scripts"], stage.pair, _LISTED)
            if tokens:
                lines += ["", f"  Moved furthest by {stage.title}:"]
                lines += [f"    L2 {t['l2']:<9.4g} {percent(t['relative']):>8}  {_token(t)}" for t in tokens]
    return [
        *lines,
        "",
        *paragraph(
            "L2 is the mean norm of a row's change, share the part of the matrix's squared change. A token that the "
            "training texts do not have moves too: where the embedding is also the output matrix, each step lowers its "
            "probability, and weight decay shrinks it. Tokens that are not whole characters stand for bytes of many "
            "scripts."
        ),
    ]


def new_rows(new: Record) -> str:
    """Return a sentence on the scripts of the rows that the base lacks."""
    groups = ", ".join(
        f"{group['script']} {group['rows']:,} rows ({percent(group['cpt_sft']['relative'])})"
        for group in new["scripts"][:_GROUPS]
    )
    return f"By script, with the change by SFT: {groups}. "


def _columns(title: str) -> str:
    return f"{title + ' L2':>9} {'relative':>9} {'share':>9}"


def _figures(figures: Record) -> str:
    return f"{figures['mean_l2']:9.4g} {percent(figures['relative']):>9} {percent(figures['share']):>9}"


def _token(token: Record) -> str:
    text = f"<{token['bytes'].upper()}>" if token["script"] == PARTIAL else token["text"]
    return f"{text} ({token['script']}, {token['id']})"
