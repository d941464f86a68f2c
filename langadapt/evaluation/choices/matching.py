"""Finding the answer in what a model wrote: a key, the text of a choice, or a number in any digits."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from decimal import Decimal

import regex

from langadapt.evaluation.choices.reading import KEYS, TIBETAN_KEYS
from langadapt.text import units

_GROUPED = r"\d{1,3}(?:[, \u00a0\u202f]\d{3})+(?!\d)(?:\.\d+)?"
_NUMBER = regex.compile(rf"(?:(?<!\d)[-−])?(?:{_GROUPED}|\d+(?:[.,]\d+)?)")


def match_choice(written: str, choices: Sequence[str]) -> str | None:
    """Return the choice that an answer names, None where it names none or several.

    The answer is its first line. It names a choice by a key (A, B, ... or ཀ, ཁ, ...) at its start; else by the only key
    that stands alone in it; else by the only choice whose words, syllables or characters stand in it in a row. A choice
    that is part of another one there ("гол" in "гол хэл") does not count.
    """
    line = _first_line(written)
    for keys in (KEYS[: len(choices)], TIBETAN_KEYS[: len(choices)]):
        # Not the article of "A dog"; and not a syllable, whose tsheg goes on to the next one.
        alone = rf"(?<![\p{{L}}\p{{M}}\p{{N}}་])([{keys}])(?![\p{{L}}\p{{M}}\p{{N}}'’]|་\S|(?<=A)\s+\p{{Ll}})"
        if start := regex.match(rf"[(（\s]*{alone}", line):
            return choices[keys.index(start[1])]
        found = set(regex.findall(alone, line))
        if found:
            return choices[keys.index(found.pop())] if len(found) == 1 else None
    inside = [choice for choice in dict.fromkeys(choices) if _in_a_row(choice, line)]
    whole = [choice for choice in inside if not any(choice != other and _in_a_row(choice, other) for other in inside)]
    return whole[0] if len(whole) == 1 else None


def match_answer(written: str, right: str) -> str | None:
    """Return what an answer without choices is compared by: its last number where ``right`` is one, else its line.

    None where there is no number, or nothing at all. Compare with `normal_answer` of the right answer.
    """
    line = _first_line(written)
    if _number(right) is None:
        return normal_answer(line) or None
    numbers = _NUMBER.findall(line)
    return _number(numbers[-1]) if numbers else None


def normal_answer(text: str) -> str:
    """Return an answer as it is compared: a number in ASCII digits without grouping or zeros, else folded text.

    18, 18.0 and ༡༨ are one; so are 70,000 and 70 000. A comma before three digits groups thousands, any other is a
    decimal point.
    """
    number = _number(text)
    return number if number is not None else " ".join(text.casefold().split()).strip(" .。།")


def _number(text: str) -> str | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    text = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text).replace("−", "-")
    grouped = regex.fullmatch(rf"-?{_GROUPED}", text)
    value = Decimal(regex.sub(r"[,\s]", "", text) if grouped else text.replace(",", "."))
    return f"{value.normalize():f}" if value else "0"


def _in_a_row(part: str, text: str) -> bool:
    """Say whether the units of ``part`` stand in ``text`` in a row; case and punctuation do not count."""
    wanted, there = units(part.casefold()), units(text.casefold())
    return bool(wanted) and any(
        there[start : start + len(wanted)] == wanted for start in range(len(there) - len(wanted) + 1)
    )


def _first_line(written: str) -> str:
    return written.strip().partition("\n")[0].strip()
