"""Stage 5 as a user runs it: charts, summary and JSON, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from safetensors.torch import save_file

from langadapt.pages import link_back, link_html, make_page
from langadapt.recipe import load_settings
from langadapt.recipe.weights import WeightsSettings
from langadapt.weights.charts import draw_charts, draw_correlation, draw_distributions, draw_layer_changes
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import STAGES, add_spectra, compare
from langadapt.weights.matrix_charts import draw_heatmap, draw_spectrum
from langadapt.weights.report import write_report
from langadapt.weights.summary import summarise

CHARTS = {
    "cpt_layer_changes.png",
    "sft_layer_changes.png",
    "cpt_sft_correlation.png",
    "cpt_layer_types.png",
    "sft_layer_types.png",
    "cpt_distributions.png",
    "sft_distributions.png",
    "type_layer_heatmap.png",
}
CPT, SFT = STAGES
REPOSITORY = Path(__file__).resolve().parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


def checkpoints(folder: Path, layers: int, dtype: torch.dtype = torch.float32) -> list[str]:
    """Three checkpoints of a Qwen2-like model; only CPT changes the final norm, and biases start from zero."""
    generator = torch.Generator().manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(64, 8, generator=generator), "model.norm.weight": torch.ones(8)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            weights[f"{prefix}.{name}.weight"] = torch.randn(8, 8, generator=generator)
        weights[f"{prefix}.self_attn.q_proj.bias"] = torch.zeros(8)
        weights[f"{prefix}.post_attention_layernorm.weight"] = torch.ones(8)
    paths = []
    for name, size in (("base", 0.0), ("cpt", 0.05), ("sft", 0.01)):
        for key, weight in weights.items():
            if not (name == "sft" and key == "model.norm.weight"):
                weights[key] = weight + size * torch.randn(weight.shape, generator=generator)
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
        save_file({k: w.to(dtype) for k, w in weights.items()}, folder / name / "model.safetensors")
        paths.append(str(folder / name))
    return paths


def results_of(paths: list[str]) -> dict:
    return compare(*open_checkpoints(*paths))


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_the_script_writes_everything(tmp_path: Path, run_script: Run) -> None:
    original, cpt, sft = checkpoints(tmp_path, layers=2)
    output = tmp_path / "analysis"
    done = run_script(
        "5_analyze_weights.py",
        "--original",
        original,
        "--cpt",
        cpt,
        f"--sft={sft}",
        "--output_dir",
        output,
        "top_k=3",
        f"evaluation_report={tmp_path}/none.html",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "no report of stage 4" in done.stdout
    assert {file.name for file in output.iterdir()} == CHARTS | {
        "analysis_summary.txt",
        "weight_analysis_results.json",
        "weight_analysis_tensors.csv",
        "report.html",
    }
    results = json.loads((output / "weight_analysis_results.json").read_text())
    assert results["tensors"] == results_of([original, cpt, sft])["tensors"]
    assert results["checkpoints"]["sft"] == {"path": sft, "dtype": "float32"}
    for name in CHARTS:
        assert str(output / name) in done.stdout
        pixels = imread(output / name)[..., :3]
        assert (pixels.reshape(-1, 3) != 1).any(axis=1).mean() > 0.01, f"{name} is all but empty"


def test_the_reports_of_both_stages_link_to_each_other(tmp_path: Path) -> None:
    results = results_of(checkpoints(tmp_path, layers=1))
    evaluation, folder = tmp_path / "evaluation results" / "report.html", tmp_path / "weights"
    draw_charts(results, folder)
    alone = write_report(results, folder, folder, evaluation).read_text(encoding="utf-8")
    assert f"no report at {evaluation}" in alone
    evaluation.parent.mkdir()
    nav = link_html(evaluation, folder / "no.html", "Weights", "python 5_analyze_weights.py")
    evaluation.write_text(make_page("Evaluation", f"<nav>{nav}</nav>"), encoding="utf-8")
    joined = write_report(results, folder, folder, evaluation).read_text(encoding="utf-8")
    assert 'href="../evaluation%20results/report.html"' in joined
    assert link_back(evaluation, folder / "report.html", "Weights")
    assert '<a href="../weights/report.html">Weights</a>' in evaluation.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!data:)", joined)
    assert joined.count("data:image/png;base64,") == len(CHARTS)
    for tensor in results["tensors"]:
        assert f"<td>{tensor['name']}</td>" in joined


def test_what_cannot_be_compared_ends_with_one_message(tmp_path: Path, run_script: Run) -> None:
    original, cpt, _ = checkpoints(tmp_path, layers=1)
    output = tmp_path / "analysis"
    done = run_script("5_analyze_weights.py", "--original", original, "--cpt", cpt, "--sft", "no/such", "output_dir=x")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sft=no/such: no such folder")
    assert "Traceback" not in done.stderr
    done = run_script("5_analyze_weights.py", "--output_dir", output, "top_q=3", "--top_k", "0")
    assert done.returncode == 2
    assert "Did you mean `top_k`?" in done.stderr
    assert "`top_k` is '0'" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize("layers", [1, 36])
def test_charts_of_few_and_many_tensors(tmp_path: Path, layers: int) -> None:
    results = results_of(checkpoints(tmp_path, layers))
    paths = draw_charts(results, tmp_path / "charts", top_k=20)
    assert {path.name for path in paths} == CHARTS
    for path in paths:
        height, width, _ = imread(path).shape
        assert 400 <= height <= 1500
        assert 1200 <= width <= 2500


def test_charts_of_the_same_checkpoint_say_that_nothing_changed(tmp_path: Path) -> None:
    base = checkpoints(tmp_path, layers=1)[0]
    results = results_of([base] * 3)
    assert len(draw_charts(results, tmp_path / "charts")) == len(CHARTS)
    assert "SFT changed no tensor" in texts(draw_layer_changes(results, SFT, top_k=5))
    assert "no tensor changed in both stages" in texts(draw_correlation(results))


def test_bars_are_the_largest_changes_in_order(tmp_path: Path) -> None:
    results = results_of(checkpoints(tmp_path, layers=3))
    relative, absolute = draw_layer_changes(results, SFT, top_k=4).axes
    changes = [tensor["cpt_sft"] for tensor in results["tensors"]]
    for ax, expected in (
        (relative, sorted((100 * change["relative"] for change in changes), reverse=True)[:4]),
        (absolute, sorted((change["l2"] for change in changes), reverse=True)[:4]),
    ):
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(expected)
        assert ax.get_xlim()[0] == 0


def test_what_a_logarithm_cannot_show_is_counted_and_not_drawn(tmp_path: Path) -> None:
    """SFT leaves the final norm alone; the bias is zero in the base, so CPT's change of it is relative to nothing."""
    results = results_of(checkpoints(tmp_path, layers=2))
    tensors = len(results["tensors"])
    cpt, sft = draw_distributions(results, CPT), draw_distributions(results, SFT)
    assert [len(figure.axes[1].collections[0].get_offsets()) for figure in (cpt, sft)] == [tensors - 2, tensors - 1]
    assert f"Without a relative change: 2 of {tensors} tensors, all zero before CPT" in texts(cpt)
    assert f"Not drawn: 1 of {tensors} tensors, which SFT left exactly as they were" in texts(sft)


