"""Bars that models have to clear: what is judged, what could not be, and where it is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from made_results import CHAT, choices, likelihood, save, score, translation
from pydantic import ValidationError

from langadapt.evaluation.comparison.side_by_side import load_comparison, put_side_by_side
from langadapt.evaluation.report.page import write_report
from langadapt.evaluation.tables.card import evaluation_section
from langadapt.evaluation.tables.files import write_tables
from langadapt.evaluation.tables.summary import summarize
from langadapt.recipe.evaluation import EvaluationSettings

BARS: list[dict[str, Any]] = [
    {"models": ["base", "sft"], "measure": "perplexity", "language": "bo", "below": 15},
    {"models": ["sft"], "measure": "chrf", "direction": "zh-bo", "above": 55},
    {"models": ["sft"], "measure": "comet", "direction": "zh-bo", "above": 0.6},
    {"models": ["sft"], "measure": "labse", "direction": "zh-bo", "above": 0.6},
    {"models": ["sft"], "measure": "accuracy", "language": "mn", "test_set": "mm_eval", "above": 0.5},
    {"models": ["sft"], "measure": "bits_per_byte", "language": "zh", "test_set": "lost", "below": 1},
    {"models": ["lora"], "measure": "bleu", "direction": "zh-bo", "above": 1},
]
SETS = {
    "test_sets": {"lost": {"layout": "lines", "files": {"zh": "zh.txt"}, "texts": ["zh"]}},
    "choice_sets": {"mm_eval": {"layout": "mm_eval", "file": "x.json", "language": "mn"}},
}


def settings(bars: list[dict[str, Any]], **changes: Any) -> EvaluationSettings:
    return EvaluationSettings.model_validate({"bars": bars, "directions": ["zh-bo"], **SETS, **changes})


def save_results(folder: Path) -> None:
    asked = settings(BARS).model_dump(mode="json")
    save(folder, "base", 1, likelihoods=[likelihood(1.5, token_perplexity=15.0)], settings=asked)
    scored = translation(60.0, prompt=CHAT)
    scored.scores["comet"] = score(0.6)
    save(
        folder,
        "sft",
        likelihoods=[likelihood(1.0, token_perplexity=14.9)],
        translations=[translation(50.0), scored],
        choices=[choices(0.4), choices(0.6, num_fewshot=5)],
        missing={"likelihood.lost.zh": "zh.txt is empty"},
        settings=asked,
    )


def test_figures_are_judged_and_what_is_not_there_says_why(tmp_path: Path) -> None:
    save_results(tmp_path)
    comparison = load_comparison(tmp_path, None, 200, settings(BARS).bars)
    found = [(v.bar.measure, v.model, v.outcome, v.value, v.why) for v in comparison.verdicts]
    assert found == [
        ("perplexity", "base", "fail", 15.0, "20 documents, by token of its own tokenizer"),
        ("perplexity", "sft", "pass", 14.9, "20 documents, by token of its own tokenizer"),
        ("chrf", "sft", "pass", 60.0, "chat, n = 20"),
        ("comet", "sft", "fail", 0.6, "chat, n = 20"),
        ("labse", "sft", "not measured", None, "labse_model was not set"),
        ("accuracy", "sft", "pass", 0.6, "5-shot, n = 50"),
        ("bits_per_byte", "sft", "not measured", None, "zh.txt is empty"),
        ("bleu", "lora", "not measured", None, "no model lora was evaluated"),
    ]


def test_the_verdicts_stand_in_summary_tables_json_report_and_card(tmp_path: Path) -> None:
    save_results(tmp_path)
    comparison = load_comparison(tmp_path, None, 200, settings(BARS).bars)
    *_, markdown, written = write_tables(comparison, tmp_path)
    (tmp_path / "translation_metrics_comparison.png").write_bytes(b"")
    report = write_report(comparison, tmp_path, tmp_path / "none.html").read_text(encoding="utf-8")
    for text in (summarize(comparison), markdown.read_text(encoding="utf-8").replace("\\", ""), report):
        assert "labse_model was not set" in text
        assert "no model lora was evaluated" in text
        assert "own tokenizer" in text
    verdicts = json.loads(written.read_text(encoding="utf-8"))
    assert [verdict["outcome"] for verdict in verdicts] == [v.outcome for v in comparison.verdicts]
    assert verdicts[0] == {
        "measure": "perplexity", "language": "bo", "test_set": "held_out", "below": 15.0, "model": "base",
        "outcome": "fail", "value": 15.0, "measured": "20 documents, by token of its own tokenizer",
    }  # fmt: skip
    with open(tmp_path / "evaluation_tables.csv", encoding="utf-8") as handle:
        assert "bars" not in {row["metric"] for row in csv.DictReader(handle)}
    card = evaluation_section(comparison.results["sft"])
    assert "| fail | chat, n = 20 |" in card
    assert "base" not in card.split("### Likelihood")[0]

    write_tables(load_comparison(tmp_path, None, 200), tmp_path)
    assert not written.exists(), "verdicts of bars that are no longer asked for"


def test_one_model_alone_is_judged_by_the_bars_it_was_evaluated_for(tmp_path: Path) -> None:
    save_results(tmp_path)
    sft = load_comparison(tmp_path, None, 200).results["sft"]
    verdicts = put_side_by_side({"sft": sft}).verdicts
    assert {verdict.model for verdict in verdicts} == {"sft"}
    assert len(verdicts) == 6


@pytest.mark.parametrize(
    ("bar", "message"),
    [
        ({"measure": "bleu", "language": "bo", "above": 1}, "bleu is of a direction: give `direction`"),
        ({"measure": "perplexity", "direction": "zh-bo", "below": 1}, "perplexity is of a language"),
        ({"measure": "chrf", "direction": "zh-bo"}, "either `above` or `below`"),
        ({"measure": "chrf", "direction": "zh-bo", "above": 1, "below": 2}, "not both"),
        ({"measure": "chrf", "direction": "zh-bo", "above": float("nan")}, "finite number"),
        ({"measure": "ter", "direction": "zh-bo", "above": 1}, "'chrf'"),
        ({"measure": "chrf", "direction": "bo-zh", "above": 1}, r"bars\.0: held_out has no bo-zh .*\(zh-bo\)"),
        ({"measure": "perplexity", "language": "zh", "below": 1}, r"bars\.0: held_out has no zh"),
        ({"measure": "chrf", "direction": "zh-bo", "test_set": "flores", "above": 1}, "no test set 'flores'"),
        ({"measure": "chrf", "direction": "zh-bo", "test_set": "lost", "above": 1}, r"lost has no zh-bo .*\(none\)"),
        ({"measure": "accuracy", "language": "mn", "above": 1}, r"no test set 'held_out' .*\(mm_eval\)"),
        ({"measure": "accuracy", "language": "bo", "test_set": "mm_eval", "above": 1}, "mm_eval has no bo"),
    ],
)
def test_bars_that_could_never_be_judged_are_refused(bar: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings([{"models": ["sft"], **bar}])


def test_without_own_files_there_is_nothing_to_judge_on_them() -> None:
    for bar, change in ((BARS[0], {"likelihood_file": None}), (BARS[1], {"translation_file": None})):
        with pytest.raises(ValidationError, match=r"held_out has no .* to measure \(none\)"):
            settings([bar], **change)
