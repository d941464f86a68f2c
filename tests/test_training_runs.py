"""Stages 2 and 3 run for real on the CPU: what they write, how they resume, how they refuse."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TIBETAN
from runs import TEXTS, launch_here, losses, recipe, shell, train
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from langadapt.errors import UserError
from langadapt.files import read_json_file
from langadapt.models import encode_text, is_chat_model, load_model, load_tokenizer
from langadapt.recipe.training import load_training_settings
from langadapt.training.best_fit import pack
from langadapt.training.checkpoints import set_aside_damaged
from langadapt.training.preflight import check
from langadapt.training.progress import draw_loss_curve
from langadapt.training.stopping import EXIT_REQUEUE


@pytest.fixture(scope="session")
def pretrained(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe("pt", tiny_model, data, tmp_path_factory.mktemp("runs") / "cpt"))


def token_mean_loss(model_folder: Path, data: Path, blocks: int, length: int) -> float:
    """The mean loss a token over the first ``blocks`` blocks, each document of a block by itself."""
    model, tokenizer = load_model(str(model_folder)), load_tokenizer(str(model_folder))
    end = tokenizer.eos_token_id
    documents = [[end, *encode_text(tokenizer, record["text"]), end] for record in read_json_file(data / "cpt.json")]
    pieces = [ids[start : start + length] for ids in documents for start in range(0, len(ids), length)]
    order, bounds = pack(np.array([len(ids) for ids in pieces]), length, seed=42)
    total, count = 0.0, 0
    for ids in (pieces[k] for k in order[: bounds[blocks]] if len(pieces[k]) > 1):
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return total / count


def test_whoever_may_enter_the_folder_may_read_its_files(pretrained: Path) -> None:
    files = [
        path for folder in (pretrained, pretrained / "checkpoint-8") for path in folder.iterdir() if path.is_file()
    ]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {pretrained.stat().st_mode & 0o666}


def test_the_result_is_a_plain_model_folder(pretrained: Path, tiny_model: Path) -> None:
    base, model = AutoModelForCausalLM.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(pretrained)
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    assert tokenizer.decode(tokenizer(TIBETAN[0])["input_ids"]) == TIBETAN[0]
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.use_cache
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)
    assert losses(pretrained)[-1][1] < losses(pretrained)[0][1]
    assert not is_chat_model(tokenizer, GenerationConfig.from_pretrained(pretrained))
    inside = {path.name for path in pretrained.iterdir()}
    assert {"training_settings.yaml", "training_log.jsonl", "loss_curve.png", "README.md"} <= inside
    assert not [name for name in inside if name.endswith((".bin", ".tmp")) or name.startswith("tokens-")]
    load_training_settings(pretrained / "training_settings.yaml")


def test_resume_after_a_killed_save_gives_the_same_losses_to_the_last_bit(
    pretrained: Path, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """The state a kill leaves: checkpoint-8 without the mark of a whole one, later steps logged, no finished model."""
    output = tmp_path / "cpt"
    shutil.copytree(pretrained, output)
    for name in ("config.json", "model.safetensors", "checkpoint-8/training_run.json"):
        (output / name).unlink()
    (output / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    assert "checkpoint-8 is damaged" in set_aside_damaged(output)[0]
    train(recipe("pt", tiny_model, data, output))
    assert losses(output) == losses(pretrained)
    weights = "model.safetensors"
    assert (output / weights).read_bytes() == (pretrained / weights).read_bytes()


def test_a_run_that_lacks_only_the_finished_model_is_finished_without_a_step(
    pretrained: Path, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cpt"
    shutil.copytree(pretrained, output)
    (output / "config.json").unlink()
    train(recipe("pt", tiny_model, data, output))
    assert losses(output) == losses(pretrained)
    assert (output / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


def test_a_finished_run_says_so_and_does_nothing(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (pretrained / "model.safetensors").stat().st_mtime_ns
    launch_here(pretrained.with_suffix(".yaml"), monkeypatch)
    assert "finished already" in capsys.readouterr().out
    assert (pretrained / "model.safetensors").stat().st_mtime_ns == before


def test_loss_is_the_mean_over_tokens_of_the_whole_batch(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    output = train(recipe("pt", tiny_model, data, tmp_path / "run", max_steps=1, train_sampling_strategy="sequential"))
    assert losses(output)[0][1] == pytest.approx(token_mean_loss(tiny_model, data, blocks=4, length=64), rel=1e-5)


def test_fine_tuning_makes_a_chat_model_and_so_are_its_checkpoints(
    pretrained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(recipe("sft", pretrained, data, tmp_path / "sft", bf16=True, max_steps=4))
    for folder in (output, output / "checkpoint-4"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert is_chat_model(tokenizer, GenerationConfig.from_pretrained(folder))
    assert AutoModelForCausalLM.from_pretrained(output).dtype == torch.bfloat16
    assert load_model(str(output / "checkpoint-4"), "auto").dtype == torch.float32
    assert re.search(f"assistant\n»({'|'.join(map(re.escape, TEXTS))})<\\|im_end\\|>«", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["learning_rate=1e-4"], "learning_rate: 0.001 then, 0.0001 now"),
        (["seed=1", "cutoff_len=32"], "cutoff_len: 64 then, 32 now\n  seed: 42 then, 1 now"),
        (["resume_from_checkpoint=false"], "holds a run already"),
        (["cutoff_len=1024"], "at most 512"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(pretrained: Path, overrides: list[str], expected: str) -> None:
    before = (pretrained / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(UserError) as caught:
        train(pretrained.with_suffix(".yaml"), *overrides)
    assert expected in str(caught.value)
    assert (pretrained / "model.safetensors").stat().st_mtime_ns == before


def test_a_finished_model_of_another_run_is_not_overwritten(
    pretrained: Path, tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without checkpoints only the finished model says which run it is of, and a longer run has nothing to go on."""
    output = tmp_path / "cpt"
    shutil.copytree(pretrained, output, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = recipe("pt", tiny_model, data, output)
    for override, said in (("seed=1", "seed: 42 then, 1 now"), ("max_steps=9", "max_steps: 8 then, 9 now")):
        with pytest.raises(UserError, match=said):
            train(config, override)
    launch_here(config, monkeypatch)
    assert "finished already" in capsys.readouterr().out
    (output / "training_run.json").unlink()
    with pytest.raises(UserError, match="a model that this run did not make"):
        train(config)
    assert (output / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    config = recipe("pt", tiny_model, data, tmp_path / "run")
    zero = tmp_path / "zero.json"
    for text, said in (
        ("[]", "a JSON object"),
        ('{"zero_optimization": {"stage": 4}}', "`stage` from 1 to 3"),
        ('{"zero_optimization": {"stage": 3}}', "stage3_gather_16bit_weights_on_model_save"),
    ):
        zero.write_text(text)
        with pytest.raises(UserError, match=said):
            train(config, f"deepspeed={zero}")
    with pytest.raises(OSError, match=r"zero\.json"):
        train(config, f"output_dir={zero}/x")
    (tmp_path / "old.json").write_bytes((data / "cpt.json").read_bytes())
    (tmp_path / "data_report.json").write_text('{"files": {}}')
    with pytest.raises(UserError, match="not what the last run of stage 1 wrote"):
        train(config, f"dataset={tmp_path}/old.json")


def test_a_diverging_loss_stops_the_run(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 1e30, "max_grad_norm": 0, "save_steps": 2, "max_skipped_steps": 3}
    config = recipe("pt", tiny_model, data, tmp_path / "run", **options)
    with pytest.raises(UserError, match=r"no finite number in 3 steps in a row, up to step \d"):
        train(config)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("points", [1, 3, 3000])
def test_the_loss_curve_is_drawn_for_few_and_many_points(tmp_path: Path, points: int) -> None:
    rows = [{"step": 10 * i, "loss": 3 + math.exp(-i / 300), "tokens_seen": 512 * i} for i in range(1, points + 1)]
    (tmp_path / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_loss_curve(tmp_path)
    assert (tmp_path / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_stage_is_an_error_with_the_command_that_makes_it(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    no_data = recipe("pt", tiny_model, tmp_path / "none", tmp_path / "cpt")
    no_model = recipe("sft", tmp_path / "cpt", data, tmp_path / "sft")
    (tmp_path / "preprocess.yaml").touch()
    runs = [shell("2_train_cpt.sh", no_data, cwd=tmp_path), shell("3_train_sft.sh", "sft.yaml", cwd=tmp_path)]
    commands = [f"python 1_preprocess.py --config {tmp_path}/preprocess.yaml", f"bash 2_train_cpt.sh {no_data}"]
    for run, command in zip(runs, commands, strict=True):
        _, error = run.communicate(timeout=120)
        assert run.returncode == 2
        assert command in error
        assert "Traceback" not in error
    assert no_model.is_file()
    assert not (tmp_path / "cpt").exists()


def test_the_missing_stage_is_the_one_that_writes_the_model(data: Path, tmp_path: Path) -> None:
    recipe("sft", tmp_path / "cpt", data, tmp_path / "sft")
    adapter = recipe("sft", tmp_path / "sft", data, tmp_path / "lora")
    (tmp_path / "broken.yaml").write_text("")
    with pytest.raises(UserError, match=r"Stage 3 has not run; run it with: bash 3_train_sft\.sh .*/sft\.yaml"):
        check(load_training_settings(adapter), adapter)
    new = recipe("pt", tmp_path, data, tmp_path / "new")
    model = f"model={{config: {{model_type: llama}}, tokenizer: {tmp_path / 'not' / 'there'}}}"
    with pytest.raises(UserError, match="Stage 1 trains it where a recipe has `new_tokenizer`: python 1_preprocess"):
        check(load_training_settings(new, ["model_name_or_path=null", model]), new)


def test_two_ranks_with_zero2_stop_resume_and_get_the_same_losses_to_the_last_bit(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "deepspeed": "configs/deepspeed/zero2.json",
        "gradient_accumulation_steps": 1,
        "train_sampling_strategy": "sequential",
        "save_steps": 2,
        "max_steps": 12,
    }
    straight = shell("2_train_cpt.sh", recipe("pt", tiny_model, data, tmp_path / "straight", **options), ranks=2)
    output, error = straight.communicate(timeout=300)
    assert straight.returncode == 0, error
    assert "resuming" not in output

    config = recipe("pt", tiny_model, data, tmp_path / "stopped", **options)
    stopped = shell("2_train_cpt.sh", config, ranks=2)
    while not (tmp_path / "stopped" / "checkpoint-2" / "training_run.json").exists():
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == EXIT_REQUEUE, error
    assert not (tmp_path / "stopped" / "config.json").exists()

    with pytest.raises(UserError, match="world_size: 2 then, 1 now"):
        launch_here(config, monkeypatch)
    resumed = shell("2_train_cpt.sh", config, ranks=2)
    output, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error
    assert "resuming from" in output
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "stopped")]
    assert weights[0] == weights[1]
    assert losses(tmp_path / "straight")[0][1] == pytest.approx(token_mean_loss(tiny_model, data, 4, 64), rel=1e-5)