def test_the_scatter_shows_both_stages(tmp_path: Path) -> None:
    results = results_of(checkpoints(tmp_path, layers=2))
    sizes, directions = draw_correlation(results).axes
    both = [t for t in results["tensors"] if t["base_cpt"]["relative"] and t["cpt_sft"]["relative"]]
    expected = [[100 * t["base_cpt"]["relative"], 100 * t["cpt_sft"]["relative"]] for t in both]
    assert numpy.asarray(sizes.collections[0].get_offsets()) == pytest.approx(numpy.array(expected))
    cosines = [t["delta_cosine"] for t in results["tensors"] if t["delta_cosine"] is not None]
    assert directions.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(cosines)


def test_the_summary_says_what_changed_and_what_that_does_not_mean(tmp_path: Path) -> None:
    results = results_of(checkpoints(tmp_path, layers=3, dtype=torch.bfloat16))
    summary = summarise(results)
    largest = max(results["layers"], key=lambda layer: layer["base_cpt"]["relative"])["layer"]
    assert f"the largest relative changes are in layer {largest}," in " ".join(summary.split())
    assert f"{results['total']['delta_cosine']:.4f}" in summary
    assert "What these figures do not show" in summary
    assert "stored in bfloat16" in summary
    assert "stored in float16" not in summary
    assert all(len(line) <= 120 for line in summary.splitlines())


