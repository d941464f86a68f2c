"""The recipes of stages 2 and 3: every fault is found before anything is loaded."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from runs import recipe, train

from langadapt.errors import UserError
from langadapt.recipe.training import load_training_settings
from langadapt.training.arguments import training_arguments
from langadapt.training.methods import check_method
from langadapt.training.preflight import check
from langadapt.training.sharding import is_sharded

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


def test_a_token_that_is_not_taken_is_not_shown() -> None:
    said = problem("hub_token=secret")
    assert "langadapt.upload" in said
    assert "secret" not in said


VOCABULARY = "vocabulary={new_tokens: 9, scripts: [Tibetan]}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["save_only_model=true"], "no longer be the same"),
        (["ignore_data_skip=true"], "no longer be the same"),
        (["auto_find_batch_size=true"], "no longer be the same"),
        (["do_train=true"], "unknown key `do_train`"),
        (["save_strategy=best"], "4_evaluate.py"),
        (["save_strategy=no", "average_last_checkpoints=2"], "with save_strategy: no there are none"),
        (["eval_steps=5"], "eval_strategy: steps"),
        (["eval_steps=5", "eval_strategy=epoch", "eval_dataset=e"], "eval_strategy: steps"),
        (["eval_on_start=true"], "takes eval_dataset"),
        (["template=chatml"], "stage is pt"),
        (["max_steps=0"], "or -1"),
        (["max_steps=-2"], "or -1"),
        (["weight_decay=-1"], "greater than or equal to 0"),
        (["max_grad_norm=-1"], "greater than or equal to 0"),
        (["label_smoothing_factor=1"], "less than 1"),
        (["neftune_noise_alpha=0"], "greater than 0"),
        (["resume_despite=[learning_rat]"], "did you mean learning_rate?"),
        (["resume_despite=[world]"], "world_size"),
        (["finetuning_type=lora", "lora_target="], "write all, or names"),
        (["finetuning_type=lora", "lora_target=[]"], "write all, or names"),
        (["finetuning_type=lora", "lora_target=[all,q_proj]"], "only names"),
        (["finetuning_type=lora", VOCABULARY], "additional_target: [embed_tokens]"),
        (["finetuning_type=qlora", VOCABULARY, "additional_target=lm_head"], "additional_target: [embed_tokens]"),
        (["finetuning_type=freeze", VOCABULARY], "freeze_extra_modules: [embed_tokens]"),
        (["finetuning_type=embeddings", "embeddings_trained=new", "new_rows_from=5", VOCABULARY], "new_rows_from"),
        (["finetuning_type=embeddings", "embeddings_trained=new", "optim=apollo_adamw"], "optim: apollo_adamw"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_or_harm_is_refused(overrides: list[str], expected: str) -> None:
    assert expected in problem(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["finetuning_type=lora", VOCABULARY, "additional_target=embed_tokens"],
        ["finetuning_type=freeze", VOCABULARY, "freeze_extra_modules=wte"],
        ["finetuning_type=embeddings", VOCABULARY, "embeddings_trained=new"],
        ["resume_despite=[learning_rate,world_size,dataset_sha256,base_model,deepspeed_config]"],
        ["eval_dataset=e", "eval_strategy=steps", "eval_steps=5", "eval_on_start=true"],
        ["max_steps=-1"],
    ],
)
def test_what_is_right_is_taken(overrides: list[str]) -> None:
    load_training_settings(None, [*REQUIRED, *overrides])


@pytest.mark.parametrize("spread", ["deepspeed=configs/deepspeed/zero3.json", "fsdp=true"])
def test_qlora_takes_a_base_that_is_whole_on_every_rank(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    settings = load_training_settings(None, [*REQUIRED, "finetuning_type=qlora", spread])
    with pytest.raises(UserError, match=r"Use ZeRO stage 2 \(configs/deepspeed/zero2\.json\)"):
        check_method(settings, is_sharded(settings))


def test_keys_that_need_the_ranks_do_not_stop_the_check_before_them(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    config = recipe("pt", tiny_model, data, tmp_path / "run", ddp_backend="nccl")
    check(load_training_settings(config), config)


def test_bf16_and_fp16_contradict_each_other() -> None:
    assert "bf16 is true as well" in problem("bf16=true", "fp16=true")


def test_keys_of_training_arguments_arrive_there() -> None:
    settings = load_training_settings(None, [*REQUIRED, "warmup_steps=0.03", "lr_scheduler_type=cosine", "seed=7"])
    arguments = training_arguments(settings, use_cpu=True)
    assert (arguments.warmup_steps, arguments.lr_scheduler_type, arguments.seed) == (0.03, "cosine", 7)
    assert arguments.report_to == ["tensorboard"]


def test_resolved_settings_are_a_recipe(tmp_path: Path) -> None:
    settings = load_training_settings(None, [*REQUIRED, "learning_rate=5e-5"])
    recipe = tmp_path / "settings.yaml"
    recipe.write_text(yaml.safe_dump(settings.resolved()))
    again = load_training_settings(recipe)
    assert again.resolved() == settings.resolved()


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


def test_null_takes_back_what_only_another_method_has() -> None:
    """A recipe's defaults may hold keys of the method that a user replaces on the command line."""
    config = REPOSITORY / "configs/csas_opus_mt_en_fr/train.yaml"
    with pytest.raises(UserError, match="lora_rank"):
        load_training_settings(config, ["finetuning_type=full"])
    settings = load_training_settings(config, ["finetuning_type=full", "lora_rank=null", "lora_alpha=null"])
    assert settings.finetuning_type == "full"
