"""One normal form for data, references and hypotheses.

NFC alone leaves three Tibetan spellings of one text apart (REFERENCE: the Unicode charts of U+0F00-0FFF): the
non-breaking tsheg, the two deprecated vocalic letters that NFC does not decompose, and a vowel sign typed after the
anusvara. NFKC is not used: it would rewrite full-width Chinese punctuation.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Literal

import regex

_TIBETAN_MAP = {
    "\u0f0c": "\u0f0b",  # non-breaking tsheg: a hint for line breaking, not another letter
    "\u0f77": "\u0fb2\u0f71\u0f80",  # deprecated vocalic RR
    "\u0f79": "\u0fb3\u0f71\u0f80",  # deprecated vocalic LL
}
# Vowel signs, nasal marks and the halanta in one run. The anusvara has combining class 0, so canonical ordering stops
# at it; the halanta has 9, and goes between it and a vowel sign.
_MARKS = regex.compile("[\u0f71-\u0f7e\u0f80-\u0f84]{2,}")
_NASAL = frozenset("\u0f7e\u0f82\u0f83")
_INVISIBLE = {"\ufeff": "", "\u200b": ""}
# What a text that is in NFC may hold and still not be in normal form.
_ODD = {
    "nfc": regex.compile("[\ufeff\u200b]"),
    "tibetan": regex.compile("[\ufeff\u200b\u0f0c\u0f77\u0f79]|[\u0f7e\u0f82\u0f83][\u0f71-\u0f7d\u0f80\u0f81\u0f84]"),
}


def normalize(text: str, form: Literal["nfc", "tibetan"] = "nfc") -> str:
    """Return ``text`` in the normal form of a language profile; ``normalize(normalize(x)) == normalize(x)``.

    Both forms apply NFC, remove byte order marks and zero-width spaces, and strip white space at the ends. The
    Tibetan form also maps the non-breaking tsheg to the tsheg, decomposes U+0F77 and U+0F79, and puts vowel signs
    and the halanta before nasal marks.
    """
    if unicodedata.is_normalized("NFC", text) and not _ODD[form].search(text):
        return text.strip()  # most text is: fifty times as fast
    text = unicodedata.normalize("NFC", _replaced(text, _INVISIBLE))
    if form == "tibetan" and _ODD[form].search(text):
        text = unicodedata.normalize("NFC", _replaced(text, _TIBETAN_MAP))
        while _ODD[form].search(text):  # again where canonical ordering has brought the next sign to a nasal mark
            text = unicodedata.normalize("NFC", _MARKS.sub(_vowels_first, text))
    return text.strip()


def _replaced(text: str, characters: Mapping[str, str]) -> str:
    for old, new in characters.items():  # str.translate takes a hundred times as long
        text = text.replace(old, new)
    return text


def _vowels_first(match: regex.Match[str]) -> str:
    run = match.group()
    return "".join(c for c in run if c not in _NASAL) + "".join(c for c in run if c in _NASAL)
