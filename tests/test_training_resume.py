"""What a lab has to be able to trust: exact resuming, stopping when asked, skipped steps, the evaluation loss."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import losses, recipe, shell, train

from langadapt.errors import UserError
from langadapt.files import read_json_file
from langadapt.models import conversation, encode_conversation, encode_text, load_model, load_tokenizer
from langadapt.models.templates import CHATML
from langadapt.training.progress import ProgressLog, read_log
from langadapt.training.stopping import EXIT_REQUEUE
from langadapt.training.trainer import AdaptationTrainer

Events = dict[int, Callable[[], None]]


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def on_step(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What to do at the end of a step, once."""
    events: Events = {}
    plain = ProgressLog.on_step_end

    def on_step_end(log: ProgressLog, args: Any, state: Any, control: Any, **options: Any) -> None:
        events.pop(state.global_step, lambda: None)()
        plain(log, args, state, control, **options)

    monkeypatch.setattr(ProgressLog, "on_step_end", on_step_end)
    return events


def stop_at(config: Path, on_step: Events, step: int) -> None:
    """Start a run, ask it to stop while a step runs, and see that it saved after the next one."""
    # The log's turn comes after all ranks have agreed on this step, so that they hear of it at the next.
    on_step[step - 1] = ask_to_stop
    with pytest.raises(SystemExit) as ended:
        train(config)
    assert ended.value.code == EXIT_REQUEUE
    output = config.with_suffix("")
    assert (output / f"checkpoint-{step}").is_dir()
    assert not (output / "config.json").exists()


def compared(output: Path) -> list[dict[str, Any]]:
    """What a log says of training itself, not of the machine."""
    keys = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_seen", "skipped_steps", "eval_loss")
    return [{key: record[key] for key in keys if key in record} for record in read_log(output)]


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pt", {}),
        ("pt", {"bf16": True, "gradient_accumulation_steps": 3, "packing": "joined"}),
        ("sft", {"packing": False, "neftune_noise_alpha": 5, "label_smoothing_factor": 0.1}),
        ("sft", {"finetuning_type": "lora", "lora_dropout": 0.2, "ema_decay": 0.9}),
        ("pt", {"eval_strategy": "steps", "eval_steps": 4, "gradient_accumulation_steps": 1}),
    ],
    ids=["full", "bf16, 3 accumulated, joined", "padded, NEFTune, smoothed", "lora, dropout, EMA", "evaluated"],
)
def test_stopped_and_resumed_twice_the_run_is_the_same_to_the_last_bit(
    tiny_model: Path, data: Path, tmp_path: Path, on_step: Events, stage: str, changes: dict[str, Any]
) -> None:
    """Stopped between two log lines, so that the sums they are made of have to go on as well."""
    changes = {"logging_steps": 2, "cutoff_len": 128, "save_steps": 100, **changes}
    if "eval_strategy" in changes:
        changes["eval_dataset"] = str(data / "cpt.json")
    straight = train(recipe(stage, tiny_model, data, tmp_path / "straight", **changes))
    config = recipe(stage, tiny_model, data, tmp_path / "stopped", **changes)
    stop_at(config, on_step, 3)
    stop_at(config, on_step, 6)
    stopped = train(config)
    assert compared(stopped) == compared(straight)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (straight / name).exists() == (stopped / name).exists()
        if (straight / name).exists():
            assert (straight / name).read_bytes() == (stopped / name).read_bytes()


@pytest.mark.parametrize("stops", [(3, 7), (5,)], ids=["amid two epochs", "at the end of one"])
def test_what_is_logged_by_epoch_is_the_same_after_a_stop(
    tiny_model: Path, data: Path, tmp_path: Path, on_step: Events, stops: tuple[int, ...]
) -> None:
    changes = {"max_steps": -1, "num_train_epochs": 2, "cutoff_len": 128, "save_steps": 100}
    changes |= {"logging_strategy": "epoch", "eval_strategy": "epoch", "eval_dataset": str(data / "cpt.json")}
    straight = train(recipe("pt", tiny_model, data, tmp_path / "straight", **changes))
    assert [record["step"] for record in read_log(straight)] == [5, 5, 10, 10]
    config = recipe("pt", tiny_model, data, tmp_path / "stopped", **changes)
    for step in stops:
        stop_at(config, on_step, step)
    assert compared(train(config)) == compared(straight)


