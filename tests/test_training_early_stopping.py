"""early_stopping_patience: where a run ends, which checkpoint it keeps, and that an interruption changes neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import recipe, shell, train

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models import load_model
from langadapt.training import __main__ as stage
from langadapt.training.early_stopping import EARLY_STOPPING_FILE
from langadapt.training.progress import read_log
from langadapt.training.trainer import AdaptationTrainer

LOSSES = [5.0, 3.0, 4.0, 2.0, 2.5, 2.0, 1.0]  # of evaluation 1, 2, ...; lowest before the patience of two: the fourth


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations tell the losses above, a step each."""

    def measured(trainer: AdaptationTrainer) -> dict[str, float]:
        return {"eval_loss": LOSSES[trainer.state.global_step - 1], "eval_tokens": 1}

    monkeypatch.setattr(AdaptationTrainer, "_measure_evaluation", measured)


def config_of(tiny_model: Path, data: Path, output: Path, **changes: Any) -> Path:
    keys: dict[str, Any] = {"eval_dataset": str(data / "cpt.json"), "eval_strategy": "steps", "eval_steps": 1}
    keys |= {"early_stopping_patience": 2, "save_total_limit": 1, "save_steps": 3, "cutoff_len": 16}
    return recipe("pt", tiny_model, data, output, **(keys | changes))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(str(folder)).state_dict()


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_the_best_checkpoint_becomes_the_model(strategy: str, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    output = train(config_of(tiny_model, data, tmp_path / "run", save_strategy=strategy))
    records = [record for record in read_log(output) if "eval_loss" in record]
    assert [record["eval_loss"] for record in records] == LOSSES[:6]
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    best, last, finished = (weights(output / name) for name in ("checkpoint-4", "checkpoint-6", "."))
    assert all(torch.equal(best[name], finished[name]) for name in best)
    assert not all(torch.equal(last[name], finished[name]) for name in best)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "Evaluation loss, nats a token: 2.0000 at step 4;" in card
    assert "The weights are those of step 4, where that loss was lowest." in card
    said = read_json_object(output / "checkpoint-6" / EARLY_STOPPING_FILE)
    assert said == {"best_step": 4, "best_loss": 2.0, "worse": 2, "ended": True}


@pytest.mark.usefixtures("told")
def test_an_interruption_changes_nothing(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config_of(tiny_model, data, tmp_path / "whole", lr_scheduler_type="constant"))
    config = config_of(tiny_model, data, tmp_path / "halves", lr_scheduler_type="constant")
    train(config, "max_steps=5")
    halves = tmp_path / "halves"
    for name in ("config.json", "training_run.json"):
        (halves / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "export_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert not (halves / "config.json").exists()
    train(config)  # the run was at its end: only the finished model was missing
    assert [record for record in read_log(halves) if "eval_loss" in record] == [
        record for record in read_log(whole) if "eval_loss" in record
    ]
    one, two = weights(whole), weights(halves)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.usefixtures("told")
def test_an_evaluation_behind_a_save_is_saved_too(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """At the end of an epoch the checkpoint of its last step is there before the evaluation."""
    config = config_of(tiny_model, data, tmp_path / "run", eval_strategy="epoch", save_steps=1, save_total_limit=None)
    text = config.read_text().replace("eval_steps: 1\n", "").replace("gradient_accumulation_steps: 2\n", "")
    config.write_text(text)
    output = train(config, "per_device_train_batch_size=100", "packing=none", "max_steps=6")
    steps = [record["step"] for record in read_log(output) if "eval_loss" in record]
    assert steps == [2, 4, 6]
    found = [read_json_object(output / f"checkpoint-{step}" / EARLY_STOPPING_FILE)["best_step"] for step in range(1, 7)]
    assert found == [None, 2, 2, 4, 4, 4]


@pytest.mark.usefixtures("told")
def test_the_evaluation_before_the_first_step_is_of_no_checkpoint(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Its loss, the lowest of all, would make the base the best checkpoint."""
    output = train(config_of(tiny_model, data, tmp_path / "run", eval_on_start=True))
    assert read_json_object(output / "checkpoint-6" / EARLY_STOPPING_FILE)["best_step"] == 4


@pytest.mark.usefixtures("told")
def test_a_copied_checkpoint_needs_the_best_one_beside_it(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, data, tmp_path / "run", lr_scheduler_type="constant")
    output = train(config, "max_steps=3")
    elsewhere = f"resume_from_checkpoint={output}/checkpoint-3"
    with pytest.raises(UserError, match="checkpoint-2 is not there, where the evaluation loss was lowest"):
        train(config, "max_steps=5", elsewhere, f"output_dir={tmp_path}/other")


@pytest.mark.slow
def test_two_ranks_end_together_at_the_same_checkpoint(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    """Under ZeRO-3, and a learning rate that makes the model worse soon."""
    changes = {"learning_rate": 0.05, "lr_scheduler_type": "constant", "max_steps": 30, "early_stopping_patience": 1}
    changes |= {"gradient_accumulation_steps": 1, "deepspeed": "configs/deepspeed/zero3.json"}
    process = shell("2_train_cpt.sh", config_of(tiny_model, data, tmp_path / "run", **changes), ranks=2)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    output = tmp_path / "run"
    evaluated = [record for record in read_log(output) if "eval_loss" in record]
    last = evaluated[-1]["step"]
    assert 1 < last < 30
    best = min(evaluated, key=lambda record: record["eval_loss"])["step"]
    assert best == last - 1
    assert sorted(path.name for path in output.glob("checkpoint-*")) == sorted(f"checkpoint-{k}" for k in (best, last))
    assert f"lowest at step {best}, whose checkpoint becomes the finished model" in said
    assert weights(output).keys() == weights(tiny_model).keys()
