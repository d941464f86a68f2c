"""report.html: summary, charts, tables and every prediction, in one file that opens from a disk."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from langadapt.errors import UserError
from langadapt.evaluation.charts.drawing import CHARTS
from langadapt.evaluation.comparison.figures import Comparison
from langadapt.evaluation.report.predictions import Group, group_predictions
from langadapt.evaluation.results import Prediction, read_predictions
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.figures import figure_tables
from langadapt.evaluation.tables.files import notes_of
from langadapt.evaluation.tables.summary import findings
from langadapt.files import write_text
from langadapt.pages import Cell, Table, charts_html, fill, font_css, link_html, list_html, make_page, table_html

_HERE = Path(__file__).parent


def write_report(comparison: Comparison, folder: str | Path, weight_report: str | Path) -> Path:
    """Write ``report.html`` into the folder that holds the results and their charts; return its path.

    ``weight_report`` is stage 5's, to which it links where that is there. Raises `UserError` where a chart is missing:
    `draw_charts` comes first.
    """
    predictions = _predictions(comparison, folder)
    groups = group_predictions(comparison.results, predictions)
    path = Path(folder) / "report.html"
    charts = charts_html(Path(folder), CHARTS)
    if not charts:
        raise UserError(f"{folder}: no charts for the report. Draw them: python 4_evaluate.py --compare")
    weights = link_html(path, weight_report, "Weights", "python 5_analyze_weights.py")
    write_text(path, _page(comparison, groups, charts, weights))
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


def _page(comparison: Comparison, groups: list[Group], charts: str, weights: str) -> str:
    data = "\n".join(map(_data, groups))
    codes = dict.fromkeys(code for group in groups for code in (group["source"], group["target"]))
    parts = {
        "weights": weights,
        "models": _models(comparison),
        "findings": list_html(findings(comparison)) or "<p>One model and one figure each: nothing to compare.</p>",
        "cautions": list_html(comparison.cautions) or "<p>Nothing.</p>",
        "tables": "\n".join(map(_table, figure_tables(comparison))) or "<p>Nothing was measured.</p>",
        "charts": charts,
        "details": "\n".join(map(_table, detail_tables(comparison))),
        "data": data,
    }
    body = fill((_HERE / "report.html").read_text(encoding="utf-8"), parts)
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    return make_page("Evaluation", body, f"{style}\n{font_css(codes, data)}", script)


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
    return table_html(table, notes_of(table))
