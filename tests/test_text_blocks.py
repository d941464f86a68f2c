"""Texts in blocks give what the regular expressions give, text by text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from conftest import CHINESE, ENGLISH, TIBETAN
from hypothesis import given, settings
from hypothesis import strategies as st

from langadapt.text import latin_words, numbers, script_share, units
from langadapt.text.blocks import Ragged, TextBlock, blocks_of, letters_of, sequences, shingles, table_of

ODD = [
    "", "\n", "ก็ม้า กี่", "漢\u0301abc", "〇三 ½", "a\u0f71", "漢\u0f71ཀ", "\u0e31ก", "A", "AB", "00070 ༠༧", "x1y22",
    "Straße STRASSE", "བོད་Tibetདང༌", "\u2028a\u0085b",
]  # fmt: skip
ALPHABET = "aB é\u0301漢字〇一ก็\u0e34བོད་ༀ\u0f71།༡٣3½Ⅷ.\n"


def fold(text: str) -> str:
    """Lower case where it is one code point, as blocks fold it."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


@settings(deadline=None)  # the first call builds the tables
@given(st.lists(st.text(ALPHABET) | st.text(), min_size=1, max_size=6))
def test_units_numbers_and_words_equal_the_patterns(texts: list[str]) -> None:
    block = TextBlock(texts)
    names: dict[str, int] = {}
    for row, text in enumerate(texts):
        expected = units(fold(text))
        assert len(block.units[row]) == len(expected)
        for value, unit in zip(block.units[row].tolist(), expected, strict=True):
            assert names.setdefault(unit, value) == value
        assert block.numbers[row].tolist() == [int(number) % 2**64 for number in numbers(text)]
        assert len(block.latin_words[row]) == len(latin_words(text))
    assert len(set(names.values())) == len(names)


def test_counts() -> None:
    texts = [*TIBETAN, *CHINESE, *ENGLISH, *ODD]
    block = TextBlock(texts)
    assert block.characters.tolist() == [len(text) for text in texts]
    assert block.count(table_of("་།")).tolist() == [sum(c in "་།" for c in text) for text in texts]
    marks = [sum(unicodedata.category(c)[0] in "LM" for c in text) for text in texts]
    assert block.count(letters_of()).tolist() == marks
    share = block.count(letters_of("Tibetan", "Han")) / np.maximum(block.count(letters_of()), 1)
    assert share.tolist() == pytest.approx([script_share(text, ["Tibetan", "Han"]) for text in texts])


@settings(deadline=None)
@given(st.lists(st.text("abc ", max_size=30), min_size=1, max_size=5), st.integers(1, 6))
def test_shingles_are_runs_of_units(texts: list[str], size: int) -> None:
    found = shingles(TextBlock(texts).units, size)
    names: dict[tuple[str, ...], int] = {}
    for row, text in enumerate(texts):
        words = units(text)
        runs = [tuple(words[k : k + size]) for k in range(max(1, len(words) - size + 1))] if words else []
        assert [names.setdefault(run, value) for run, value in zip(runs, found[row].tolist(), strict=True)] == found[
            row
        ].tolist()
        low = (1 << 48) - 1
        assert found.distinct()[row].tolist() == sorted({names[run] & low for run in runs})
    assert len(set(names.values())) == len(names)


def test_sequences_tell_order_and_nothing_else() -> None:
    values = sequences(TextBlock(["a b c", "A, b; c!", "c b a", "", "..."]).units)
    assert values[0] == values[1] != values[2]
    assert values[3] == values[4] == 0


def test_blocks_hold_every_text_once() -> None:
    texts = ["x" * 100_000, "", "y" * 300_000, *["z"] * 70_000]
    parts = list(blocks_of(texts))
    assert [first for first, _ in parts] == np.cumsum([0, *(len(block) for _, block in parts)])[:-1].tolist()
    assert np.concatenate([block.characters for _, block in parts]).tolist() == [len(text) for text in texts]
    assert len(parts) > 2


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        Ragged(np.zeros(0, np.uint64), np.zeros(70_000, np.int64)).distinct()
