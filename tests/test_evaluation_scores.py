"""BLEU and chrF against the sacrebleu command line, and the floors beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import CHINESE, TIBETAN

from langadapt.evaluation.results import Score
from langadapt.evaluation.scores import bleu, chrf
from langadapt.text import bleu_units

Metric = Callable[[Sequence[str], Sequence[str]], Score]
HYPOTHESES = [TIBETAN[0], "ང་ཚོས་བོད་ཡིག་སློབ་ཀྱི་ཡོད།", "", "སྤྱི་ལོ་༢༠༢༤ ལོའི་ཟླ་བ་གསུམ་པ།"]


def syllable_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    return bleu(hypotheses, references, "syllables")


def sacrebleu(folder: Path, hypotheses: list[str], references: list[str], *options: str) -> dict:
    """What the command line says of two files with one sentence a line."""
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-f", "json", "-w", "12", *options]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def test_syllable_bleu_is_sacrebleu_on_segmented_text(tmp_path: Path) -> None:
    score = syllable_bleu(HYPOTHESES, TIBETAN)
    cut = [[" ".join(bleu_units(text)) for text in texts] for texts in (HYPOTHESES, TIBETAN)]
    expected = sacrebleu(tmp_path, *cut, "-m", "bleu", "--tokenize", "none", "--force")
    assert 0 < score.score < 100
    assert score.score == pytest.approx(expected["score"])
    assert score.signature == expected["signature"].replace("tok:none", "tok:tsheg-syllables")


def test_syllables_are_what_is_counted() -> None:
    """One wrong syllable of five leaves four; as words between spaces nothing would match."""
    score = syllable_bleu(["བོད་སྐད་ནི་ཡག་པོ"], ["བོད་སྐད་ནི་ཡག་མོ"])
    assert score.score == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_other_languages_take_sacrebleus_own_tokenizer(tmp_path: Path) -> None:
    hypotheses = ["藏语文很重要。", "我们学习藏文。", "今天天气好。", "2025年3月。"]
    score = bleu(hypotheses, CHINESE, "zh")
    expected = sacrebleu(tmp_path, hypotheses, CHINESE, "-m", "bleu", "--tokenize", "zh")
    assert (score.score, score.signature) == (pytest.approx(expected["score"]), expected["signature"])


def test_chrf_is_sacrebleus(tmp_path: Path) -> None:
    score = chrf(HYPOTHESES, TIBETAN)
    expected = sacrebleu(tmp_path, HYPOTHESES, TIBETAN, "-m", "chrf")
    assert (score.score, score.signature) == (pytest.approx(expected["score"]), expected["signature"])


@pytest.mark.parametrize(
    ("metric", "texts"),
    [(chrf, ["ཀཀཀཀཀཀཀ", "ཁཁཁཁཁཁཁ", "གགགགགགག"]), (syllable_bleu, ["ཀ་ཀ་ཀ་ཀ་ཀ", "ཁ་ཁ་ཁ་ཁ་ཁ", "ག་ག་ག་ག་ག"])],
)
def test_the_floor_has_no_hypothesis_beside_its_own_reference(metric: Metric, texts: list[str]) -> None:
    """Texts without a letter in common score 100 in place and exactly 0 in any other."""
    score = metric(texts, texts)
    assert score.score == pytest.approx(100)
    assert score.floor == pytest.approx(0, abs=1e-6)


def test_the_floor_of_two_is_the_score_of_the_pairs_exchanged() -> None:
    hypotheses, references = HYPOTHESES[:2], TIBETAN[:2]
    assert chrf(hypotheses, references).floor == pytest.approx(chrf(hypotheses, references[::-1]).score)


def test_one_item_has_no_floor() -> None:
    assert chrf(HYPOTHESES[:1], TIBETAN[:1]).floor is None