def test_asked_during_an_evaluation_it_stops_there_and_evaluates_when_resumed(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 4, "eval_dataset": str(data / "cpt.json"), "save_steps": 100}
    changes |= {"per_device_eval_batch_size": 2}
    straight = train(recipe("pt", tiny_model, data, tmp_path / "straight", **changes))
    config = recipe("pt", tiny_model, data, tmp_path / "stopped", **changes)
    plain, batches = AdaptationTrainer.stop_if_asked, 0

    def counted(trainer: AdaptationTrainer) -> bool:
        nonlocal batches
        batches += not trainer.model.training
        if batches == 3:
            ask_to_stop()
        return plain(trainer)

    monkeypatch.setattr(AdaptationTrainer, "stop_if_asked", counted)
    with pytest.raises(SystemExit, match=str(EXIT_REQUEUE)):
        train(config)
    assert batches in (3, 4), "of eighteen"
    assert (tmp_path / "stopped" / "checkpoint-4").is_dir()
    assert [record["step"] for record in read_log(tmp_path / "stopped")] == [1, 2, 3, 4]
    assert compared(train(config)) == compared(straight)
    assert [record["step"] for record in read_log(straight) if "eval_loss" in record] == [4, 8]


@pytest.mark.parametrize("stage", ["pt", "sft"])
def test_the_evaluation_loss_is_the_mean_over_the_learned_tokens(
    tiny_model: Path, data: Path, tmp_path: Path, stage: str
) -> None:
    """Against each document by itself; batches of three, which do not divide the blocks."""
    dataset = data / ("cpt.json" if stage == "pt" else "sft.json")
    options: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-12, "label_smoothing_factor": 0.2}
    options |= {"eval_dataset": str(dataset), "eval_strategy": "steps", "cutoff_len": 512}
    options |= {"per_device_eval_batch_size": 3, "template": "chatml" if stage == "sft" else None}
    output = train(recipe(stage, tiny_model, data, tmp_path / "run", **options))
    (record,) = [record for record in read_log(output) if "eval_loss" in record]

    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    tokenizer.chat_template = CHATML
    total, count = 0.0, 0
    for example in read_json_file(dataset):
        if stage == "pt":
            ids = [tokenizer.eos_token_id, *encode_text(tokenizer, example["text"]), tokenizer.eos_token_id]
            labels = ids
        else:
            ids, labels = encode_conversation(tokenizer, conversation(example))
        learned = sum(label != -100 for label in labels[1:])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, count = total + float(loss) * learned, count + learned
    assert record["eval_tokens"] == count
    assert record["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loss becomes nan, one gradient infinite; weights and logged loss are those of the other steps."""
    changes = {"train_sampling_strategy": "sequential", "lr_scheduler_type": "constant", "save_steps": 3}
    config = recipe("pt", tiny_model, data, tmp_path / "run", logging_steps=4, **changes)
    plain, weights = AdaptationTrainer.training_step, {}

    def broken(trainer: AdaptationTrainer, model: Any, *args: Any) -> torch.Tensor:
        step = trainer.state.global_step
        first_batch = step not in weights
        weights.setdefault(step, trainer.model.lm_head.weight.detach().clone())
        loss = plain(trainer, model, *args)
        if step == 5 and first_batch:
            trainer.model.lm_head.weight.grad[0, 0] = math.inf
        if step == 2 and first_batch:
            trainer._loss_is_finite &= False
            return loss * math.nan
        return loss

    monkeypatch.setattr(AdaptationTrainer, "training_step", broken)
    output = train(config)
    same = [step for step in range(7) if torch.equal(weights[step], weights[step + 1])]
    assert same == [2, 5]
    first, second = read_log(output)
    assert (first["skipped_steps"], second["skipped_steps"]) == (1, 2)
    assert 5 < second["loss"] < first["loss"] < 6.5
    saved = sorted(path.name for path in output.glob("checkpoint-*"))
    assert saved == ["checkpoint-4", "checkpoint-7", "checkpoint-8"], "3 and 6 were skipped steps"


def test_the_disk_is_looked_at_before_a_checkpoint_is_begun(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("pt", tiny_model, data, tmp_path / "run", save_steps=2)
    usage, calls = shutil.disk_usage(tmp_path), []

    def shrinking(path: Path) -> Any:
        calls.append(path)
        return usage._replace(free=10**9 if len(calls) == 1 else 10**5)

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    with pytest.raises(UserError, match=r"the checkpoint of step 4 takes 0\.00 GB, but 0\.00 GB are free"):
        train(config)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2"]
    monkeypatch.undo()
    train(config)
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 9))


