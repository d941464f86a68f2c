"""Results side by side: nothing left out, nothing mixed, and what differs by more than chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_results import CHAT, SHARED, choices, likelihood, save, save_stages, score, translation

from langadapt.errors import UserError
from langadapt.evaluation.comparison.figures import Metric
from langadapt.evaluation.comparison.side_by_side import load_comparison, put_side_by_side
from langadapt.evaluation.results import Prompt, read_documents, read_predictions, read_results, write_items
from langadapt.evaluation.scores.significance import paired_bits, paired_p_values
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.summary import findings, summarize, table


def metric(folder: Path, key: str) -> Metric:
    (found,) = [m for m in put_side_by_side(read_results(folder)[0]).metrics if m.key == key]
    return found


def figures(folder: Path, key: str) -> dict[str, float | None]:
    return {model: figure and figure.value for model, figure in metric(folder, key).figures.items()}


def test_models_stand_in_the_order_of_the_stages_then_by_age(tmp_path: Path) -> None:
    for age, name in enumerate(["sft_epoch2", "newer", "older", "cpt", "base"]):
        save(tmp_path, name, age, likelihoods=[likelihood(1.0)])
    assert list(load_comparison(tmp_path, None).results) == ["base", "cpt", "sft_epoch2", "older", "newer"]
    assert list(load_comparison(tmp_path, ["older", "cpt"]).results)[:2] == ["older", "cpt"]
    with pytest.raises(UserError, match="nobody"):
        load_comparison(tmp_path, ["nobody"])


def test_a_missing_figure_is_missing_everywhere(tmp_path: Path) -> None:
    save(tmp_path, "base", 2, likelihoods=[likelihood(1.5)], translations=[translation(9.0)],
         missing={"held_out en-bo": "test.json holds no en-bo records"})  # fmt: skip
    save(tmp_path, "sft", 1, translations=[translation(50.0), translation(40.0, "en-bo")])
    assert figures(tmp_path, "bits per byte bo") == {"base": 1.5, "sft": None}
    assert figures(tmp_path, "chrF zh-bo, 4-shot") == {"base": 9.0, "sft": 50.0}
    assert figures(tmp_path, "chrF en-bo, 4-shot") == {"base": None, "sft": 40.0}
    assert metric(tmp_path, "chrF en-bo, 4-shot").reasons == {"base": "not measured"}
    comparison = load_comparison(tmp_path, None)
    rows = [line.split() for line in table(comparison).splitlines()]
    assert ["held_out", "bo", "sft", "not", "measured", *["n/a"] * 4] in rows
    assert ["held_out", "en-bo", "base", *["not", "measured"] * 3] in rows
    assert "test.json holds no en-bo records" in summarize(comparison)


def test_results_of_other_data_or_metrics_keep_their_row_and_lose_the_figure(tmp_path: Path) -> None:
    intl = {"bleu": score(77.0, "bleu", signature="tok:13a"), "chrf": score(25.0)}
    save(tmp_path, "base", 4, likelihoods=[likelihood(1.5)], translations=[translation(10.0)])
    save(tmp_path, "cpt", 3, likelihoods=[likelihood(1.1)], translations=[translation(20.0)])
    save(tmp_path, "other", 2, likelihoods=[likelihood(0.2, items_sha256="x")],
         translations=[translation(90.0, items_sha256="y")])  # fmt: skip
    save(tmp_path, "old", 1, likelihoods=[likelihood(1.3)], translations=[translation(0.0, scores=intl)])
    assert figures(tmp_path, "bits per byte bo") == {"base": 1.5, "cpt": 1.1, "other": None, "old": 1.3}
    assert figures(tmp_path, "BLEU zh-bo, 4-shot") == {"base": 6.0, "cpt": 12.0, "other": None, "old": None}
    assert figures(tmp_path, "chrF zh-bo, 4-shot") == {"base": 10.0, "cpt": 20.0, "other": None, "old": 25.0}
    said = "\n".join(load_comparison(tmp_path, None).cautions)
    assert "other: bits per byte bo 0.200 (other data), BLEU zh-bo, 4-shot 54.00 (other data), chrF zh-bo" in said
    assert "old: BLEU zh-bo, 4-shot 77.00 (other metric): not measured as for most models" in said


def test_of_two_test_sets_the_newer_is_compared_and_named_sets_stand_apart(tmp_path: Path) -> None:
    save(tmp_path, "base", 2, likelihoods=[likelihood(1.5, items_sha256="old"), likelihood(2.0, test_set="flores")])
    save(tmp_path, "cpt", 1, likelihoods=[likelihood(1.1, items_sha256="new"), likelihood(1.8, test_set="flores")])
    assert figures(tmp_path, "bits per byte bo") == {"base": None, "cpt": 1.1}
    assert figures(tmp_path, "bits per byte bo flores") == {"base": 2.0, "cpt": 1.8}


def test_stage_and_prompt_are_not_confounded(tmp_path: Path) -> None:
    one = Prompt(format="few_shot", asked=1, examples={1: 20}, first="one")
    save(tmp_path, "base", 2, translations=[translation(3.0, prompt=one), translation(10.0)])
    save(tmp_path, "sft", 1, translations=[translation(30.0), translation(50.0, prompt=CHAT)])
    assert figures(tmp_path, "chrF zh-bo, 4-shot") == {"base": 10.0, "sft": 30.0}
    assert figures(tmp_path, "chrF zh-bo, own prompts") == {"base": 10.0, "sft": 50.0}
    own = metric(tmp_path, "chrF zh-bo, own prompts")
    assert [figure and figure.prompt for figure in own.figures.values()] == ["4-shot", "chat"]
    assert [m.view for m in load_comparison(tmp_path, None).main] == ["shared"] * 2
    assert [m.view for m in load_comparison(tmp_path, None).shown] == ["shared"] * 2 + ["own"] * 2
    rows = [line.split() for line in table(load_comparison(tmp_path, None)).splitlines()]
    assert [row[2:4] for row in rows if row[:2] == ["held_out", "zh-bo"] and row[2] in ("base", "sft")] == [
        ["base", "4-shot"], ["sft", "4-shot"], ["base", "4-shot"], ["sft", "chat"],
    ]  # fmt: skip


def test_a_prompt_with_other_examples_is_another_prompt(tmp_path: Path) -> None:
    for age, name in enumerate(["b", "a"]):
        save(tmp_path, name, age, translations=[translation(20.0)])
    save(tmp_path, "c", 5, translations=[translation(30.0, prompt=SHARED.model_copy(update={"first": "else"}))])
    shared = metric(tmp_path, "chrF zh-bo, 4-shot")
    assert shared.figures["c"] is None
    assert shared.reasons == {"c": "other prompt"}


def test_without_chat_there_is_one_view_and_with_chat_alone_there_is_no_shared_one(tmp_path: Path) -> None:
    save(tmp_path / "a", "base", translations=[translation(10.0)])
    assert {m.view for m in load_comparison(tmp_path / "a", None).metrics} == {"shared"}
    save(tmp_path / "b", "sft", translations=[translation(10.0, prompt=CHAT)])
    assert {m.view for m in load_comparison(tmp_path / "b", None).metrics} == {"own"}


def test_choices_stand_beside_chance(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, choices=[choices(0.3), choices(0.5, normalised=None, method="generation", chance=None)])
    save(tmp_path, "cpt", 0, choices=[choices(0.4, items_sha256="other")])
    assert figures(tmp_path, "accuracy mn mm_eval, 0-shot, likelihood") == {"base": None, "cpt": 0.4}
    assert figures(tmp_path, "accuracy mn mm_eval, 0-shot, generation") == {"base": 0.5, "cpt": None}
    assert "normalised accuracy mn mm_eval, 0-shot, likelihood" in [
        m.key for m in load_comparison(tmp_path, None).shown
    ]
    assert metric(tmp_path, "accuracy mn mm_eval, 0-shot, likelihood").figures["cpt"].floors == {"chance": 0.25}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema_version": 2, "model_na', "broken JSON"),
        ('{"schema_version": 1, "model_name": "x"}', "schema_version is 1"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 2, "model_name": "x"}', "`model_path`: field required"),
        ("", "is empty"),
    ],
)
def test_a_broken_results_file_is_said_by_name_and_left_out(tmp_path: Path, content: str, said: str) -> None:
    save(tmp_path, "base", 1, likelihoods=[likelihood(1.5)])
    (tmp_path / "bad_evaluation.json").write_text(content)
    comparison = load_comparison(tmp_path, None)
    assert list(comparison.results) == ["base"]
    assert "bad_evaluation.json" in comparison.cautions[0]
    assert said in comparison.cautions[0]
    (tmp_path / "base_evaluation.json").unlink()
    with pytest.raises(UserError, match=r"bad_evaluation\.json"):
        load_comparison(tmp_path, None)


def test_a_figure_that_is_no_number_is_no_figure(tmp_path: Path) -> None:
    save(tmp_path, "base", 1, likelihoods=[likelihood(1.5)])
    path = tmp_path / "base_evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": float("nan")}))
    with pytest.raises(UserError, match="seconds"):
        load_comparison(tmp_path, None)


def test_differences_between_runs_are_said(tmp_path: Path) -> None:
    few = SHARED.model_copy(update={"examples": {2: 5, 4: 15}})
    settings = {"language": "bo", "num_beams": 1, "engine": "transformers"}
    save(tmp_path, "base", 2, likelihoods=[likelihood(1.5)], translations=[translation(9.0)], settings=settings)
    save(tmp_path, "sft", 1, likelihoods=[likelihood(1.5, tokenization_sha256="llama")], dtype="bfloat16",
         settings=settings | {"limit": 20, "num_beams": 4}, translations=[translation(20.0, prompt=few)])  # fmt: skip
    comparison = load_comparison(tmp_path, None)
    said = "\n".join(comparison.cautions)
    assert "number formats differ (base: float32, sft: bfloat16)" in said
    assert "ways of generating differ (base: engine=transformers num_beams=1, sft: engine=transformers num" in said
    assert "examples that fitted into the prompt differ (base: all, sft: 2-4-shot for 4-shot)" in said
    assert "sft: limit=20" in said
    assert "base, sft: no training_files were named" in said
    assert "windows" not in said
    assert not comparison.same_tokenization(comparison.metrics[0])
    assert table(comparison).count("9.75*") == 2


def test_p_values_are_those_of_the_items_in_the_files(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "cpt", "sft"])
    comparison = load_comparison(tmp_path, None, resamples=200)
    found = {m.key: m for m in comparison.metrics}
    made = {
        name: [p for p in read_predictions(tmp_path, name) if p.prompt_name == "4-shot"] for name in ("base", "sft")
    }
    made = {name: sorted(all_, key=lambda p: p.id) for name, all_ in made.items()}
    texts = {name: [p.hypothesis for p in all_] for name, all_ in made.items()}
    expected = paired_p_values(texts, [p.reference for p in made["base"]], "bo", "chrf", 200)
    assert found["chrF zh-bo, 4-shot"].p_value("sft", "base") == expected["base", "sft"]
    texts = [[d for d in read_documents(tmp_path, name) if d.language == "zh"] for name in ("base", "sft")]
    difference, interval, p = paired_bits(*texts, 200)
    (change,) = [c for c in comparison.forgetting if (c.model, c.metric.name) == ("sft", "bits per byte")]
    assert (change.difference, change.interval, change.p) == (difference, interval, p)
    assert difference > 0
    assert {c.metric.of for c in comparison.forgetting} == {"zh"}, "Tibetan is trained, so it cannot be forgotten"


def test_what_differs_is_said_in_sentences_and_what_does_not_as_well(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "sft"], ["zh-bo", "bo-zh"])
    for kind in ("evaluation.json", "predictions.jsonl", "documents.jsonl"):
        (tmp_path / f"twin_{kind}").write_bytes((tmp_path / f"sft_{kind}").read_bytes())
    comparison = load_comparison(tmp_path, None, resamples=200)
    said = "\n".join(findings(comparison))
    assert (
        "chrF zh-bo, 4-shot: sft and twin cannot be told apart (p = 1.000); twin is better than base (p = 0.005)"
        in said
    )
    assert "not above the floor: base" in said
    assert "bits per byte zh: sft lost 0.0" in said
    assert "chrF bo-zh, 4-shot: sft gained 25.00" in said
    assert comparison.metrics[0].leader() is None, "two equal models: neither leads"


@pytest.mark.parametrize("kind", ["predictions", "documents"])
def test_items_that_are_missing_or_of_another_run_cost_the_p_values_and_are_said(tmp_path: Path, kind: str) -> None:
    save_stages(tmp_path, ["base", "cpt", "sft"])
    path = tmp_path / f"cpt_{kind}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[1:]), encoding="utf-8")
    key = "chrF zh-bo, 4-shot" if kind == "predictions" else "bits per byte bo"
    for said in (f"cpt_{kind}.jsonl: not the items of cpt's {key}", f"cpt_{kind}.jsonl: no such file"):
        comparison = load_comparison(tmp_path, None, resamples=100)
        (found,) = [m for m in comparison.metrics if m.key == key]
        assert found.figures["cpt"], "the figure itself is whole"
        assert found.p_value("cpt", "sft") is None
        assert found.p_value("base", "sft") is not None
        assert found.leader() is None
        assert said in "\n".join(comparison.cautions)
        path.unlink(missing_ok=True)


def test_documents_of_an_earlier_run_are_not_taken_for_those_of_the_figures(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "sft"])
    made = [d.model_copy(update={"bits": 1.5 * d.bits}) for d in read_documents(tmp_path, "sft")]
    write_items(tmp_path, "sft", "documents", made)
    comparison = load_comparison(tmp_path, None, resamples=100)
    (change,) = [c for c in comparison.forgetting if c.metric.name == "bits per byte"]
    assert change.difference == pytest.approx(0.05), "the difference of the two figures"
    assert change.p is None
    assert "sft_documents.jsonl: not the items of sft's bits per byte zh" in "\n".join(comparison.cautions)
    assert "bits per byte zh: sft lost 0.050 against base, not tested" in findings(comparison)


def test_details_of_other_items_stand_beside_no_others(tmp_path: Path) -> None:
    for age, name in enumerate(["base", "cpt"]):
        save(tmp_path, name, age, translations=[translation(10.0), translation(30.0, prompt=CHAT)])
    save(tmp_path, "sft", 5, translations=[translation(30.0, items_sha256="other")])
    comparison = load_comparison(tmp_path, None, resamples=100)
    for details in detail_tables(comparison):
        assert "sft" not in {cell.text for row in details.rows for cell in row}, details.name
    assert {"4-shot", "chat"} <= {row[2].text for row in detail_tables(comparison)[0].rows}


def test_a_translation_need_not_be_nearer_to_the_source_than_its_copy(tmp_path: Path) -> None:
    floors = {"shuffled": 0.3, "copied_source": 1.0}
    for name, value in (("base", 0.2), ("sft", 0.7)):
        meaning = score(value, interval=None, floors=floors, signature="labse")
        save(tmp_path, name, translations=[translation(0.0, scores={"labse": meaning})])
    (said,) = findings(load_comparison(tmp_path, None))
    assert said.endswith("not above the floor: base")


def test_bars_stand_for_their_figures(tmp_path: Path) -> None:
    plain = {"chrf": score(20.0, interval=None, floors={"shuffled": 10.0})}
    save(tmp_path, "base", 1, translations=[translation(0.0, scores=plain)])
    save(tmp_path, "cpt", 0, translations=[translation(0.0, scores={"chrf": score(40.0, interval=None, floors={})})])
    lines = {line.split()[0]: line for line in summarize(load_comparison(tmp_path, None)).splitlines() if "##" in line}
    assert (lines["cpt"].count("#"), lines["base"].count("#")) == (39, 19), "the end of the longest, and half of it"
    assert lines["base"].index("|") - lines["base"].index("#") == 10


def test_few_items_are_said_to_be_few(tmp_path: Path) -> None:
    save(tmp_path, "base", likelihoods=[likelihood(1.0)], translations=[translation(20.0, n=6)])
    said = [caution for caution in load_comparison(tmp_path, None).cautions if "fewer than 30" in caution]
    assert said == [
        "fewer than 30 items (bo of held_out: 20, zh-bo of held_out: 6): intervals and p-values are too sure of "
        "themselves"
    ]
    save(tmp_path, "base", likelihoods=[likelihood(1.0, documents=30)], translations=[translation(20.0, n=30)])
    assert "fewer than 30" not in "\n".join(load_comparison(tmp_path, None).cautions)
