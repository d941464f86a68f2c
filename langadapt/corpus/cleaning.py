"""Filters on single texts and on pairs: what is not worth training on, each with its threshold from the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from langadapt.recipe import Language
from langadapt.recipe.cleaning import CleaningSettings
from langadapt.text.blocks import Ragged, Table, TextBlock, letters_of, shingles, table_of

# In the order in which they are tried. A text is counted under the first that it fails; 0 is a text to keep.
REASONS = (
    "kept",
    "blank",
    "script_share: another script",
    "min_units: too short",
    "max_units: too long",
    "max_damaged: U+FFFD, control characters, mojibake",
    "max_markup: markup",
    "max_repetition: repeats itself",
)
_REPEATED = 5  # units of the runs that a text may repeat
_MARKUP = "<>{}[]|\\^~=_#@$*`"


def reasons_to_drop(block: TextBlock, language: Language | None, limits: CleaningSettings) -> NDArray[np.uint8]:
    """Return for every text the number of the first filter in `REASONS` that it fails, or 0.

    Without a language, as for the two sides of an instruction, script and length are not looked at.
    """
    characters = np.maximum(block.characters, 1)
    units = block.units.lengths
    tests: list[NDArray[np.bool_] | None] = [None, units + block.count(letters_of()) == 0]
    if language is None:
        tests += [None, None, None]
    else:
        letters = block.count(letters_of())
        share = block.count(letters_of(*language.scripts)) / np.maximum(letters, 1)
        tests.append(share < limits.script_share)
        tests.append(units < limits.min_units)
        tests.append(units > limits.max_units if limits.max_units is not None else None)
    tests.append(_damaged(block) > limits.max_damaged * characters)
    tests.append(block.count(_table(_MARKUP)) > limits.max_markup * characters)
    tests.append(repetition(block.units) > limits.max_repetition if limits.max_repetition < 1 else None)
    reasons = np.zeros(len(block), np.uint8)
    for number, failed in reversed(list(enumerate(tests))):
        if failed is not None:
            reasons[failed] = number
    return reasons


def repetition(units: Ragged) -> NDArray[np.float64]:
    """Return the share of runs of five units that stood in the text before, 0 to 1; 0 for texts of fewer."""
    runs = shingles(units, _REPEATED)
    return 1 - runs.distinct().lengths / np.maximum(runs.lengths, 1)


def implausible_lengths(
    source: NDArray[np.integer], target: NDArray[np.integer], fence: float | None
) -> tuple[NDArray[np.bool_], tuple[float, float]]:
    """Return which pairs have a length ratio outside Tukey's fences, and the lowest and highest ratio inside.

    The logarithms of target to source length in units are compared with the quartiles of all pairs: outside is what is
    more than ``fence`` interquartile ranges below the first or above the third.
    """
    ratios = np.log((target + 1) / (source + 1))
    if fence is None or not len(ratios):
        return np.zeros(len(ratios), np.bool_), (0.0, float("inf"))
    first, third = np.quantile(ratios, [0.25, 0.75])
    # A corpus of pairs that are all alike would have fences that no other pair can pass.
    width = fence * max(third - first, 0.1)
    low, high = first - width, third + width
    return (ratios < low) | (ratios > high), (float(np.exp(low)), float(np.exp(high)))


def unlike_pairs(source: TextBlock, target: TextBlock, limits: CleaningSettings) -> list[str | None]:
    """Return for every pair why it is no translation to learn from, or None: numbers that differ, copied text."""
    reasons: list[str | None] = []
    for row in range(len(source)):
        here, there = set(source.numbers[row].tolist()), set(target.numbers[row].tolist())
        shared = len(here & there) / (min(len(here), len(there)) or 1) if here and there else 1.0
        words, others = set(source.units[row].tolist()), set(target.units[row].tolist())
        copied = len(words & others) / (len(words | others) or 1)
        if shared < limits.min_shared_numbers:
            reasons.append("min_shared_numbers: numbers differ")
        elif copied > limits.max_copied:
            reasons.append("max_copied: target copies the source")
        else:
            reasons.append(None)
    return reasons


def _damaged(block: TextBlock) -> NDArray[np.int64]:
    """Count replacement and control characters, and UTF-8 that was read as Latin-1 or Windows-1252.

    Such mojibake is a letter that stands for a lead byte (U+00C2 to U+00F4), then one for a continuation byte.
    """
    bad = _table("\ufffd" + "".join(map(chr, [*range(9), *range(14, 32), *range(0x7F, 0xA0)])))[block.codes]
    lead, following = _mojibake()
    bad[:-1] |= lead[block.codes[:-1]] & following[block.codes[1:]]
    return block.sums(bad)


@cache
def _mojibake() -> tuple[Table, Table]:
    continuation = [bytes([value]).decode("cp1252", "ignore") or chr(value) for value in range(0x80, 0xC0)]
    # Those that often follow a letter in good text stay out: no-break space, quotes, dashes, ellipsis, degree sign.
    continuation = [c for c in continuation if c not in "\xa0‘’“”–—…«»°·"]
    return table_of("".join(map(chr, range(0xC2, 0xF5)))), table_of("".join(continuation))


@cache
def _table(characters: Sequence[str]) -> Table:
    return table_of("".join(characters))
