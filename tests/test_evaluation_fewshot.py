"""The few-shot study: every figure in the rows, only figures that compare in the chart."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.colors import to_hex

from langadapt.evaluation.comparison.fewshot import fewshot_chart, fewshot_rows
from langadapt.evaluation.results import Diagnostics, Evaluation, Interval, Prompt, Score, Translation
from langadapt.figures import color_of


def translation(shots: int | None, chrf: float, **changes: Any) -> Translation:
    def score(value: float, floor: float) -> Score:
        return Score(
            score=value, signature="nc:6", interval=Interval(low=value - 2, high=value + 3), floors={"shuffled": floor}
        )

    prompt = Prompt(format="chat", asked=0, examples={0: 50}, first=f"user: {chrf}")
    if shots is not None:
        prompt = Prompt(format="few_shot", asked=shots, examples={shots: 50}, first=f"{shots} examples")
    values = {
        "test_set": "held_out", "direction": "zh-bo", "prompt": prompt, "n": 50,
        "scores": {"chrf": score(chrf, 12.0), "bleu": score(chrf / 3, 0.5)},
        "diagnostics": Diagnostics(
            empty=0, cut_off=0, looping=0, copied=0, off_script=0, off_language=None, broken=0, length_ratio=1.0
        ),
        "slices": [], "contamination": None, "items_sha256": "items",
    }  # fmt: skip
    return Translation(**{**values, **changes})


def evaluation(name: str, translations: list[Translation]) -> Evaluation:
    return Evaluation(
        model_name=name, model_path=f"saves/{name}", likelihoods=[], translations=translations, choices=[], missing={},
        data={}, settings={}, plan={}, dtype="float32", device="cpu", finished="2026-01-01T00:00:00+00:00",
        seconds=1.0, versions={},
    )  # fmt: skip


@pytest.fixture
def study() -> dict[str, Evaluation]:
    return {
        "base": evaluation("base", [translation(shots, 18 + 2 * shots) for shots in (5, 0, 3, 1)]),
        "cpt": evaluation("cpt", [translation(shots, 25 + 3 * shots) for shots in (0, 1, 3, 5)]),
        "sft": evaluation("sft", [translation(None, 52.0), translation(5, 44.0)]),
    }


def test_the_rows_hold_every_figure_in_order(study: dict[str, Evaluation]) -> None:
    rows = fewshot_rows(study)
    assert [row.metric for row in rows] == ["chrF"] * 10 + ["BLEU"] * 10
    assert [(row.model, row.prompt) for row in rows[:10]] == [
        *(("base", f"{n}-shot") for n in (0, 1, 3, 5)), *(("cpt", f"{n}-shot") for n in (0, 1, 3, 5)),
        ("sft", "5-shot"), ("sft", "chat"),
    ]  # fmt: skip
    assert rows[3]._asdict() == {
        "test_set": "held_out", "direction": "zh-bo", "metric": "chrF", "model": "base", "prompt": "5-shot",
        "score": 28, "low": 26, "high": 31, "shuffled": 12.0, "n": 50, "fewest_examples": 5, "comparable": "yes",
    }  # fmt: skip


def test_without_several_numbers_of_examples_there_is_no_study(study: dict[str, Evaluation]) -> None:
    once = {"base": evaluation("base", [translation(4, 20.0), translation(None, 30.0)]), "sft": study["sft"]}
    assert fewshot_rows(once) == []
    assert fewshot_chart(once) is None


def test_the_chart_draws_what_the_rows_say(study: dict[str, Evaluation]) -> None:
    figure = fewshot_chart(study)
    assert figure is not None
    left, right = figure.axes
    assert left.get_title(loc="left") == "chrF zh → bo, n = 50"
    assert right.get_title(loc="left") == "BLEU zh → bo, n = 50"
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines["cpt"].get_xdata()) == [0, 1, 3, 5]
    assert list(lines["cpt"].get_ydata()) == [25, 28, 34, 40]
    assert list(lines["sft, chat"].get_ydata()) == [52.0, 52.0]
    assert to_hex(lines["sft, chat"].get_color()) == to_hex(lines["sft"].get_color()) == to_hex(color_of(2))
    assert left.get_ylim()[0] == 0
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", "cpt", "sft", "sft, chat"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"items_sha256": "others"}, "other data"),
        ({"scores": {"chrf": Score(score=90, signature="nc:4", interval=None, floors={})}}, "other metric"),
        ({"prompt": Prompt(format="few_shot", asked=3, examples={3: 50}, first="three others")}, "other examples"),
    ],
)
def test_what_does_not_compare_is_named_and_not_drawn(study: dict[str, Evaluation], change: dict, said: str) -> None:
    study["odd"] = evaluation("odd", [translation(3, 90.0, **change)])
    study["sft"] = evaluation("sft", [translation(3, 44.0)])
    assert next(row.comparable for row in fewshot_rows(study) if row.model == "odd") == said
    figure = fewshot_chart(study)
    assert figure is not None
    assert "odd" not in [line.get_label() for line in figure.axes[0].get_lines()]
    assert f"odd zh-bo 3-shot ({said})" in figure.get_supxlabel()


def test_a_prompt_that_lost_examples_is_hollow_and_said(study: dict[str, Evaluation]) -> None:
    cut = Prompt(format="few_shot", asked=5, examples={5: 40, 2: 10}, first="5 examples")
    study["sft"] = evaluation("sft", [translation(5, 44.0, prompt=cut)])
    assert [row.fewest_examples for row in fewshot_rows(study) if row.model == "sft"] == [2, 2]
    figure = fewshot_chart(study)
    assert figure is not None
    hollow = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_ydata()) for line in hollow] == [[44.0]]
    assert "Hollow:" in figure.get_supxlabel()


def test_every_test_set_and_direction_has_its_own_panels(study: dict[str, Evaluation]) -> None:
    more = [translation(n, 30.0 + n, test_set="flores", direction="en-bo", n=997) for n in (0, 5)]
    study["cpt"] = evaluation("cpt", [*study["cpt"].translations, *more])
    figure = fewshot_chart(study)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes[2:]] == [
        "chrF en → bo flores, n = 997", "BLEU en → bo flores, n = 997",
    ]  # fmt: skip
