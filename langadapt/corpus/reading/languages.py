"""Which languages a record is in, and its texts in their normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import regex

from langadapt.recipe.language import load_language
from langadapt.text import normalize, script_share

if TYPE_CHECKING:
    from opencc import OpenCC

# From this share of the letters on, a text is in the language of a script and not only quoting it. It is small: names
# in another script may take nine tenths of a sentence.
_NOTICEABLE = 0.05


def prepare(text: str, language: str, convert: str | None = None) -> str:
    """Return ``text`` in the normal form of its language's profile, then converted by an OpenCC configuration."""
    text = normalize(text, load_language(language).normalization)
    return convert_script(text, convert) if convert else text


def convert_script(text: str, configuration: str) -> str:
    """Return ``text`` as an OpenCC configuration converts it, e.g. s2t: Simplified to Traditional Chinese."""
    return str(_converter(configuration).convert(text))


@cache
def _converter(configuration: str) -> OpenCC:
    from opencc import OpenCC

    return OpenCC(configuration)


def language_of(text: str, languages: Sequence[str]) -> str | None:
    """Return the one language whose scripts have a noticeable share in a text; None if there is none or more than one.

    Letters of other scripts do not count against it: a Chinese question about an English sentence is Chinese.
    """
    noticeable = [code for code in languages if script_share(text, load_language(code).scripts) >= _NOTICEABLE]
    return noticeable[0] if len(noticeable) == 1 else None


def direction_of(
    asked: str, answered: str, languages: Sequence[str], routes: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Return the languages of a user's turn and of its answer; None for one that the script does not tell.

    The first of ``routes`` (direction: regular expression) that matches the user's turn counts, before the scripts.
    """
    for direction, pattern in routes.items():
        if regex.search(pattern, asked):
            source, _, target = direction.partition("-")
            return source, target
    return language_of(asked, languages), language_of(answered, languages)
