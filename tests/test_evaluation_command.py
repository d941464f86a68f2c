"""Stage 4 as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.evaluate import evaluate_model
from langadapt.files import sha256_of, write_json, write_json_array
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


def test_one_model_from_the_command_line_to_the_charts(
    run_script: Callable, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_script(
        "4_evaluate.py", "--model_path", tiny_model, "--model_name", "base", "--compare",
        f"dataset_dir={dataset}", f"output_dir={out}", "num_fewshot=2", "device=cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert "no en-bo records" in done.stdout

    result = json.loads((out / "base_evaluation.json").read_text(encoding="utf-8"))
    assert result["schema_version"] == 1
    assert result["perplexity"]["documents"] == 4
    assert result["perplexity"]["bytes"] == sum(len(text.encode()) for text in TIBETAN)
    zh = result["translation"]["zh-bo"]
    assert zh["n"] == 2
    assert zh["bleu"].keys() == zh["chrf"].keys() == {"score", "signature", "floor"}
    assert "tsheg-syllables" in zh["bleu"]["signature"]
    assert zh["prompt"]["first"] in {  # the training record that repeats a test source is no example
        f"中文: {a}\n藏文: {x}\n\n中文: {b}\n藏文: {y}\n\n中文: {CHINESE[0]}\n藏文:"
        for a, x, b, y in (("一", "ཀ", "二", "ཁ"), ("二", "ཁ", "一", "ཀ"))
    }
    assert result["translation"]["en-bo"] is None
    assert "translation.en-bo" in result["missing"]
    assert {Path(path).name: value for path, value in result["data"].items()} == {
        path.name: sha256_of(path) for path in dataset.iterdir()
    }

    lines = (out / "base_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [p["id"] for p in predictions] == ["zh0", "zh1"]
    assert predictions[0].keys() == {
        "id", "direction", "source", "reference", "hypothesis", "prompt_format", "stop_reason", "tokens",
    }  # fmt: skip
    assert len(list(out.glob("*.png"))) == 5
    assert "bits per byte" in (out / "evaluation_summary.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to do"),
        (["--model_path", "x"], "`model_path` and `model_name` go together"),
        (["--model_path", "x", "--model_name", "../x"], "names files"),
        (["--compare", "output_dir=/nowhere"], "no results to compare"),
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


@pytest.mark.parametrize("stale", ["tibetan_cpt_test.json", "tibetan_sft_filtered_4k.json"])
def test_a_file_of_an_earlier_run_of_stage_1_is_refused(tiny_model: Path, dataset: Path, stale: str) -> None:
    files = {path.name: {"sha256": sha256_of(path)} for path in dataset.iterdir()}
    write_json(dataset / "data_report.json", {"files": files})
    evaluate_model(settings(tiny_model, dataset, limit=1), "")
    write(dataset, stale, [])
    with pytest.raises(UserError, match=f"{stale}: not what the last run of stage 1 wrote"):
        evaluate_model(settings(tiny_model, dataset), "")


def test_empty_test_sets_are_null_with_a_reason(tiny_model: Path, dataset: Path) -> None:
    write(dataset, "tibetan_cpt_test.json", [])
    write(dataset, "tibetan_sft_test_filtered_4k.json", [chat("only")])
    evaluation, predictions = evaluate_model(settings(tiny_model, dataset), "")
    assert evaluation.perplexity is None
    assert evaluation.translation == {}
    assert predictions == []
    assert evaluation.missing.keys() == {"perplexity", "translation"}


def test_a_direction_without_examples_is_asked_without_and_says_so(tiny_model: Path, dataset: Path) -> None:
    write(dataset, "tibetan_sft_filtered_4k.json", [chat("train")])
    evaluation, _ = evaluate_model(settings(tiny_model, dataset), "")
    assert evaluation.translation["zh-bo"].prompt.examples == {0: 2}
    assert "0 of 4 examples" in evaluation.missing["translation.zh-bo.prompt"]


def test_limit_draws_the_same_records_every_time(tiny_model: Path, dataset: Path) -> None:
    runs = [evaluate_model(settings(tiny_model, dataset, limit=1), "")[0] for _ in range(2)]
    whole = evaluate_model(settings(tiny_model, dataset), "")[0]
    assert runs[0].perplexity == runs[1].perplexity
    assert runs[0].perplexity.documents == runs[0].translation["zh-bo"].n == 1
    assert runs[0].perplexity.items_sha256 != whole.perplexity.items_sha256
    assert runs[0].translation["zh-bo"].chrf.floor is None


def test_a_record_that_stage_1_did_not_write_is_named(tiny_model: Path, dataset: Path) -> None:
    write(dataset, "tibetan_sft_test_filtered_4k.json", [{"id": "odd", "instruction": "ཀ", "output": "ཁ"}])
    with pytest.raises(UserError, match=r"record 1 \(odd\).*`task`"):
        evaluate_model(settings(tiny_model, dataset), "")
