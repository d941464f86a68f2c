"""The tables of a comparison as files: CSV for programs, LaTeX for a paper, Markdown for a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langadapt.evaluation.comparison.figures import Comparison, Verdict
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.figures import figure_tables
from langadapt.files import write_json, write_text
from langadapt.pages import Cell, Table

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
}  # fmt: skip
_ESCAPES = str.maketrans(_LATEX)
_BOLD = (
    "Bold: better than every other model, each at p < 0.05 by paired bootstrap, not corrected for the number of pairs."
)


def write_tables(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write ``evaluation_tables.csv``, ``.tex`` and ``.md`` into a folder, and ``evaluation_bars.json`` where there are
    bars; return their paths.
    """
    figures, details = figure_tables(comparison), detail_tables(comparison)
    in_papers = [*figures, *(table for table in details if table.name == "fewshot")]
    texts = {
        "evaluation_tables.csv": as_csv(comparison),
        "evaluation_tables.tex": "% needs \\usepackage{booktabs}\n\n" + "\n".join(map(as_latex, in_papers)),
        "evaluation_tables.md": "# Evaluation\n\n" + "\n".join(map(as_markdown, [*figures, *details])),
    }
    for name, text in texts.items():
        write_text(Path(folder) / name, text)
    bars = Path(folder) / "evaluation_bars.json"
    if comparison.verdicts:
        write_json(bars, list(map(_plain, comparison.verdicts)))
    else:
        bars.unlink(missing_ok=True)
    return [*(Path(folder) / name for name in texts), *([bars] if comparison.verdicts else [])]


def as_csv(comparison: Comparison) -> str:
    """Return one line a figure, unrounded, with all that it has to be read with; figures set apart say why."""
    buffer = io.StringIO()
    floors = ["shuffled", "copied_source", "neighbour", "chance"]
    writer = csv.writer(buffer, lineterminator="\n")
    places = ["test_set", "of", "metric", "view", "model", "prompt"]
    values = ["value", "low", "high", *(f"floor_{name}" for name in floors)]
    writer.writerow([*places, *values, "measured_on", "signature", "items_sha256", "comparable"])
    for metric in comparison.metrics:
        for model, reason in {**dict.fromkeys(metric.figures, "yes"), **metric.reasons}.items():
            figure = metric.figures[model] or metric.apart.get(model)
            start = [metric.test_set, metric.of, metric.name, metric.view or "", model]
            if figure is None:
                writer.writerow([*start, *[""] * (7 + len(floors)), reason])
                continue
            ends = (figure.interval.low, figure.interval.high) if figure.interval else ("", "")
            found = [figure.floors.get(name, "") for name in floors]
            where = [figure.count, figure.signature, figure.items_sha256, reason]
            writer.writerow([*start, figure.prompt or metric.prompt, figure.value, *ends, *found, *where])
    return buffer.getvalue()


def as_markdown(table: Table, heading: str = "##") -> str:
    """Return a table in GitHub's Markdown, with its title as a heading and its notes as a list."""
    rows = [[_markdown(cell) for cell in row] for row in table.rows]
    align = ["---:" if number else "---" for number in _numeric(table)]
    lines = [f"| {' | '.join(row)} |" for row in ([_marked(name) for name in table.head], align, *rows)]
    notes = "".join(f"- {_marked(note)}\n" for note in notes_of(table))
    return f"{heading} {_marked(table.title)}\n\n" + "\n".join(lines) + f"\n\n{notes}"


def as_latex(table: Table) -> str:
    """Return a table for the package booktabs: a rule between groups, the notes below, special characters escaped."""
    head = " & ".join(_latex(name) for name in table.head)
    lines = []
    for position, row in enumerate(table.rows):
        if position and row[0].text != table.rows[position - 1][0].text:
            lines.append(r"\midrule")
        lines.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
    columns = "".join("r" if number else "l" for number in _numeric(table))
    notes = " \\\\\n".join(rf"{{\footnotesize {_latex(note)}}}" for note in notes_of(table))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\raggedright",
            notes,
            r"\end{table}",
            "",
        ]
    )


def as_text(table: Table) -> str:
    """Return a table in columns for a terminal, without title and notes."""
    rows: list[Sequence[str]] = [table.head]
    rows += [[f"{cell.text} {cell.interval}".strip() for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def notes_of(table: Table) -> list[str]:
    """Return the notes of a table where bold can be shown, with what bold means if any entry is bold."""
    return [*table.notes, *([_BOLD] if any(cell.bold for row in table.rows for cell in row) else [])]


def _plain(verdict: Verdict) -> dict[str, Any]:
    bar = verdict.bar.model_dump(exclude={"models"}, exclude_none=True)
    return bar | {"model": verdict.model, "outcome": verdict.outcome, "value": verdict.value, "measured": verdict.why}


def _numeric(table: Table) -> list[bool]:
    return [any(cell.value is not None for cell in column) for column in zip(*table.rows, strict=True)]


def _markdown(cell: Cell) -> str:
    text = f"**{_marked(cell.text)}**" if cell.bold else _marked(cell.text)
    return f"{text} {_marked(cell.interval)}".strip()


def _marked(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\|*_`[]" else c for c in " ".join(text.split()))


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_latex(cell.text)}}}" if cell.bold else _latex(cell.text)
    return text + (rf" {{\footnotesize {_latex(cell.interval)}}}" if cell.interval else "")


def _latex(text: str) -> str:
    return " ".join(text.split()).translate(_ESCAPES)
