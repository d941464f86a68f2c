"""Which scripts a text is written in, and the parts of it that survive translation unchanged."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

import regex
from fontTools import unicodedata as script_data

_LETTERS = regex.compile(r"[\p{L}\p{M}]")
_SHARED = ("Zyyy", "Zinh", "Zzzz")  # in ISO 15924: common, inherited, unknown
_NUMBERS = re.compile(r"\d+")  # of re, which knows the digits that unicodedata knows
_LATIN_WORDS = regex.compile(r"\p{Latin}{2,}")


def script_share(text: str, scripts: Sequence[str]) -> float:
    """Return the share, 0 to 1, of letters and combining marks that belong to the named Unicode scripts; 0 if none."""
    letters = len(_LETTERS.findall(text))
    return len(_letters_of(tuple(scripts)).findall(text)) / letters if letters else 0.0


def main_script(text: str) -> str | None:
    """Return the Unicode script that most characters of a text are of, e.g. ``Tibetan``.

    Characters that all scripts share, such as spaces and ASCII digits, do not count; None where there are no others.
    """
    found = Counter(script for script in map(script_data.script, text) if script not in _SHARED)
    return str(script_data.script_name(max(found, key=found.__getitem__))) if found else None


def numbers(text: str) -> list[str]:
    """Return the decimal numbers of a text in order, in ASCII digits, whatever script they are written in.

    Leading zeros are dropped, so that 05 and 5 agree.
    """
    return ["".join(str(unicodedata.decimal(c)) for c in run).lstrip("0") or "0" for run in _NUMBERS.findall(text)]


def latin_words(text: str) -> list[str]:
    """Return the runs of two or more Latin letters, lower-cased: names and terms that translations carry over."""
    return [word.lower() for word in _LATIN_WORDS.findall(text)]


@cache
def _letters_of(scripts: tuple[str, ...]) -> regex.Pattern[str]:
    classes = "".join(rf"\p{{Script={script}}}" for script in scripts)
    return regex.compile(rf"[[{classes}]&&[\p{{L}}\p{{M}}]]", regex.V1)
