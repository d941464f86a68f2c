"""report.html: summary, charts, tables and every prediction, in one file that opens from a disk."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path

from langadapt.errors import UserError
from langadapt.evaluation.charts.drawing import CHARTS
from langadapt.evaluation.comparison.figures import Comparison
from langadapt.evaluation.report.fonts import font_css
from langadapt.evaluation.report.predictions import Group, group_predictions
from langadapt.evaluation.results import Prediction, read_predictions
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.figures import Cell, Table, figure_tables
from langadapt.evaluation.tables.files import notes_of
from langadapt.evaluation.tables.summary import findings
from langadapt.files import write_text

_HERE = Path(__file__).parent


def write_report(comparison: Comparison, folder: str | Path) -> Path:
    """Write ``report.html`` into the folder that holds the results and their charts; return its path.

    Raises `UserError` where a chart is missing: `draw_charts` comes first.
    """
    predictions = _predictions(comparison, folder)
    groups = group_predictions(comparison.results, predictions)
    path = Path(folder) / "report.html"
    write_text(path, _page(comparison, groups, _charts(Path(folder))))
    return path


def _predictions(comparison: Comparison, folder: str | Path) -> dict[str, list[Prediction]]:
    found = {}
    for model, result in comparison.results.items():
        try:
            if result.translations:
                found[model] = read_predictions(folder, model)
        except UserError:
            continue  # the comparison's cautions name the file
    return found


def _page(comparison: Comparison, groups: list[Group], charts: str) -> str:
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    data = "\n".join(map(_data, groups))
    codes = dict.fromkeys(code for group in groups for code in (group["source"], group["target"]))
    tables = "\n".join(map(_table, figure_tables(comparison)))
    details = "\n".join(map(_table, detail_tables(comparison)))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    parts = {
        "policy": policy,
        "style": f"{style}\n{font_css(codes, data)}",
        "models": _models(comparison),
        "findings": _list(findings(comparison)) or "<p>One model and one figure each: nothing to compare.</p>",
        "cautions": _list(comparison.cautions) or "<p>Nothing.</p>",
        "tables": tables or "<p>Nothing was measured.</p>",
        "charts": charts,
        "details": details,
        "data": data,
        "script": script,
    }
    page = (_HERE / "report.html").read_text(encoding="utf-8")
    # Split, not replaced one after another: what is put in may hold the name of another place.
    pieces = page.split("@@")
    return "".join(piece if number % 2 == 0 else parts[piece] for number, piece in enumerate(pieces))


def _data(group: Group) -> str:
    """Return a group as a block of JSON that no text in it can close: within it, < is written as an escape."""
    text = json.dumps(group, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    name = escape(f"{group['test_set']} {group['direction']}")
    return f'<script type="application/json" data-name="{name}">{text}</script>'


def _models(comparison: Comparison) -> str:
    head = ["model", "path", "number format", "device", "finished", "seconds"]
    rows = [
        [
            Cell(model),
            Cell(r.model_path),
            Cell(r.dtype),
            Cell(r.device),
            Cell(r.finished),
            Cell(f"{r.seconds:,.0f}", r.seconds),
        ]
        for model, r in comparison.results.items()
    ]
    return _table(Table("models", "Models", head, rows, []))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="wide"><table class="sortable" id="table-{table.name}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n{_list(notes_of(table), 'notes')}"
    )


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' class="number" data-value="{cell.value!r}"'
    value = ' class="missing"' if cell.missing else value
    text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
    interval = f" <small>{escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td{value}>{text}{interval}</td>"


def _charts(folder: Path) -> str:
    figures = []
    for name, title in CHARTS.items():
        path = folder / name
        if path.is_file():
            image = base64.b64encode(path.read_bytes()).decode()
            figures.append(
                f'<figure id="{path.stem}"><figcaption>{escape(title)}</figcaption>'
                f'<img alt="{escape(title)}; the tables hold the same figures" src="data:image/png;base64,{image}">'
                "</figure>"
            )
    if not figures:
        raise UserError(f"{folder}: no charts for the report. Draw them: python 4_evaluate.py --compare")
    return "\n".join(figures)


def _list(sentences: list[str], kind: str = "") -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""