def test_spectra_are_added_to_matrices(tmp_path: Path) -> None:
    opened = open_checkpoints(*checkpoints(tmp_path, layers=2))
    results = compare(*opened)
    add_spectra(results, opened[0])
    for tensor in results["tensors"]:
        assert ("spectrum" in tensor["base_cpt"]) == (len(tensor["shape"]) == 2)
    ranks = results["lora_rank"]["cpt_sft"]
    assert 1 <= ranks["90"] <= ranks["95"] <= ranks["99"] <= 8
    assert f"rank {ranks['90']} for 90 %" in " ".join(summarise(results).split())
    json.dumps(results)


def test_the_heatmap_pools_the_tensors_of_a_type_in_a_layer(tmp_path: Path) -> None:
    results = results_of(checkpoints(tmp_path, layers=3))
    for stage, ax in zip(STAGES, draw_heatmap(results).axes, strict=False):
        shades = ax.images[0].get_array().filled(numpy.nan)
        types = [label.get_text() for label in ax.get_yticklabels()]
        assert types == ["attention", "mlp", "norm", "bias"]
        for row, kind in enumerate(types):
            for layer in range(3):
                mine = [t for t in results["tensors"] if (t["type"], t["layer"]) == (kind, layer)]
                change = sum(t[stage.pair]["l2"] ** 2 for t in mine) ** 0.5
                if mine[0][stage.pair]["relative"] is None:
                    assert numpy.isnan(shades[row, layer])
                    continue
                before = sum((t[stage.pair]["l2"] / t[stage.pair]["relative"]) ** 2 for t in mine) ** 0.5
                assert shades[row, layer] == pytest.approx(100 * change / before)


def test_the_spectrum_chart_shows_both_stages(tmp_path: Path) -> None:
    opened = open_checkpoints(*checkpoints(tmp_path, layers=2))
    results = compare(*opened)
    assert draw_spectrum(results) is None
    add_spectra(results, opened[0])
    shares, ranks = draw_spectrum(results).axes
    assert [line.get_xydata()[-1].tolist() for line in shares.lines[:2]] == [[8, pytest.approx(100)]] * 2
    matrices = [tensor for tensor in results["tensors"] if len(tensor["shape"]) == 2]
    expected = [100 * t["base_cpt"]["spectrum"]["effective_rank"] / min(t["shape"]) for t in matrices]
    assert ranks.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(expected)


def test_the_summary_of_the_same_checkpoint(tmp_path: Path) -> None:
    base = checkpoints(tmp_path, layers=1)[0]
    summary = summarise(results_of([base] * 3))
    assert "CPT changed nothing" in summary
    assert "no two changes to compare" in summary


@pytest.mark.parametrize("recipe", ["tibetan_qwen2.5_3b", "quickstart"])
def test_shipped_settings_load(recipe: str) -> None:
    assert load_settings(WeightsSettings, REPOSITORY / "configs" / recipe / "weights.yaml").top_k == 20
