"""report.html of stage 5: summary, charts, and tables that sort, in one file that opens from a disk."""

from __future__ import annotations

from html import escape
from pathlib import Path

from langadapt.files import write_text
from langadapt.pages import Cell, Table, charts_html, fill, font_css, link_html, list_html, make_page, table_html
from langadapt.recipe.language import PROFILES, load_language
from langadapt.weights.charts import CHARTS
from langadapt.weights.comparison import STAGES, Record
from langadapt.weights.summary import headline, summarise
from langadapt.weights.token_rows import MOST_MOVED

REPORT = "report.html"

_STYLE = "pre.summary { max-height: none; font-family: ui-monospace, monospace; }\n"  # the page is :lang(en) too
_MISSING = Cell("n/a", missing=True)
_FIGURES = {"relative": "relative", "l2": "L2", "share": "share", "largest": "largest", "identical": "identical"}
_OF_ROWS = {"mean_l2": "mean L2", "relative": "relative", "share": "share"}
_IN_PER_CENT = ("relative", "share", "identical")


def write_report(results: Record, folder: str | Path, place: str | Path, evaluation_report: str | Path) -> Path:
    """Write the page into ``folder``, which holds the charts, with links as from ``place``; return its path.

    ``place`` is where the folder's files will lie; ``evaluation_report`` is stage 4's.
    """
    summary = summarise(results)
    link = link_html(Path(place) / REPORT, evaluation_report, "Evaluation", "python 4_evaluate.py --compare")
    parts = {
        "evaluation": link,
        "headline": list_html(headline(results)),
        "summary": escape(summary),
        "charts": charts_html(Path(folder), CHARTS),
        "tensors": table_html(
            _tensors(results), ["Figures of two stages: CPT's are of base to CPT, SFT's of CPT to SFT."]
        ),
        "tokens": _tokens(results),
    }
    body = fill((Path(__file__).parent / "report.html").read_text(encoding="utf-8"), parts)
    fonts = font_css(_languages(), body)
    path = Path(folder) / REPORT
    write_text(path, make_page("What training changed", body, _STYLE + fonts))
    return path


def _tensors(results: Record) -> Table:
    head = ["tensor", "type", "layer"]
    head += [f"{stage.title} {title}" for stage in STAGES for title in _FIGURES.values()] + ["cosine of changes"]
    rows = []
    for tensor in results["tensors"]:
        layer = Cell("", missing=True) if tensor["layer"] is None else Cell(str(tensor["layer"]), tensor["layer"])
        figures = [_number(tensor[stage.pair][key], key in _IN_PER_CENT) for stage in STAGES for key in _FIGURES]
        rows.append([Cell(tensor["name"]), Cell(tensor["type"]), layer, *figures, _number(tensor["delta_cosine"])])
    return Table("tensors", f"All {len(rows)} tensors", head, rows, [])


def _tokens(results: Record) -> str:
    if not results["embedding_rows"]:
        return "<p>None of the checkpoints has a tokenizer.json, so rows are not told apart.</p>"
    embedding = results["embedding_rows"][0]
    # Of several languages of a script any will do: it chooses the font.
    languages = {script: code for code in reversed(_languages()) for script in load_language(code).scripts}
    groups, moved = [], []
    for group in embedding["scripts"]:
        script = Cell(group["script"])
        figures = [_number(group[s.pair][key], key != "mean_l2") for s in STAGES for key in _OF_ROWS]
        groups.append([script, Cell(f"{group['rows']:,}", group["rows"]), *figures])
        for stage in STAGES:
            for token in group[stage.pair]["moved"]:
                text = Cell(token["text"], language=languages.get(group["script"], ""))
                row = [script, Cell(stage.title), text, Cell(token["bytes"]), Cell(str(token["id"]), token["id"])]
                moved.append([*row, _number(token["l2"]), _number(token["relative"], True)])
    head = [f"{stage.title} {title}" for stage in STAGES for title in _OF_ROWS.values()]
    tables = [
        Table("scripts", f"Rows of {embedding['name']} by script", ["script", "rows", *head], groups, []),
        Table(
            "tokens",
            f"Of each script and stage the {MOST_MOVED} tokens that moved furthest",
            ["script", "stage", "text", "bytes", "row", "L2", "relative"],
            moved,
            [],
        ),
    ]
    return "\n".join(map(table_html, tables))


def _languages() -> list[str]:
    return [file.stem for file in sorted(PROFILES.glob("*.yaml"))]


def _number(value: float | None, in_per_cent: bool = False) -> Cell:
    if value is None:
        return _MISSING
    return Cell(f"{100 * value:.3g} %" if in_per_cent else f"{value:.4g}", value)