def test_blocks_that_another_version_made_are_not_gone_on_with(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe("pt", tiny_model, data, tmp_path / "run", save_steps=2)
    output = train(config)
    monkeypatch.setattr("langadapt.training.checkpoints.BLOCKS_FORMAT", 99)
    train(config)  # finished is finished
    (output / "config.json").unlink()
    shutil.rmtree(output / "checkpoint-8")
    with pytest.raises(UserError, match=r"differs from this one:\n  blocks_format: \d+ then, 99 now"):
        train(config)


def test_what_differs_from_the_checkpoint_can_be_allowed_by_name(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    output = train(recipe("pt", tiny_model, data, tmp_path / "run", save_steps=2))
    (output / "config.json").unlink()
    shutil.rmtree(output / "checkpoint-8")
    shutil.copytree(data, tmp_path / "data")
    records = json.loads((tmp_path / "data" / "cpt.json").read_text())
    (tmp_path / "data" / "cpt.json").write_text(json.dumps(records[1:]))
    config = recipe("pt", tiny_model, tmp_path / "data", tmp_path / "run", learning_rate=1e-4, max_steps=9)
    with pytest.raises(
        UserError, match=r"dataset_sha256: \w+ then, \w+ now\n  learning_rate: 0\.001 then, 0\.0001 now"
    ):
        train(config)
    with pytest.raises(UserError, match=r"differs from this one:\n  learning_rate: 0\.001 then"):
        train(config, "resume_despite=[dataset_sha256]")
    train(config, "resume_despite=[dataset_sha256, learning_rate]")
    assert [step for step, _ in losses(output)] == list(range(1, 10))


@pytest.mark.slow
def test_two_ranks_that_share_a_model_train_it_as_one_would_and_resume_exactly(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """ZeRO-3, against one rank with twice the accumulation, which sees the same batches.

    Resumed once from the checkpoint before the last, once with only the finished model missing.
    """
    alone = recipe("pt", tiny_model, data, tmp_path / "alone", train_sampling_strategy="sequential")
    shared = {"gradient_accumulation_steps": 1, "train_sampling_strategy": "sequential"}
    shared["deepspeed"] = "configs/deepspeed/zero3.json"
    config = recipe("pt", tiny_model, data, tmp_path / "shared", **shared)
    outputs = []
    for missing in ("checkpoint-8", "", ""):
        run = shell("2_train_cpt.sh", config, ranks=2)
        _, error = run.communicate(timeout=300)
        assert run.returncode == 0, error
        output = tmp_path / "shared"
        outputs.append((losses(output), (output / "model.safetensors").read_bytes()))
        (output / "config.json").unlink()
        if missing:
            shutil.rmtree(output / missing)
    assert outputs[0] == outputs[1] == outputs[2]
    train(alone)
    for (_, loss), (_, expected) in zip(outputs[0][0], losses(tmp_path / "alone"), strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    folders = [tmp_path / name / "checkpoint-4" for name in ("shared", "alone")]
    weights, expected_weights = (load_model(str(folder)).state_dict() for folder in folders)
    for name, weight in expected_weights.items():
        assert torch.allclose(weights[name], weight, atol=1e-5), name


def test_a_log_line_that_was_cut_short_does_not_hinder_a_resume(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    output = train(recipe("pt", tiny_model, data, tmp_path / "run"))
    whole = (output / "training_log.jsonl").read_text()
    (output / "config.json").unlink()
    shutil.rmtree(output / "checkpoint-8")
    (output / "training_log.jsonl").write_text(whole[:-20])
    train(recipe("pt", tiny_model, data, tmp_path / "run"))
    assert [json.loads(line)["loss"] for line in whole.splitlines()] == [loss for _, loss in losses(output)]


def test_going_on_from_an_earlier_checkpoint_does_not_mix_two_attempts(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    output = train(recipe("pt", tiny_model, data, tmp_path / "run", save_steps=2))
    (output / "config.json").unlink()

    config = recipe("pt", tiny_model, data, output, save_steps=2, resume_from_checkpoint=str(output / "checkpoint-4"))
    with pytest.raises(UserError, match="checkpoint-6, checkpoint-8 come after it"):
        train(config)
    elsewhere = shutil.copytree(output / "checkpoint-4", tmp_path / "elsewhere")
    (elsewhere / "optimizer.pt").write_bytes((elsewhere / "optimizer.pt").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged \(optimizer\.pt has"):
        train(config, f"resume_from_checkpoint={elsewhere}", f"output_dir={tmp_path / 'other'}")


def test_an_evaluation_loss_that_is_no_number_is_logged_as_none(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"eval_loss": math.nan, "eval_tokens": 5}
    monkeypatch.setattr(AdaptationTrainer, "_measure_evaluation", lambda _: measured)
    options = {"eval_strategy": "steps", "eval_steps": 4, "eval_dataset": str(data / "cpt.json")}
    output = train(recipe("pt", tiny_model, data, tmp_path / "run", **options))
    assert [record["eval_loss"] for record in read_log(output) if "eval_loss" in record] == [None, None]
    assert (output / "loss_curve.png").is_file()


def test_a_second_start_in_the_same_folder_waits_for_none(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is at work on it"):
            train(recipe("pt", tiny_model, data, tmp_path / "run"))
