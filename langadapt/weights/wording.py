"""How the summary of stage 5 is set: headings, lines of one width, numbers with their unit."""

from __future__ import annotations

import textwrap

WIDTH = 110


def heading(text: str) -> list[str]:
    """Return a heading, underlined."""
    return [text, "-" * len(text)]


def paragraph(text: str) -> list[str]:
    """Return a text in lines."""
    return textwrap.wrap(text, WIDTH)


def percent(share: float | None) -> str:
    """Return a share of 1 in per cent."""
    return "undefined" if share is None else f"{100 * share:.3g} %"


def number(value: float | None) -> str:
    """Return a correlation with two digits."""
    return "not defined" if value is None else f"{value:.2f}"
