"""The units of a text: tsheg syllables in Tibetan script, characters in scripts without spaces, words elsewhere.

One pattern does for all scripts, because the tsheg is punctuation to Unicode: a run of letters, marks and numbers is a
syllable in Tibetan and a word in English. ``\\w`` would not do: it leaves out the combining vowels of Tibetan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

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
_CLAUSES = regex.compile(r"[^,;:،、，；：]*[,;:،、，；：]+\s*|[^,;:،、，；：]+")
_WORDS = regex.compile(rf"[^\s{_TSHEG}]*[\s{_TSHEG}]+|[^\s{_TSHEG}]+")


def units(text: str) -> list[str]:
    """Return the content units of a text in order: syllables, characters or words by script, no punctuation."""
    return _UNITS.findall(text)


def bleu_units(text: str) -> list[str]:
    """Return units and punctuation marks in order, without white space and tshegs: what syllable BLEU counts.

    The tsheg only separates; counting it would add a match for nearly every matching syllable.
    """
    return _BLEU_UNITS.findall(text)


def whole_sentences(text: str, sentence_ends: str, spaced: bool) -> list[str]:
    """Cut a text behind its sentences; all parts together are the text, white space included.

    Closing quotes and brackets belong to the sentence they close, and so do lone marks before white space. With
    ``spaced``, for languages that set words apart, a mark inside a number or a name ends no sentence.
    """
    after = regex.compile(
        rf"[{regex.escape(sentence_ends)}]"
        rf"(?:[{regex.escape(sentence_ends)}\s\p{{Pe}}\p{{Pf}}]|[\p{{P}}--[\p{{Pi}}\p{{Ps}}]]+(?=\s|$))*",
        regex.V1,
    )
    ends = [end.end() for end in after.finditer(text) if not spaced or end.group()[-1].isspace()]
    bounds = [0, *(end for end in ends if end < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def cut_to_fit(text: str, fits: Callable[[str], bool], sentence_ends: str, spaced: bool) -> list[str]:
    """Cut a text into few parts that ``fits`` lets pass: at sentences, in those too long at clauses, then at words.

    All parts together are the text. A part that is one grapheme cluster may not fit.
    """
    cuts: list[Callable[[str], list[str]]] = [
        lambda part: whole_sentences(part, sentence_ends, spaced),
        _CLAUSES.findall,
        _WORDS.findall,
        _halves,
    ]
    return _packed(text, fits, cuts)


def _packed(text: str, fits: Callable[[str], bool], cuts: Sequence[Callable[[str], list[str]]]) -> list[str]:
    if fits(text):
        return [text]
    cut, *finer = cuts
    parts = cut(text)
    if len(parts) < 2:
        return _packed(text, fits, finer) if finer else [text]
    packed: list[str] = []
    for part in parts:
        if packed and fits(packed[-1] + part):
            packed[-1] += part
        else:
            packed += _packed(part, fits, finer or cuts)
    return packed


def _halves(text: str) -> list[str]:
    clusters = regex.findall(r"\X", text)
    half = len(clusters) // 2
    return ["".join(clusters[:half]), "".join(clusters[half:])] if half else [text]


def sentences(text: str, sentence_ends: str) -> list[str]:
    """Split a text after each run of sentence-end characters; only white space at the ends is lost."""
    ends = regex.escape(sentence_ends)
    parts = regex.findall(rf"[^{ends}]+[{ends}\s]*|[{ends}]+", text)
    return [part.strip() for part in parts if part.strip()]
