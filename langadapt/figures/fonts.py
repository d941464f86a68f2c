"""Fonts for every script, and what to write where there is none.

matplotlib draws an empty box for a character that no font holds, which helps nobody; `label` falls back to
other words instead, such as the language's code. Tibetan stacks are shaped by matplotlib itself from version 3.11 on.
"""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager, ft2font

from langadapt.recipe.language import PROFILES, load_language

_ALWAYS_THERE = "DejaVu Sans"  # comes with matplotlib


@cache
def families() -> list[str]:
    """Return the installed font families to draw with, best first: DejaVu, then what the language profiles name."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    wanted = [font for file in sorted(PROFILES.glob("*.yaml")) for font in load_language(file.stem).fonts]
    return [_ALWAYS_THERE, *(font for font in dict.fromkeys(wanted) if font in installed and font != _ALWAYS_THERE)]


def can_draw(text: str) -> bool:
    """Say whether the installed fonts hold every character of a text."""
    missing = {ord(c) for c in text if not c.isspace()}
    for family in families():
        missing -= _characters(family)
    return not missing


def label(text: str, fallback: str) -> str:
    """Return ``text`` where the fonts can draw it, else ``fallback``."""
    return text if can_draw(text) else fallback


@cache
def _characters(family: str) -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False)
    return frozenset(ft2font.FT2Font(path).get_charmap())
