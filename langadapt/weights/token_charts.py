"""Charts of the embedding's rows: by script, and the tokens that moved most."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from langadapt.figures import MISSING, can_draw, color_of, new_figure
from langadapt.weights.axes import notes, rows_axis, say, title
from langadapt.weights.comparison import STAGES, Record, Stage
from langadapt.weights.token_rows import PARTIAL, most_moved

_MOST_GROUPS = 14  # groups of tokens that have a row of their own
_FEWEST_ROWS = 6
_LONGEST = 24  # characters of a token's text

_PARTS = "Part of a character: tokens of byte-level vocabularies that hold only some bytes of one."


def draw_scripts(results: Record) -> Figure | None:
    """Return how far the embedding's rows moved by script, and what part of its change and of its rows a script has.

    None where tokens are not known.
    """
    if not results["embedding_rows"]:
        return None
    embedding = results["embedding_rows"][0]
    rows = sum(group["rows"] for group in embedding["scripts"])
    groups = embedding["scripts"][:_MOST_GROUPS]
    figure, (left, right) = new_figure(1, 2, width=14, height=2.6 + 0.5 * max(_FEWEST_ROWS, len(groups)))
    for ax in (left, right):
        names = [f"{group['script']} ({group['rows']:,})" for group in groups]
        rows_axis(ax, names, max(_FEWEST_ROWS, len(groups)))
    places = range(len(groups))
    for n, stage in enumerate(STAGES):
        offset = 0.27 * (n - 1)
        lengths = [group[stage.pair]["mean_l2"] for group in groups]
        bars = left.barh([row + offset + 0.135 for row in places], lengths, 0.26, color=color_of(n))
        left.bar_label(bars, [_relative(group[stage.pair]["relative"]) for group in groups], padding=3, fontsize=7)
        shares = [100 * (group[stage.pair]["share"] or 0) for group in groups]
        bars = right.barh([row + offset for row in places], shares, 0.26, label=_label(stage), color=color_of(n))
        right.bar_label(bars, [f"{share:.3g} %" for share in shares], padding=3, fontsize=7)
    own = [100 * group["rows"] / rows for group in groups]
    bars = right.barh([row + 0.27 for row in places], own, 0.26, label="rows (right)", color=MISSING)
    right.bar_label(bars, [f"{share:.3g} %" for share in own], padding=3, fontsize=7)
    left.margins(x=0.14)
    left.xaxis.set_major_locator(MaxNLocator(5))
    right.set_xlim(0, 118)
    left.set_title("How far a row moved; beside it, % of the rows' norm")
    left.set_xlabel("mean L2 norm of a row's change")
    right.set_title("Where the embedding's change is, and where its rows are")
    right.set_xlabel("share of the embedding, %")
    right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), title="stage")
    title(figure, f"{embedding['name']}: change by the script of a row's token (how many)")
    hidden = len(embedding["scripts"]) - len(groups)
    rest = [f"Not shown: {hidden} more groups, {sum(g['rows'] for g in embedding['scripts'][_MOST_GROUPS:]):,} rows."]
    notes(figure, [_PARTS, *(rest if hidden else [])])
    return figure


def draw_tokens(results: Record, top_k: int) -> Figure | None:
    """Return bars of the tokens whose rows of the embedding moved furthest; None where tokens are not known."""
    if not results["embedding_rows"]:
        return None
    embedding = results["embedding_rows"][0]
    moved = [most_moved(embedding["scripts"], stage.pair, top_k) for stage in STAGES]
    rows = max(_FEWEST_ROWS, *map(len, moved))
    figure, axes = new_figure(1, 2, width=14, height=2.0 + 0.31 * rows)
    for n, (ax, stage, tokens) in enumerate(zip(axes, STAGES, moved, strict=True)):
        ax.set_title(_label(stage))
        ax.set_xlabel("L2 norm of the row's change; beside it, % of the row's norm")
        bars = ax.barh(range(len(tokens)), [token["l2"] for token in tokens], color=color_of(n))
        ax.bar_label(bars, [_relative(token["relative"]) for token in tokens], padding=3, fontsize=8)
        ax.margins(x=0.14)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        rows_axis(ax, [f"{_shown(token)}   {token['script']}, {token['id']}" for token in tokens], rows)
        if not tokens:
            say(ax, f"{stage.title} changed no row")
    title(figure, f"{embedding['name']}: the tokens whose rows moved most (text, script, number)")
    shown = "Those, and texts that no installed font holds, are given by their bytes, in hexadecimal."
    notes(figure, [f"{_PARTS} {shown}", "␣ is a space; ◌ stands before a mark without its letter."])
    return figure


def _label(stage: Stage) -> str:
    return f"{stage.before} → {stage.title}"


def _shown(token: Record) -> str:
    if token["script"] == PARTIAL or not can_draw(token["text"]):
        return f"<{token['bytes'].upper()}>"
    text: str = token["text"]
    # matplotlib reads what is between two dollar signs as a formula.
    return (text if len(text) <= _LONGEST else text[:_LONGEST] + "…").replace("$", r"\$")


def _relative(relative: float | None) -> str:
    return "" if relative is None else f"{100 * relative:.3g} %"
