"""The fixed words around the content of prompts: "translate into Tibetan: ..." in front, "... in Tibetan?" behind.

Instruction data writes thousands of prompts from a few templates. Two prompts of one template are no twins for its
sake, and the source text of a translation is what the template leaves.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping

import regex

from langadapt.text import units

# A template ends, or begins, at punctuation or a line break; the tsheg stands inside words and is neither.
_BOUNDARY = regex.compile(r"[[\p{P}\n]--[\u0f0b]]", regex.V1)
_QUOTES = '“”"「」『』‘’'
_SHORTEST, _LONGEST = 4, 200  # characters of an opening or a closing
_LEAST, _LEAST_SHARE = 10, 0.002  # prompts that have to share it
_SAMPLE, _SEED = 50_000, 42  # prompts that are looked at, in which the rarest template stands a hundred times


class Templates:
    """The openings and closings that many of some prompts share; of more than 50,000 prompts a sample is looked at.

    So are those of the ``patterns`` that a recipe writes prompts from, in which {text} stands for the content.
    """

    def __init__(self, prompts: Iterable[str], patterns: Iterable[str] = ()) -> None:
        openings: Counter[str] = Counter()
        closings: Counter[str] = Counter()
        sample = _sample(prompts)
        for prompt in sample:
            openings.update(_openings(prompt))
            closings.update(_closings(prompt))
        least = max(_LEAST, _LEAST_SHARE * len(sample))
        # An opening ends at its punctuation, not at the space behind.
        ends = [(head.rstrip(" "), tail) for head, _, tail in (pattern.partition("{text}") for pattern in patterns)]
        self.openings = frozenset(text for text, uses in openings.items() if uses >= least) | {e[0] for e in ends} - {
            ""
        }
        self.closings = frozenset(text for text, uses in closings.items() if uses >= least) | {e[1] for e in ends} - {
            ""
        }

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

    def without_templates(self, texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the texts, each with a name, that are more than an opening or a closing."""
        known = {tuple(units(template.lower())) for template in self.openings | self.closings}
        return [(name, text) for name, text in texts if tuple(units(text.lower())) not in known]


def _sample(prompts: Iterable[str]) -> list[str]:
    """Return all prompts, or `_SAMPLE` of them, each as likely as any other: reservoir sampling (Vitter 1985, R).

    Of long ones only the ends are kept, which is where openings and closings are.
    """
    generator = random.Random(_SEED)
    sample: list[str] = []
    for number, prompt in enumerate(prompts):
        place = number if number < _SAMPLE else generator.randrange(number + 1)
        if place < _SAMPLE:  # the next free one, or one to be taken over
            kept = prompt if len(prompt) <= 2 * _LONGEST else prompt[:_LONGEST] + prompt[-_LONGEST:]
            sample[place : place + 1] = [kept]
    return sample


def _openings(prompt: str) -> list[str]:
    ends = (match.end() for match in _BOUNDARY.finditer(prompt, 0, _LONGEST))
    return [prompt[:end] for end in ends if _SHORTEST <= end < len(prompt)]


def _closings(prompt: str) -> list[str]:
    starts = (match.start() for match in _BOUNDARY.finditer(prompt, max(0, len(prompt) - _LONGEST)))
    return [prompt[start:] for start in starts if start > 0 and len(prompt) - start >= _SHORTEST]
