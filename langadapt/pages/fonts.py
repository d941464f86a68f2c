"""Fonts that travel inside the page, so that a script is shaped whole where the reader has no font for it."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable
from pathlib import Path

import regex
from fontTools import subset
from matplotlib import font_manager

from langadapt.errors import UserError
from langadapt.recipe import load_language


def font_css(languages: Iterable[str], text: str) -> str:
    """Return the style rules that give each language's text its fonts, with the first installed one embedded.

    Embedded are fonts for scripts whose letters carry marks in ``text``: without a font that shapes them, Tibetan
    letters stand beside each other instead of in stacks. The subset has the characters that occur and every layout
    feature. Readers have fonts for other scripts. A language without an installed font has its families by name alone.
    """
    rules, embedded = [], set()
    for code in languages:
        try:
            profile = load_language(code)
        except UserError:  # the reader's own fonts will do
            continue
        names = [f'"{name}"' for name in profile.fonts]
        characters = _characters(text, profile.scripts)
        path = _installed(profile.fonts)
        if path and regex.search(r"\p{M}", characters):
            family = f"embedded {path.stem}"
            names.insert(0, f'"{family}"')
            if path not in embedded:
                embedded.add(path)
                rules.append(_face(family, path, characters))
            rules.append(f".text:lang({code}) {{ line-height: 2; }}")  # room for marks above and below
        if names:
            rules.append(f":lang({code}) {{ font-family: {', '.join(names)}, serif; }}")
    return "\n".join(rules)


def _installed(families: Iterable[str]) -> Path | None:
    files = {
        entry.name: Path(entry.fname) for entry in font_manager.fontManager.ttflist if entry.weight in (400, "normal")
    }
    found = (files[family] for family in families if family in files)
    return next((path for path in found if path.suffix.lower() in (".ttf", ".otf") and path.is_file()), None)


def _characters(text: str, scripts: list[str]) -> str:
    classes = "".join(rf"\p{{Script={script}}}" for script in scripts)
    return "".join(set(regex.findall(f"[{classes}]", text)))


def _face(family: str, path: Path, characters: str) -> str:
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells of every table that it drops
    options = subset.Options(layout_features=["*"], flavor="woff", notdef_outline=True)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters)
    buffer = io.BytesIO()
    with subset.load_font(str(path), options) as font:
        subsetter.subset(font)
        subset.save_font(font, buffer, options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'@font-face {{ font-family: "{family}"; src: url(data:font/woff;base64,{data}) format("woff"); }}'
