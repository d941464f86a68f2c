"""Texts side by side in a terminal, by the cells that its characters take; no character or stack is ever cut.

A Tibetan stack is several characters in one cell, a Chinese character takes two. Lines end at a space, after a tsheg,
or beside a Chinese character; where a line has none of these, between any two characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import regex
from wcwidth import wcswidth

_CLUSTER = regex.compile(r"\X")
_BETWEEN = " │ "
_NARROWEST = 24  # cells of a column; where they would have fewer the texts stand below each other
# Where a line may end, seen from the text before and the text after: behind a tsheg that no shad follows, and on either
# side of a character of a script without spaces, but not before a closing mark or behind an opening one.
_TSHEG = "\u0f0b"
_SHAD = regex.compile(r"[\u0f0d-\u0f14]")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_CLOSING = regex.compile(r"[\p{Pe}\p{Pf}\p{Po}]")
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}]")


def side_by_side(columns: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return the lines that show titled texts in columns of a terminal of ``width`` cells.

    Where the terminal is too narrow, each text stands below the one before.
    """
    each = (width - cells(_BETWEEN) * (len(columns) - 1)) // len(columns)
    if len(columns) == 1 or each < _NARROWEST:
        return [line for title, text in columns for line in (f"[{title}]", *wrap(text, width), "")][:-1]
    wrapped = [[*wrap(title, each), "─" * each, *wrap(text, each)] for title, text in columns]
    rows = zip_longest(*wrapped, fillvalue="")
    return [_BETWEEN.join(pad(part, each) for part in row).rstrip() for row in rows]


def cells(text: str) -> int:
    """Return how many cells a terminal gives to a text without control characters."""
    return max(0, wcswidth(text))


def pad(text: str, width: int) -> str:
    """Return a text filled up with spaces to ``width`` cells."""
    return text + " " * (width - cells(text))


def wrap(text: str, width: int) -> list[str]:
    """Return a text as lines of at most ``width`` cells, or of one character where that is wider.

    Only the spaces at which a line ends are left out; a tab is four spaces.
    """
    lines: list[str] = []
    for paragraph in text.expandtabs(4).split("\n"):
        lines += _wrap(_CLUSTER.findall(paragraph), width)
    return lines


def _wrap(clusters: list[str], width: int) -> list[str]:
    lines = []
    start, used, end = 0, 0, None  # of the line that is being filled: where it starts, its cells, its last good end
    place = 0
    while place < len(clusters):
        size = cells(clusters[place])
        if used + size > width and place > start and not clusters[place].isspace():
            end = end or place
            lines.append("".join(clusters[start:end]).rstrip())
            start = place = end
            used, end = 0, None
            continue
        used += size
        place += 1
        if place < len(clusters) and _may_end(clusters[place - 1], clusters[place]):
            end = place
    lines.append("".join(clusters[start:]).rstrip())
    return lines


def _may_end(before: str, after: str) -> bool:
    if after.isspace():
        return False  # it goes to the end of the line
    if before.isspace():
        return True
    if before.endswith(_TSHEG):
        return not _SHAD.match(after)
    if _CLOSING.match(after) or _OPENING.match(before):
        return False
    return bool(_UNSPACED.match(before) or _UNSPACED.match(after))
