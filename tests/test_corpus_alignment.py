"""Pairing lines that have drifted: real sentences with lines lost, against the truth."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from langadapt.corpus.alignment import LineFeatures, align, features

SAMPLES = Path(__file__).resolve().parents[2] / "shared/data/upstream_layouts/CUTE-Datasets/parallel-corpus"


def lines_with_numbers(count: int) -> list[LineFeatures]:
    return [features(f"line {'x ' * (k % 7)} number {1000 + k}") for k in range(count)]


def test_equal_files_are_paired_by_number() -> None:
    lines = lines_with_numbers(50)
    alignment = align(lines, lines)
    assert alignment.by_number
    assert alignment.pairs == [(k, k) for k in range(50)]


def test_lost_lines_on_either_side_shift_nothing() -> None:
    lines = lines_with_numbers(100)
    first = [k for k in range(100) if k not in (10, 60)]
    second = [k for k in range(100) if k != 40]
    alignment = align([lines[k] for k in first], [lines[k] for k in second])
    assert not alignment.by_number
    assert alignment.pairs
    assert all(first[i] == second[j] for i, j in alignment.pairs)
    assert len(alignment.pairs) >= 95


def test_without_anchors_a_shorter_file_is_left_out_rather_than_guessed() -> None:
    plain = [features("no names no numbers") for _ in range(30)]
    alignment = align(plain, plain[1:])
    assert alignment.pairs == []
    assert alignment.ambiguous == 30


@pytest.mark.parametrize("code", ["zh", "en"])
def test_real_sentences_with_one_percent_lost(code: str) -> None:
    """300 real sentences, one line lost in Tibetan and two in the other language, at 20 random places each."""
    if not SAMPLES.is_dir():
        pytest.skip("needs the sample files in ../shared/data/upstream_layouts")
    texts = {c: (SAMPLES / f"{c}.txt").read_text(encoding="utf-8").rstrip("\n").split("\n") for c in ("bo", code)}
    lines = {c: [features(line) for line in text] for c, text in texts.items()}
    kept = wrong = possible = 0
    for seed in range(20):
        chance = random.Random(seed)
        first, second = (sorted(set(range(300)) - set(chance.sample(range(300), lost))) for lost in (1, 2))
        pairs = align([lines["bo"][k] for k in first], [lines[code][k] for k in second]).pairs
        wrong += sum(first[i] != second[j] for i, j in pairs)
        kept += len(pairs)
        possible += len(set(first) & set(second))
    assert wrong <= 0.01 * kept
    assert kept >= 0.85 * possible
