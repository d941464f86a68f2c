"""The units of a text: tsheg syllables in Tibetan script, characters in scripts without spaces, words elsewhere.

One pattern does for all scripts, because the tsheg is punctuation to Unicode: a run of letters, marks and numbers is a
syllable in Tibetan and a word in English. ``\\w`` would not do: it leaves out the combining vowels of Tibetan.
"""

from __future__ import annotations

import regex

NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNIT = "|".join(
    [
        r"\p{N}+",
        rf"[[{NO_SPACES}]&&[\p{{L}}]]\p{{M}}*",
        r"[\p{Tibetan}&&[\p{L}\p{M}]]+",  # apart from the next, for Tibetan with Latin names set solid against it
        rf"[[\p{{L}}\p{{M}}]--[{NO_SPACES}\p{{Tibetan}}]]+",
    ]
)
_UNITS = regex.compile(_UNIT, regex.V1)
_TSHEG = "\u0f0b"
_BLEU_UNITS = regex.compile(rf"{_UNIT}|[^\s{_TSHEG}]", regex.V1)


def units(text: str) -> list[str]:
    """Return the content units of a text in order: syllables, characters or words by script, no punctuation."""
    return _UNITS.findall(text)


def bleu_units(text: str) -> list[str]:
    """Return units and punctuation marks in order, without white space and tshegs: what syllable BLEU counts.

    The tsheg only separates; counting it would add a match for nearly every matching syllable.
    """
    return _BLEU_UNITS.findall(text)


def sentences(text: str, sentence_ends: str) -> list[str]:
    """Split a text after each run of sentence-end characters; only white space at the ends is lost."""
    ends = regex.escape(sentence_ends)
    parts = regex.findall(rf"[^{ends}]+[{ends}\s]*|[{ends}]+", text)
    return [part.strip() for part in parts if part.strip()]
