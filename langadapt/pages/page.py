"""A page in one file: style, script, fonts and pictures inside, and nothing that it would ask a network for."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from langadapt.files import write_text

_HERE = Path(__file__).parent
_LINK = re.compile(r'<span id="other">.*?</span>', re.DOTALL)


def make_page(title: str, body: str, style: str = "", script: str = "") -> str:
    """Return a page with ``body``, in the style of all reports and with their sortable tables.

    ``style`` and ``script`` are added to the shared ones. A content security policy lets no other script run.
    """
    script = _read("tables.js") + script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    parts = {"policy": policy, "title": escape(title), "style": _read("page.css") + style, "body": body}
    return fill(_read("page.html"), {**parts, "script": script})


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Return a template with each ``@@name@@`` replaced by that part."""
    # Split, not replaced one after another: what is put in may hold the name of another place.
    pieces = template.split("@@")
    return "".join(piece if number % 2 == 0 else parts[piece] for number, piece in enumerate(pieces))


def charts_html(folder: Path, charts: Mapping[str, str]) -> str:
    """Return those of ``charts`` (file names and titles) that are in a folder, as pictures inside the page."""
    figures = []
    for name, title in charts.items():
        path = folder / name
        if path.is_file():
            image = base64.b64encode(path.read_bytes()).decode()
            figures.append(
                f'<figure id="{path.stem}"><figcaption>{escape(title)}</figcaption>'
                f'<img alt="{escape(title)}; the tables hold the same figures" src="data:image/png;base64,{image}">'
                "</figure>"
            )
    return "\n".join(figures)


def link_html(page: Path, other: str | Path, name: str, made_by: str) -> str:
    """Return the place in ``page``'s navigation for the report of another stage: a link, or that it is not there."""
    if Path(other).is_file():
        target = quote(os.path.relpath(other, page.parent).replace(os.sep, "/"))
        return f'<span id="other"><a href="{target}">{escape(name)}</a></span>'
    return f'<span id="other">{escape(name)}: no report at {escape(str(other))}; it is made by {escape(made_by)}</span>'


def link_back(page: Path, other: Path, name: str) -> bool:
    """Put a link to ``other`` into a page that is already written; say whether it has the place for one."""
    text = page.read_text(encoding="utf-8")
    linked = _LINK.sub(lambda _: link_html(page, other, name, ""), text, count=1)
    if linked != text:
        write_text(page, linked)
    return _LINK.search(text) is not None


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
