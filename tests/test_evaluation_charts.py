"""The charts: every model in each, nothing missing drawn as zero, intervals and floors where they belong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.image
import pytest
from made_results import CHAT, choices, likelihood, save, save_stages, score, translation
from matplotlib.axes import Axes

from langadapt.evaluation.charts import draw_charts
from langadapt.evaluation.charts.bars import overview_chart, perplexity_chart, translation_chart
from langadapt.evaluation.charts.curves import curves_chart, read_training_log
from langadapt.evaluation.charts.forgetting import forgetting_chart
from langadapt.evaluation.charts.heatmap import heatmap
from langadapt.evaluation.charts.radar import radar_chart
from langadapt.evaluation.comparison.figures import Comparison
from langadapt.evaluation.comparison.side_by_side import load_comparison
from langadapt.figures import MISSING

CHARTS = {
    "combined_metrics_overview.png",
    "forgetting.png",
    "metrics_heatmap.png",
    "perplexity_comparison.png",
    "radar_chart.png",
    "training_curves.png",
    "translation_metrics_comparison.png",
}


def gapped(folder: Path) -> Comparison:
    """Two models with a missing figure each."""
    save(folder, "base", 2, likelihoods=[likelihood(1.5)], translations=[translation(9.0)])
    save(folder, "sft", 1, translations=[translation(50.0), translation(40.0, "en-bo")])
    return load_comparison(folder, None, resamples=100)


def bars(panel: Axes) -> list[float]:
    """Lengths of the bars, without the grey fields of missing figures."""
    return [patch.get_width() for patch in panel.patches if patch.get_alpha() is None]


def test_what_is_missing_is_grey_and_says_so(tmp_path: Path) -> None:
    panels = overview_chart(gapped(tmp_path)).axes
    drawn = [bars(panel) for panel in panels]
    assert [len(panel) for panel in drawn] == [1, 2, 2, 1, 1]
    assert [length for panel in drawn for length in panel] == pytest.approx([1.5, 5.4, 30.0, 9.0, 50.0, 24.0, 40.0])
    assert [sum("n/a: not measured" in t.get_text() for t in panel.texts) for panel in panels] == [1, 0, 0, 1, 1]
    radar = radar_chart(load_comparison(tmp_path, None))
    lines = [line for line in radar.axes[0].lines if line.get_label() in ("base", "sft")]
    drawn = [[not math.isnan(y) for y in line.get_ydata()[:-1]] for line in lines]
    assert drawn == [[True, True, True, False, False], [False, True, True, True, True]]
    (table, _) = heatmap(load_comparison(tmp_path, None)).axes
    assert sum("n/a" in text.get_text() for text in table.texts) == 3
    assert matplotlib.colors.same_color(table.get_facecolor(), MISSING)


def test_bars_have_intervals_and_floors(tmp_path: Path) -> None:
    save(tmp_path, "base", translations=[translation(20.0)])
    panel = translation_chart(load_comparison(tmp_path, None)).axes[1]
    (interval,) = [c for c in panel.collections if c.get_segments()]
    assert interval.get_segments()[0][:, 0].tolist() == pytest.approx([19.0, 21.0])
    floors = {line.get_linestyle(): line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2}
    assert floors == {"-": 6.0, "--": 0.4, ":": 11.0}


def test_views_of_a_translation_stand_side_by_side(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, translations=[translation(10.0)])
    save(tmp_path, "sft", 0, translations=[translation(30.0), translation(50.0, prompt=CHAT)])
    panels = translation_chart(load_comparison(tmp_path, None)).axes
    assert [bars(panel)[1] for panel in panels] == [18.0, 30.0, 30.0, 50.0]
    assert ["own prompts" in panel.get_title(loc="left") for panel in panels] == [False, False, True, True]
    assert any("chat" in text.get_text() for text in panels[3].texts)


def test_a_direction_asked_in_chat_alone_says_so_and_names_its_models(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, translations=[translation(10.0)])
    save(tmp_path, "sft", 0, translations=[translation(30.0), translation(50.0, "en-bo", CHAT)])
    figure = translation_chart(load_comparison(tmp_path, None))
    figure.draw_without_rendering()
    blank = figure.axes[4]
    assert "all were asked in chat" in blank.get_title(loc="left")
    assert bars(blank) == []
    names = [text for text in blank.get_yticklabels() if text.get_visible() and blank.yaxis.get_visible()]
    assert [name.get_text() for name in names] == ["base", "sft"]
    assert blank.axison


def test_token_perplexities_of_different_tokenizers_are_hollow(tmp_path: Path) -> None:
    save(tmp_path, "a", likelihoods=[likelihood(1.5)])
    save(tmp_path, "b", likelihoods=[likelihood(1.2, tokenization_sha256="llama")])
    right = perplexity_chart(load_comparison(tmp_path, None)).axes[1]
    assert "not comparable" in right.get_title(loc="left")
    assert {line.get_fillstyle() for line in right.lines} == {"none"}


def test_forgetting_points_to_the_left(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "cpt"], ["zh-bo", "bo-zh"])
    zh, reverse = forgetting_chart(load_comparison(tmp_path, None)).axes
    assert bars(zh)[0] < 0 < bars(reverse)[0]
    save(tmp_path, "blank")
    comparison = load_comparison(tmp_path, None)
    assert any("n/a" in text.get_text() for text in forgetting_chart(comparison).axes[0].texts)


def test_training_curves_are_the_logs_and_a_model_without_one_is_named(tmp_path: Path) -> None:
    run = tmp_path / "saves" / "cpt"
    (run / "checkpoint-2").mkdir(parents=True)
    records = [{"step": n, "loss": 3.0 - n, "learning_rate": 1e-4, "tokens_per_second": 900.0, "tokens_seen": 100 * n}
               for n in (1, 2)]  # fmt: skip
    lines = [*map(json.dumps, records), json.dumps({"step": 2, "eval_loss": 2.5}), '{"step": 3, "lo']
    (run / "training_log.jsonl").write_text("\n".join(lines))
    save(tmp_path, "base", 1, likelihoods=[likelihood(1.5)])
    save(tmp_path, "cpt", 0, likelihoods=[likelihood(1.0)], model_path=str(run / "checkpoint-2"))
    loss, rate, _ = curves_chart(load_comparison(tmp_path, None)).axes
    curve, held_out = [line for line in loss.lines if len(line.get_xdata())]
    assert curve.get_xydata().tolist() == [[100, 2.0], [200, 1.0]]
    assert held_out.get_xydata().tolist() == [[200, 2.5]]
    assert rate.lines[0].get_ydata().tolist() == [1e-4, 1e-4]
    assert "base: no log" in [line.get_label() for line in loss.lines]
    (run / "training_log.jsonl").write_text("broken\n")
    assert read_training_log(str(run)) == []


@pytest.mark.slow
@pytest.mark.parametrize("models", [1, 8])
def test_all_charts_are_drawn(tmp_path: Path, models: int) -> None:
    names = ["base", "cpt", "sft", "sft_" + 60 * "x", "a", "b", "c", "d"][:models]
    save_stages(tmp_path, names, ["zh-bo", "bo-zh", "en-bo"])
    paths = draw_charts(load_comparison(tmp_path, None, resamples=100), tmp_path)
    assert {path.name for path in paths} == CHARTS == {path.name for path in tmp_path.glob("*.png")}
    for path in paths:
        assert matplotlib.image.imread(path).std() > 0.01, "an empty picture"


def test_charts_of_little_or_nothing(tmp_path: Path) -> None:
    save(tmp_path, "nothing")
    (tmp_path / "fewshot.png").write_bytes(b"of an earlier comparison")
    draw_charts(load_comparison(tmp_path, None), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == CHARTS
    zero = {"chrf": score(0.0, interval=None, floors={})}
    save(tmp_path, "zero", translations=[translation(0.0, scores=zero)], choices=[choices(0.0, normalised=None)])
    draw_charts(load_comparison(tmp_path, None), tmp_path)
