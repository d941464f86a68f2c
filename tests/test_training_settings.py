"""The recipes of stages 2 and 3: every fault is found before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from runs import recipe, train

from langadapt.errors import UserError
from langadapt.recipe.training import load_training_settings
from langadapt.training.trainer import training_arguments

REQUIRED = ["stage=pt", "model_name_or_path=m", "dataset=d", "cutoff_len=64", "output_dir=o"]


def problem(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_training_settings(None, [*REQUIRED, *overrides])
    return str(caught.value)


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "cpt.yaml"
    recipe.write_text(
        "stage: sft\nmodel_name_or_path: m\ndataset: d\noutput_dir: o\ncutoff_len: 64\n"
        "learning_rat: 1e-4\nwarmup_ratio: 0.1\npacking: maybe\nper_device_train_batch_size: 0\n"
    )
    with pytest.raises(UserError) as caught:
        load_training_settings(recipe)
    message = str(caught.value)
    assert "4 problems" in message
    assert "line 6: unknown key `learning_rat`. Did you mean `learning_rate`?" in message
    assert "line 7: unknown key `warmup_ratio`. Write the ratio into `warmup_steps`" in message
    assert "line 8: `packing`" in message
    assert "line 9: `per_device_train_batch_size`" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("gradient_checkpointing=true", "activation_checkpointing"),
        ("eval_strategy=steps", "eval_dataset names no file"),
        ("eval_dataset=test.json", "eval_strategy is no"),
        ("load_best_model_at_end=true", "Stage 4"),
        ("lr_scheduler_type=cosin", "'cosine'"),
        ("finetuning_type=lorra", "'lora'"),
        ("learning_rate=fast", "`learning_rate` is 'fast'"),
    ],
)
def test_a_wrong_key_or_value_says_what_is_right(override: str, expected: str) -> None:
    assert expected in problem(override)


def test_bf16_and_fp16_contradict_each_other() -> None:
    assert "bf16 is true as well" in problem("bf16=true", "fp16=true")


def test_keys_of_training_arguments_arrive_there() -> None:
    settings = load_training_settings(None, [*REQUIRED, "warmup_steps=0.03", "lr_scheduler_type=cosine", "seed=7"])
    arguments = training_arguments(settings, use_cpu=True)
    assert (arguments.warmup_steps, arguments.lr_scheduler_type, arguments.seed) == (0.03, "cosine", 7)
    assert arguments.report_to == ["tensorboard"]


def test_resolved_settings_are_a_recipe_and_hold_no_token(tmp_path: Path) -> None:
    settings = load_training_settings(None, [*REQUIRED, "learning_rate=5e-5", "hub_token=secret"])
    recipe = tmp_path / "settings.yaml"
    recipe.write_text(yaml.safe_dump(settings.resolved()))
    assert "secret" not in recipe.read_text()
    again = load_training_settings(recipe)
    assert again.resolved() == settings.resolved()


@pytest.mark.parametrize("stage", ["cpt", "sft"])
def test_the_default_recipe_has_the_batch_of_128_of_the_published_run(stage: str) -> None:
    settings = load_training_settings(REPOSITORY / "configs" / "tibetan_qwen2.5_3b" / f"{stage}.yaml")
    keys = settings.trainer_keys()
    assert keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"] * 8 == 128
    assert settings.bf16
    assert settings.deepspeed is not None
    assert (REPOSITORY / settings.deepspeed).is_file()


@pytest.mark.parametrize("recipe", sorted(REPOSITORY.glob("configs/*/[cs][pf]t.yaml")), ids=str)
def test_shipped_recipes_are_valid(recipe: Path) -> None:
    load_training_settings(recipe)


@pytest.mark.parametrize(
    ("tracker", "said"),
    [("wandbb", "no tracker that is known here. Known: .*wandb"), ("swanlab", "pip install swanlab")],
)
def test_a_tracker_that_is_not_to_be_had_is_said_before_training(
    tiny_model: Path, data: Path, tmp_path: Path, tracker: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        train(recipe("pt", tiny_model, data, tmp_path / "run", report_to=["tensorboard", tracker]))


def test_what_a_machine_lacks_is_replaced_and_said(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    asked = {"attn_implementation": "flash_attention_2", "torch_compile": True, "use_liger_kernel": True}
    train(recipe("pt", tiny_model, data, tmp_path / "run", max_steps=1, **asked))
    said = capsys.readouterr().out
    assert "attn_implementation: flash_attention_2 needs a GPU; using sdpa" in said
    assert "torch_compile: needs a C++ compiler (g++); not compiling" in said
    assert "use_liger_kernel: needs a GPU and liger-kernel" in said
