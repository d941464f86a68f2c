"""Test items are found in training files of every kind, however they are written there, and only they."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.scores.contamination import find_items
from langadapt.files import write_json_array
from langadapt.text import units

SYLLABLES = ["ཀ", "ཁ", "ག", "ང", "ཅ", "ཆ", "ཇ", "ཉ", "ཏ", "ཐ", "ད", "ན", "པ", "ཕ", "བ", "མ"]


def text(seed: int, length: int) -> str:
    """Random syllables of two letters: 256 of them, so that eight in a row do not meet by chance."""
    generator = random.Random(seed)
    return "".join(generator.choice(SYLLABLES) + generator.choice(SYLLABLES) + "་" for _ in range(length))


def shares(texts: list[str], files: list[Path], ngram: int = 8) -> list[float]:
    return list(find_items(texts, files, ngram).shares.values())


def test_shares_are_those_of_a_plain_search(tmp_path: Path) -> None:
    """Half of one text, all of another and a part of a third stand in the corpus, against sets of n-grams."""
    items = [text(n, 40) for n in range(5)]
    corpus = [text(9, 30) + items[0][: len(items[0]) // 2], items[1] + text(8, 5), items[2][60:120], text(7, 500)]
    (tmp_path / "corpus.txt").write_text("\n".join(corpus), encoding="utf-8")

    def grams(line: str) -> set[tuple[str, ...]]:
        syllables = units(line)
        return {tuple(syllables[n : n + 8]) for n in range(len(syllables) - 7)}

    held = set().union(*map(grams, corpus))
    expected = [len(grams(item) & held) / len(grams(item)) for item in items]
    assert 0 < expected[0] < 1 == expected[1]
    assert expected[3:] == [0, 0]
    assert shares(items, [tmp_path / "corpus.txt"]) == pytest.approx(expected)


def test_every_kind_of_file_is_read_and_shares_add_up(tmp_path: Path) -> None:
    items = [text(n, 20) for n in range(4)]
    write_json_array(tmp_path / "cpt.json", [{"id": "1", "text": text(9, 50)}, {"id": "2", "text": items[0]}])
    turns = {"conversations": [{"role": "user", "content": "Translate: " + items[1]}, {"content": None, "n": 1}]}
    (tmp_path / "sft.jsonl").write_text(json.dumps(turns) + "\n", encoding="utf-8")
    (tmp_path / "zh.txt").write_text(items[2] + "\n", encoding="utf-8")
    assert shares(items, [tmp_path / "cpt.json", tmp_path / "sft.jsonl", tmp_path / "zh.txt"]) == [1, 1, 1, 0]
    assert shares(items, []) == [0, 0, 0, 0]


def test_spelling_of_one_text_makes_no_difference(tmp_path: Path) -> None:
    """Non-breaking tshegs, other punctuation, line breaks, upper and lower case."""
    items = [text(1, 20), "The Quick brown fox jumps over the lazy dog, again and again."]
    written = [items[0].replace("་", "༌") + "།", "the quick brown fox - jumps over\nTHE LAZY DOG again and again"]
    write_json_array(tmp_path / "train.json", [{"text": line} for line in written])
    assert shares(items, [tmp_path / "train.json"]) == [1, 1]
    assert find_items(items, [tmp_path / "train.json"], 8).holds(items[0].replace("་", "༌") + "\n")


def test_short_items_are_found_only_as_a_whole(tmp_path: Path) -> None:
    write_json_array(tmp_path / "sft.json", [{"output": "བོད་ཡིག"}, {"output": "ང་ཚོས་བོད་སྐད་བཤད་ཀྱི་ཡོད་པ་རེད་ཟེར།"}])
    assert shares(["བོད་ཡིག་", "བོད་སྐད", "བོད", "...", ""], [tmp_path / "sft.json"]) == [1, 0, 0, 0, 0]


def test_one_changed_syllable_does_not_hide_a_sentence(tmp_path: Path) -> None:
    item = text(1, 30)
    (tmp_path / "train.txt").write_text(item.replace(units(item)[15] + "་", "ཨོ་"), encoding="utf-8")
    found = find_items([item, text(2, 30)], [tmp_path / "train.txt"], 8)
    assert found.shares[item] == pytest.approx(15 / 23)
    assert found.holds(item)
    assert not found.holds(text(2, 30))


def test_items_are_found_whatever_the_block_they_fall_into(tmp_path: Path) -> None:
    """A corpus of several blocks, with an item at the start, in the middle and at the end."""
    items = [text(n, 20) for n in range(3)]
    filling = [text(100 + n, 2000) for n in range(100)]
    corpus = [items[0], *filling[:50], items[1], *filling[50:], items[2]]
    (tmp_path / "corpus.txt").write_text("\n".join(corpus), encoding="utf-8")
    assert shares([*items, text(9, 20)], [tmp_path / "corpus.txt"]) == [1, 1, 1, 0]


def test_hashes_that_are_alike_in_part_are_no_find(tmp_path: Path) -> None:
    """20,000 n-grams against 20,000 others: two dozen of them share the bits that are looked at first."""
    items = [text(n, 200) for n in range(100)]
    (tmp_path / "corpus.txt").write_text("\n".join(text(1000 + n, 200) for n in range(100)), encoding="utf-8")
    assert set(shares(items, [tmp_path / "corpus.txt"])) == {0}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"data\.parquet is neither \.json, \.jsonl nor \.txt"):
        find_items(TIBETAN, [tmp_path / "data.parquet"], 8)
    with pytest.raises(UserError, match=r"gone\.json: no such file\. Run stage 1\."):
        find_items(ENGLISH, [tmp_path / "gone.json"], 8, "Run stage 1.")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        find_items(ENGLISH, [tmp_path / "bad.jsonl"], 8)
