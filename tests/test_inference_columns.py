"""Texts side by side: no stack is cut, no line is too wide, nothing is lost."""

from __future__ import annotations

import random

import pytest
import regex
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.inference.columns import cells, side_by_side, wrap

STACKS = "བསྒྲུབས་ཧཱུྃ་ཨོཾ་མ་ཎི་པདྨེ"
TEXTS = [" ".join(TIBETAN), "".join(CHINESE), " ".join(ENGLISH), STACKS * 4, "a\n\nb " + TIBETAN[0] + CHINESE[0]]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 24, 200])
def test_lines_hold_whole_clusters_and_all_of_them(text: str, width: int) -> None:
    lines = wrap(text, width)
    whole = regex.findall(r"\X", regex.sub(r"\s+", "", text))
    assert [cluster for line in lines for cluster in regex.findall(r"\X", line) if not cluster.isspace()] == whole
    assert all(cells(line) <= width or len(regex.findall(r"\X", line)) == 1 for line in lines)


def test_any_text_at_any_width_keeps_its_clusters() -> None:
    draw = random.Random(0)
    alphabet = "བསྒྲུ་།༔ ིོཾab,.中文，。（）\n👩‍👩‍👧é"
    for _ in range(500):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(40)))
        lines = wrap(text, draw.randrange(1, 12))
        kept = [c for line in lines for c in regex.findall(r"\X", line) if not c.isspace()]
        expected = [c for line in text.split("\n") for c in regex.findall(r"\X", line) if not c.isspace()]
        assert kept == expected, repr(text)


def test_lines_end_where_a_reader_expects() -> None:
    assert wrap("བོད་ཀྱི་སྐད་ཡིག་ནི་", 10) == ["བོད་ཀྱི་སྐད་", "ཡིག་ནི་"]
    assert wrap("བོད་ང་།ང་", 5) == ["བོད་", "ང་།ང་"]  # a shad stays with its tsheg
    assert wrap("weather is good", 9) == ["weather", "is good"]
    assert wrap("今天天气。", 8) == ["今天天", "气。"]  # no line begins with a full stop


def test_columns_have_one_edge_and_narrow_terminals_none() -> None:
    texts = [("base", TIBETAN[0]), ("cpt", CHINESE[1] * 3), ("sft", "")]
    lines = side_by_side(texts, 100)
    edges = {tuple(cells(line[: match.start()]) for match in regex.finditer("│", line)) for line in lines}
    assert {edge for edge in edges if len(edge) == 2} == {(32, 66)}
    assert max(map(cells, lines)) <= 100
    below = side_by_side(texts, 60)
    assert [line for line in below if line.startswith("[")] == ["[base]", "[cpt]", "[sft]"]
    assert "│" not in "".join(below)
