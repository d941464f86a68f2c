"""The fixed words around the content of prompts: "translate into Tibetan: ..." in front, "... in Tibetan?" behind.

Instruction data writes thousands of prompts from a few templates. Two prompts of one template are no twins for its
sake, and the source text of a translation is what the template leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import regex

from langadapt.text import units

# A template ends, or begins, at punctuation or a line break; the tsheg stands inside words and is neither.
_BOUNDARY = regex.compile(r"[[\p{P}\n]--[\u0f0b]]", regex.V1)
_QUOTES = '“”"「」『』‘’'
_SHORTEST, _LONGEST = 4, 200  # characters of an opening or a closing
_LEAST, _LEAST_SHARE = 10, 0.002  # prompts that have to share it


class Templates:
    """The openings and closings that many of some prompts share."""

    def __init__(self, prompts: Iterable[str]) -> None:
        openings: Counter[str] = Counter()
        closings: Counter[str] = Counter()
        count = 0
        for prompt in prompts:
            count += 1
            openings.update(_openings(prompt))
            closings.update(_closings(prompt))
        least = max(_LEAST, _LEAST_SHARE * count)
        self.openings = frozenset(text for text, uses in openings.items() if uses >= least)
        self.closings = frozenset(text for text, uses in closings.items() if uses >= least)

    @classmethod
    def of(cls, known: Mapping[str, Iterable[str]]) -> Templates:
        """Return the templates that `known` gave earlier."""
        templates = cls(())
        templates.openings, templates.closings = frozenset(known["openings"]), frozenset(known["closings"])
        return templates

    @property
    def known(self) -> dict[str, list[str]]:
        """The openings and closings, sorted, to be kept with the data they were found in."""
        return {"openings": sorted(self.openings), "closings": sorted(self.closings)}

    def content(self, prompt: str) -> str:
        """Return a prompt without its longest known opening and closing; the whole of it if nothing would be left."""
        text = prompt
        opening = max((o for o in _openings(text) if o in self.openings), key=len, default="")
        text = text[len(opening) :]
        closing = max((c for c in _closings(text) if c in self.closings), key=len, default="")
        text = text[: len(text) - len(closing)]
        if opening or closing:
            text = text.strip().strip(_QUOTES).strip()
        return text if units(text) else prompt


def _openings(prompt: str) -> list[str]:
    ends = (match.end() for match in _BOUNDARY.finditer(prompt, 0, _LONGEST))
    return [prompt[:end] for end in ends if _SHORTEST <= end < len(prompt)]


def _closings(prompt: str) -> list[str]:
    starts = (match.start() for match in _BOUNDARY.finditer(prompt, max(0, len(prompt) - _LONGEST)))
    return [prompt[start:] for start in starts if start > 0 and len(prompt) - start >= _SHORTEST]
