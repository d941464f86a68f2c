"""Results side by side: nothing left out, nothing mixed, nothing missing drawn as zero."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from langadapt.errors import UserError
from langadapt.evaluation.charts import draw_charts, overview_chart, radar_chart
from langadapt.evaluation.comparison import load_comparison
from langadapt.evaluation.results import Evaluation, Likelihood, Prompt, Score, Translation, write_results
from langadapt.evaluation.summary import summarize, table

CHARTS = [
    "combined_metrics_overview.png",
    "metrics_heatmap.png",
    "perplexity_comparison.png",
    "radar_chart.png",
    "translation_metrics_comparison.png",
]


def likelihood(bits: float, items: str = "text", tokenization: str = "qwen") -> Likelihood:
    return Likelihood(
        bits_per_byte=bits,
        token_perplexity=2 * bits,
        bytes=1000,
        tokens=400,
        documents=3,
        max_length=64,
        items_sha256=items,
        tokenization_sha256=tokenization,
    )


def translation(
    bleu: float, chrf: float, items: str = "pairs", signature: str = "tok:tsheg-syllables", **changes: Any
) -> Translation:
    values = {
        "n": 20, "empty": 0, "cut_off": 0, "items_sha256": items,
        "bleu": Score(score=bleu, signature=signature, floor=1.0),
        "chrf": Score(score=chrf, signature="nc:6", floor=17.0),
        "prompt": Prompt(format="few_shot", examples={4: 20}, first="中文: …"),
    }  # fmt: skip
    return Translation(**(values | changes))


def save(folder: Path, name: str, age: int, perplexity: Likelihood | None, **changes: Any) -> None:
    values = {
        "model_name": name, "model_path": f"saves/{name}", "perplexity": perplexity, "translation": {}, "missing": {},
        "data": {}, "settings": {"limit": None}, "dtype": "float32", "device": "cpu",
        "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "versions": {},
    }  # fmt: skip
    path, _ = write_results(folder, Evaluation(**(values | changes)), [])
    os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))


def figures(folder: Path, metric: str) -> dict[str, float | None]:
    (column,) = [m for m in load_comparison(folder, None).metrics if m.key == metric]
    return {model: figure and figure.value for model, figure in column.figures.items()}


def test_models_stand_in_the_order_of_the_stages_then_by_age(tmp_path: Path) -> None:
    for age, name in enumerate(["sft_epoch2", "newer", "older", "cpt", "base"]):
        save(tmp_path, name, age, likelihood(1.0))
    assert list(load_comparison(tmp_path, None).results) == ["base", "cpt", "sft_epoch2", "older", "newer"]
    assert list(load_comparison(tmp_path, ["older", "cpt"]).results)[:2] == ["older", "cpt"]
    with pytest.raises(UserError, match="nobody"):
        load_comparison(tmp_path, ["nobody"])


def test_a_missing_figure_is_missing_everywhere(tmp_path: Path) -> None:
    save(tmp_path, "base", 2, likelihood(1.5), translation={"zh-bo": translation(0.0, 9.0), "en-bo": None},
         missing={"translation.en-bo": "test.json holds no en-bo records"})  # fmt: skip
    save(tmp_path, "sft", 1, None, translation={"zh-bo": translation(30.0, 50.0), "en-bo": translation(20.0, 40.0)},
         missing={"perplexity": "test.json holds no text"})  # fmt: skip
    assert figures(tmp_path, "bits per byte") == {"base": 1.5, "sft": None}
    assert figures(tmp_path, "BLEU zh-bo") == {"base": 0.0, "sft": 30.0}
    assert figures(tmp_path, "chrF en-bo") == {"base": None, "sft": 40.0}

    comparison = load_comparison(tmp_path, None)
    rows = {line.split()[0]: line for line in table(comparison).splitlines()}
    assert rows["base"].count("not measured") == 2
    assert rows["sft"].count("not measured") == 2  # bits per byte and token perplexity
    summary = summarize(comparison)
    assert "test.json holds no en-bo records" in summary
    assert "test.json holds no text" in summary

    panels = overview_chart(comparison).axes
    assert [len(panel.patches) for panel in panels] == [1, 2, 2, 1, 1]
    assert sum("n/a" in text.get_text() for panel in panels for text in panel.texts) == 3
    radar = radar_chart(comparison)
    drawn = [[y == y for y in line.get_ydata()[:-1]] for line in radar.axes[0].lines]  # NaN where there is none
    assert drawn == [[True, True, True, False, False], [False, True, True, True, True]]


def test_results_of_other_data_or_metrics_keep_their_row_and_lose_the_figure(tmp_path: Path) -> None:
    save(tmp_path, "base", 4, likelihood(1.5), translation={"zh-bo": translation(3.0, 9.0)})
    save(tmp_path, "cpt", 3, likelihood(1.1), translation={"zh-bo": translation(9.0, 20.0)})
    save(tmp_path, "other", 2, likelihood(0.2, items="x"), translation={"zh-bo": translation(99.0, 88.0, items="y")})
    save(tmp_path, "old", 1, likelihood(1.3), translation={"zh-bo": translation(77.0, 25.0, signature="tok:13a")})
    assert figures(tmp_path, "bits per byte") == {"base": 1.5, "cpt": 1.1, "other": None, "old": 1.3}
    assert figures(tmp_path, "BLEU zh-bo") == {"base": 3.0, "cpt": 9.0, "other": None, "old": None}
    assert figures(tmp_path, "chrF zh-bo") == {"base": 9.0, "cpt": 20.0, "other": None, "old": 25.0}
    said = "\n".join(load_comparison(tmp_path, None).cautions)
    assert "other: bits per byte 0.200 (other data), BLEU zh-bo 99.00 (other data), chrF zh-bo 88.00" in said
    assert "old: BLEU zh-bo 77.00 (other metric)" in said


def test_of_two_test_sets_the_newer_is_compared(tmp_path: Path) -> None:
    save(tmp_path, "base", 2, likelihood(1.5, items="old"))
    save(tmp_path, "cpt", 1, likelihood(1.1, items="new"))
    assert figures(tmp_path, "bits per byte") == {"base": None, "cpt": 1.1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema_version": 1, "model_na', "broken JSON"),
        ('{"schema_version": 0}', "schema_version is 0"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 1, "model_name": "x"}', "`model_path`: field required"),
        ("", "is empty"),
    ],
)
def test_a_broken_results_file_is_said_by_name_and_left_out(tmp_path: Path, content: str, said: str) -> None:
    save(tmp_path, "base", 1, likelihood(1.5))
    (tmp_path / "bad_evaluation.json").write_text(content)
    comparison = load_comparison(tmp_path, None)
    assert list(comparison.results) == ["base"]
    (caution,) = comparison.cautions
    assert "bad_evaluation.json" in caution
    assert said in caution
    (tmp_path / "base_evaluation.json").unlink()
    with pytest.raises(UserError, match=r"bad_evaluation\.json"):
        load_comparison(tmp_path, None)


def test_a_figure_that_is_no_number_is_no_figure(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, likelihood(1.5))
    path = tmp_path / "base_evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": float("nan")}))
    with pytest.raises(UserError, match="seconds"):
        load_comparison(tmp_path, None)


def test_differences_between_runs_are_said(tmp_path: Path) -> None:
    chat = Prompt(format="chat", examples={0: 20}, first="<|im_start|>")
    save(tmp_path, "base", 2, likelihood(1.5), translation={"zh-bo": translation(3.0, 9.0)})
    save(tmp_path, "sft", 1, likelihood(1.5, tokenization="llama"), dtype="bfloat16", settings={"limit": 20},
         translation={"zh-bo": translation(9.0, 20.0, prompt=chat, empty=3, cut_off=5)})  # fmt: skip
    comparison = load_comparison(tmp_path, None)
    said = "\n".join(comparison.cautions)
    assert "prompts differ (base: 4-shot, sft: chat)" in said
    assert "number formats differ" in said
    assert "sft: limit=20" in said
    assert "windows" not in said
    assert not comparison.same_tokenization
    assert "token perplexity*" in table(comparison)
    assert ["sft", "zh-bo", "20", "chat", "3", "5"] in [line.split() for line in summarize(comparison).splitlines()]


@pytest.mark.parametrize("models", [1, 7])
def test_all_charts_are_drawn(tmp_path: Path, models: int) -> None:
    for number in range(models):
        save(tmp_path, f"model{number}", models - number, likelihood(18.0 / (number + 1)),
             translation={"zh-bo": translation(0.046 * number, 6.0 * number)})  # fmt: skip
    draw_charts(load_comparison(tmp_path, None), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == CHARTS


def test_charts_without_any_translation_or_any_likelihood(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, None)
    draw_charts(load_comparison(tmp_path, None), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == CHARTS
