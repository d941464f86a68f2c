"""Tables of a report: what is in a cell, and how it becomes HTML that sorts by a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """An entry: its text, the number that it sorts by (None for words), its 95 % interval, the language of the text."""

    text: str
    value: float | None = None
    interval: str = ""
    bold: bool = False
    missing: bool = False
    language: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title above and its notes below."""

    name: str
    title: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str]


def table_html(table: Table, notes: Sequence[str] = ()) -> str:
    """Return a table with its title and ``notes``; numbers sort by their value, what is missing comes last."""
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="wide"><table class="sortable" id="table-{table.name}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n{list_html(notes, 'notes')}"
    )


def list_html(sentences: Sequence[str], kind: str = "") -> str:
    """Return sentences as a list of the CSS class ``kind``; nothing for none."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' class="number" data-value="{cell.value!r}"'
    value = ' class="missing"' if cell.missing else value
    value += f' lang="{escape(cell.language)}"' if cell.language else ""
    text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
    interval = f" <small>{escape(cell.interval)}</small>" if cell.interval else ""
    return f"<td{value}>{text}{interval}</td>"
