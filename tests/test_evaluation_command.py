"""Stage 4 as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation import evaluate as module
from langadapt.evaluation import results
from langadapt.evaluation.charts.drawing import CHARTS
from langadapt.evaluation.evaluate import evaluate_model
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.evaluation.results import Evaluation, read_documents, read_predictions
from langadapt.files import sha256_of, write_json, write_json_array
from langadapt.inference import vllm_engine
from langadapt.recipe.evaluation import EvaluationSettings


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder, "tibetan_cpt_test.json", [{"id": str(n), "text": text} for n, text in enumerate(TIBETAN)])
    write(folder, "tibetan_sft_test_filtered_4k.json", [*pairs("zh", CHINESE[:2], TIBETAN), chat("test")])
    training = [*pairs("zh", ["一", "二", CHINESE[0]], ["ཀ", "ཁ", "ག"]), *pairs("en", ENGLISH, TIBETAN), chat("train")]
    write(folder, "tibetan_sft_filtered_4k.json", training)
    return folder


def write(folder: Path, name: str, records: list[dict[str, str]]) -> None:
    write_json_array(folder / name, records)


def pairs(language: str, sources: list[str], targets: list[str]) -> list[dict[str, str]]:
    return [
        {"id": f"{language}{n}", "task": "translation", "instruction": "翻译：", "input": source, "output": target,
         "source_lang": language, "target_lang": "bo", "source_text": source}
        for n, (source, target) in enumerate(zip(sources, targets, strict=False))
    ]  # fmt: skip


def chat(name: str) -> dict[str, str]:
    return {"id": name, "task": "instruction", "instruction": "ཀ", "input": "", "output": "ཁ"}


def settings(model: Path, dataset: Path, **changes: object) -> EvaluationSettings:
    return EvaluationSettings(
        model_path=str(model), model_name="base", dataset_dir=str(dataset), device="cpu", **changes
    )


def evaluate(model: Path, dataset: Path, out: Path, way_out: str = "", **changes: object) -> Evaluation:
    return evaluate_model(settings(model, dataset, output_dir=str(out), **changes), way_out, Ranks())[0]


def test_one_model_from_the_command_line_to_the_charts(
    run_script: Callable, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_script(
        "4_evaluate.py", "--model_path", tiny_model, "--model_name", "base", "--compare",
        f"dataset_dir={dataset}", f"output_dir={out}", "num_fewshot=2", "device=cpu", "training_files=[]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert "no en-bo records" in done.stdout

    result = json.loads((out / "base_evaluation.json").read_text(encoding="utf-8"))
    assert result["schema_version"] == 2
    [likelihood] = result["likelihoods"]
    assert (likelihood["test_set"], likelihood["language"], likelihood["documents"]) == ("held_out", "bo", 4)
    assert likelihood["bytes"] == sum(len(text.encode()) for text in TIBETAN)
    assert likelihood["interval"]["low"] <= likelihood["bits_per_byte"] <= likelihood["interval"]["high"]
    [few_shot] = result["translations"]
    assert (few_shot["direction"], few_shot["prompt"]["format"]) == ("zh-bo", "few_shot")
    assert few_shot["n"] == 2
    assert few_shot["scores"].keys() == {"bleu", "chrf", "chrf++"}
    assert few_shot["scores"]["chrf"]["floors"].keys() == {"shuffled", "copied_source"}
    assert "tsheg-syllables" in few_shot["scores"]["bleu"]["signature"]
    assert few_shot["prompt"]["first"] in {  # the training record that repeats a test source is no example
        f"中文: {a}\n藏文: {x}\n\n中文: {b}\n藏文: {y}\n\n中文: {CHINESE[0]}\n藏文:"
        for a, x, b, y in (("一", "ཀ", "二", "ཁ"), ("二", "ཁ", "一", "ཀ"))
    }
    assert any("en-bo" in key for key in result["missing"])
    assert {Path(path).name: value for path, value in result["data"].items()} == {
        path.name: sha256_of(path) for path in dataset.iterdir()
    }

    predictions = read_predictions(out, "base")
    assert [(p.id, p.prompt_name) for p in predictions] == [("zh0", "2-shot"), ("zh1", "2-shot")]
    assert predictions[0].prompt == few_shot["prompt"]["first"]
    documents = read_documents(out, "base")
    bits = sum(document.bits for document in documents)
    assert bits / likelihood["bytes"] == pytest.approx(likelihood["bits_per_byte"], rel=1e-9)
    written = {path.name for path in out.iterdir()}
    assert {f"evaluation_tables.{kind}" for kind in ("csv", "tex", "md")} | {"report.html"} <= written
    assert set(CHARTS) - {"fewshot.png", "forgetting.png"} <= written  # which take two numbers of examples, two models
    assert not [name for name in written if "partial" in name]
    assert "bits per byte" in (out / "evaluation_summary.txt").read_text(encoding="utf-8")


def test_two_processes_measure_what_one_does(
    run_script: Callable, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "zh.txt").write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
    keys = [f"dataset_dir={dataset}", "device=cpu", "num_fewshot=[0,1]", "directions=[zh-bo]"]
    keys += [
        f"test_sets={{zh: {{layout: lines, files: {{zh: {tmp_path}/zh.txt}}, texts: [zh]}}}}",
        "training_files=[tibetan_sft_filtered_4k.json]",
    ]
    command = ["4_evaluate.py", "--model_path", tiny_model, "--model_name", "base", "--compare", *keys]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"]
    found = []
    for name, start in (("one", []), ("two", torchrun)):
        done = run_script(*start, *command, f"output_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("report.html") == 1
        found.append(json.loads((tmp_path / name / "base_evaluation.json").read_text(encoding="utf-8")))
        assert read_predictions(tmp_path / name, "base") == read_predictions(tmp_path / "one", "base")
    one, two = found
    for kind in ("likelihoods", "translations", "data"):
        assert one[kind] == two[kind]
    assert [each["test_set"] for each in one["likelihoods"]] == ["held_out", "zh"]
    assert [each["contamination"]["contaminated"] for each in one["translations"]] == [2, 2]
    assert (one["plan"]["processes"], two["plan"]["processes"]) == (1, 2)


def test_figures_go_into_the_models_card(run_script: Callable, tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "README.md").write_text("# A model\n", encoding="utf-8")
    keys = [f"dataset_dir={dataset}", f"output_dir={tmp_path / 'out'}", "device=cpu", "limit=1", "training_files=[]"]
    done = run_script("4_evaluate.py", "--model_path", model, "--model_name", "base", "--update_card", *keys)
    assert done.returncode == 0, done.stderr
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A model\n")
    assert "chrF" in card


def test_instructions_in_a_file_are_answered(run_script: Callable, tiny_model: Path, tmp_path: Path) -> None:
    questions = [{"id": "b", "instruction": CHINESE[0]}, {"id": "a", "instruction": ENGLISH[0], "input": "x"}]
    write_json_array(tmp_path / "questions.json", questions)
    done = run_script(
        "4_evaluate.py", "--model_path", tiny_model, "--predict", tmp_path / "questions.json",
        "--output", tmp_path / "predictions.json", "device=cpu", "max_new_tokens=5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [(answer["id"], answer.keys()) for answer in answers] == [(name, {"id", "output"}) for name in ("b", "a")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to do"),
        (["--model_path", "x"], "`model_path` and `model_name` go together"),
        (["--model_path", "x", "--model_name", "../x"], "names files"),
        (["--compare", "output_dir=/nowhere"], "no results to compare"),
        (["--predict", "x.json"], "--output"),
        (["--predict", "x.json", "--output", "y.json"], "give --model_path"),
        (["--compare", "directions=[zh-bo, en-bo, zh-bo]"], "`directions` names one twice"),
        (
            ["--compare", "test_sets={x: {layout: lines, files: {zh: x}, texts: [zh, zh]}}"],
            "`texts` names one twice",
        ),
        (["--compare", "limitt=3"], "Did you mean `limit`?"),
    ],
)
def test_a_command_that_cannot_be_run_says_why(run_script: Callable, arguments: list[str], said: str) -> None:
    done = run_script("4_evaluate.py", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_of_stage_1_names_the_command(run_script: Callable, tiny_model: Path, tmp_path: Path) -> None:
    done = run_script(
        "4_evaluate.py",
        "--model_path",
        tiny_model,
        "--model_name",
        "base",
        f"dataset_dir={tmp_path}",
        f"output_dir={tmp_path}",
    )
    assert done.returncode == 2
    assert "tibetan_cpt_test.json" in done.stderr
    assert "python 1_preprocess.py --config configs/tibetan_qwen2.5_3b/preprocess.yaml" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bad_output_dir_is_found_before_anything_is_measured(
    run_script: Callable, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    keys = [f"dataset_dir={dataset}", f"output_dir={tmp_path}/file", "translation_file=missing.json"]
    done = run_script("4_evaluate.py", "--model_path", tiny_model, "--model_name", "base", *keys)
    assert done.returncode == 2
    assert f"{tmp_path}/file: " in done.stderr
    assert "missing.json" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "vllm"}, "vllm is not installed"),
        ({"prompt_format": "chat"}, "no chat template"),
        ({"translation_file": "long.json"}, "the test record zh0 takes .* 512"),
        ({"prompt_language": "xx"}, "prompt_language=xx"),
        ({"choice_sets": {"x": {"num_fewshot": 1, "examples": "missing.json"}}}, "missing.json: no such file"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    tiny_model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, said: str
) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "measure_likelihood", None)  # not to be called
    write(dataset, "long.json", pairs("zh", [CHINESE[0] * 200], TIBETAN))
    question = {"question": "?", "choices": [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}]}
    write(tmp_path, "questions.json", [question | {"answerKey": "A"}])
    asked = {"layout": "mm_eval", "language": "mn", "file": str(tmp_path / "questions.json")}
    changes = changes | {"choice_sets": {name: asked | more for name, more in changes.get("choice_sets", {}).items()}}
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(UserError, match=said):
        evaluate(model, dataset, tmp_path / "out", **changes)


def test_a_kill_leaves_no_figures_beside_items_of_another_run(
    tiny_model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tiny_model, dataset, tmp_path)
    assert (tmp_path / "base_evaluation.json").exists()

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_json", killed)  # by which the figures come, after all items
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, dataset, tmp_path, limit=1)
    assert len(read_documents(tmp_path, "base")) == 1
    assert not (tmp_path / "base_evaluation.json").exists()


@pytest.mark.parametrize("stale", ["tibetan_cpt_test.json", "tibetan_sft_filtered_4k.json"])
def test_a_file_of_an_earlier_run_of_stage_1_is_refused(
    tiny_model: Path, dataset: Path, tmp_path: Path, stale: str
) -> None:
    files = {path.name: {"sha256": sha256_of(path)} for path in dataset.iterdir()}
    write_json(dataset / "data_report.json", {"files": files})
    evaluate(tiny_model, dataset, tmp_path, limit=1)
    write(dataset, stale, [])
    with pytest.raises(UserError, match=f"{stale}: not what the last run of stage 1 wrote"):
        evaluate(tiny_model, dataset, tmp_path)


def test_empty_test_sets_are_missing_with_a_reason(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    write(dataset, "tibetan_cpt_test.json", [])
    write(dataset, "tibetan_sft_test_filtered_4k.json", [chat("only")])
    evaluation = evaluate(tiny_model, dataset, tmp_path)
    assert evaluation.likelihoods == []
    assert evaluation.translations == []
    assert read_predictions(tmp_path, "base") == []
    assert len(evaluation.missing) == 2


def test_a_direction_without_examples_is_asked_without_and_says_so(
    tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    write(dataset, "tibetan_sft_filtered_4k.json", [chat("train")])
    evaluation = evaluate(tiny_model, dataset, tmp_path, prompt_format="few_shot")
    [made] = evaluation.translations
    assert made.prompt.examples == {0: 2}
    assert "0-shot" in evaluation.missing["translation.held_out.zh-bo.4-shot"]


def test_limit_draws_the_same_records_every_time(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    runs = [evaluate(tiny_model, dataset, tmp_path / name, limit=1) for name in ("one", "two")]
    whole = evaluate(tiny_model, dataset, tmp_path / "whole")
    assert runs[0].likelihoods == runs[1].likelihoods
    assert runs[0].likelihoods[0].documents == runs[0].translations[0].n == 1
    assert runs[0].likelihoods[0].items_sha256 != whole.likelihoods[0].items_sha256
    assert "shuffled" not in runs[0].translations[0].scores["chrf"].floors


def test_a_record_that_stage_1_did_not_write_is_named(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    write(dataset, "tibetan_sft_test_filtered_4k.json", [{"id": "odd", "instruction": "ཀ", "output": "ཁ"}])
    with pytest.raises(UserError, match=r"record 1 \(odd\).*`task`"):
        evaluate(tiny_model, dataset, tmp_path)
