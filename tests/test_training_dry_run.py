"""--dry_run: its forecast is what training takes, and it says what to change where that is too much."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from runs import bytes_saved, launch_here, recipe, train
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, Qwen2ForCausalLM

from langadapt.errors import UserError
from langadapt.files import write_json_array
from langadapt.models import load_model, load_tokenizer
from langadapt.recipe.training import load_training_settings
from langadapt.training import launch
from langadapt.training.attention import BY_DOCUMENT
from langadapt.training.data import prepare_tokens
from langadapt.training.dry_run import _say_disk, length_of
from langadapt.training.fitting import GIB, reserve
from langadapt.training.kernels import choose_kernels
from langadapt.training.loss import ChunkedLoss
from langadapt.training.memory import Memory, _Count, fake_model, forecast_memory
from langadapt.training.memory_rules import weight_bytes
from langadapt.training.methods import prepare_model
from langadapt.training.progress import read_log
from langadapt.training.vocabulary import extend_vocabulary

ROWS, BLOCK = 2, 64
MODULE = "langadapt.training.launch"


@pytest.fixture
def config(tiny_model: Path, data: Path, tmp_path: Path) -> Path:
    return recipe("pt", tiny_model, data, tmp_path / "run", gradient_accumulation_steps=1)


def forecast(config: Path, *overrides: str, ranks: int = 1, layers: int = 2) -> Memory:
    settings = load_training_settings(config, overrides)
    base = deepened(Path(str(settings.model_name_or_path)), layers)
    model = fake_model(settings, base, choose_kernels(settings).attention)
    return forecast_memory(settings, model, ranks, on_gpu=False)


def deepened(model_folder: Path, layers: int) -> Any:
    kinds = ["full_attention"] * layers
    return AutoConfig.from_pretrained(model_folder, num_hidden_layers=layers, layer_types=kinds)


def numbers_of(model_folder: Path) -> int:
    return sum(parameter.numel() for parameter in load_model(str(model_folder)).parameters())


def test_what_the_parameters_take_is_as_computed_by_hand(config: Path, tiny_model: Path) -> None:
    numbers = numbers_of(tiny_model)
    plain = {"weights": 4 * numbers, "gradients": 4 * numbers, "optimizer": 8 * numbers}
    assert forecast(config).optimizer_step == plain
    assert forecast(config, "bf16=true").optimizer_step == plain  # float32 weights, cast as they are used
    assert forecast(config, "optim=sgd").optimizer_step == plain | {"optimizer": 0}
    assert forecast(config, "ema_decay=0.99").optimizer_step == plain | {"moving average": 4 * numbers}
    table = AutoConfig.from_pretrained(tiny_model)
    kept = table.vocab_size * table.hidden_size  # transformers keeps the embeddings' states in 32 bits
    assert forecast(config, "optim=adamw_8bit").optimizer_step["optimizer"] == 2 * (numbers - kept) + 8 * kept
    two = forecast(config, ranks=2).optimizer_step
    assert two == plain | {"gradients": 8 * numbers}  # the ranks bring theirs together in buckets


def test_zero_spreads_what_it_says_over_the_ranks(config: Path, tiny_model: Path) -> None:
    numbers = numbers_of(tiny_model)
    overrides = ["bf16=true", "deepspeed=configs/deepspeed/zero2.json"]
    one, four = (forecast(config, *overrides, ranks=ranks).optimizer_step for ranks in (1, 4))
    # bf16 weights; gradients in bf16 twice and in float32; two moments and the float32 weights
    assert one == {"weights": 2 * numbers, "gradients": 8 * numbers, "optimizer": 12 * numbers}
    assert four == {"weights": 2 * numbers, "gradients": 2 * numbers, "optimizer": 3 * numbers}
    overrides[1] = "deepspeed=configs/deepspeed/zero3.json"
    assert forecast(config, *overrides, ranks=4).optimizer_step["weights"] == numbers // 2
    assert forecast(config, "fsdp=true", ranks=4).optimizer_step == {
        "weights": numbers,
        "gradients": numbers,
        "optimizer": 2 * numbers,
    }


def saved_for_backward(layers: int, tiny_model: Path, bf16: bool) -> int:
    """The bytes that a real step of the real model keeps for its backward pass, but for its weights."""
    model = Qwen2ForCausalLM(deepened(tiny_model, layers)).train()
    model.set_attn_implementation(BY_DOCUMENT)
    ids = torch.zeros(ROWS, BLOCK, dtype=torch.long)
    positions = (torch.arange(BLOCK) % 20).repeat(ROWS, 1)  # several documents
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    batch = {"input_ids": ids, "labels": ids, "position_ids": positions}
    with autocast, ChunkedLoss(model):
        return bytes_saved(model, **batch, num_items_in_batch=1)


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_what_a_real_step_saves(config: Path, tiny_model: Path, bf16: bool) -> None:
    """A layer more saves as much more; what one operation needs for a moment is the same."""

    def activations(layers: int, *overrides: str) -> int:
        held = forecast(config, f"bf16={bf16}", *overrides, layers=layers).forward_and_backward
        return held["activations"] + held["logits"]

    saved = [saved_for_backward(layers, tiny_model, bf16) for layers in (4, 8)]
    # Under autocast the biases in bf16 are held too, until the forward pass ends.
    assert activations(8) - activations(4) == pytest.approx(saved[1] - saved[0], rel=0.001 if bf16 else 0)
    assert activations(8, "activation_checkpointing=true") < saved[1] < activations(8)


def test_an_index_is_counted_whatever_else_is_indexed() -> None:
    with FakeTensorMode(), _Count():
        rows = torch.empty(4, 6)
        assert rows[:, torch.tensor([1, 2])].shape == (4, 2)
        assert rows[:, torch.zeros(6, dtype=torch.bool)].shape == (4, 6)  # a mask is taken to choose all


def test_a_base_in_4_bits_takes_what_bitsandbytes_makes_of_it(config: Path, tiny_model: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    settings = load_training_settings(config, ["finetuning_type=qlora"])
    real = prepare_model(settings, load_tokenizer(str(tiny_model)))
    taken = 0
    for parameter in real.parameters():
        taken += parameter.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:
            taken += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    model = fake_model(settings, AutoConfig.from_pretrained(tiny_model))
    # The last block of 256 scales is rarely full in weights this small.
    assert weight_bytes(model, settings) == pytest.approx(taken, rel=0.01)


def test_the_plain_loss_holds_all_logits(config: Path, tiny_model: Path) -> None:
    """An output layer that is trained whole beside an adapter is no plain linear layer."""
    adapter = ["finetuning_type=lora", "per_device_train_batch_size=64"]
    chunked, plain = (
        forecast(config, *adapter, *more).forward_and_backward["logits"]
        for more in ([], ["additional_target=[embed_tokens,lm_head]"])
    )
    words = AutoConfig.from_pretrained(tiny_model).vocab_size
    assert plain >= 2 * 4 * 64 * BLOCK * words > chunked  # the logits and their gradients


def test_steps_and_tokens_are_those_of_the_run(config: Path) -> None:
    overrides = ["max_steps=-1", "num_train_epochs=2", "gradient_accumulation_steps=3", "save_strategy=no"]
    settings = load_training_settings(config, overrides)
    tokenizer = load_tokenizer(settings.tokenizer_source)
    tokens = prepare_tokens(settings.dataset, settings, tokenizer, config.parent / "tokens")
    length = length_of(settings, tokens, ranks=1)
    last = read_log(train(config, *overrides))[-1]
    assert (length.steps, length.tokens) == (last["step"], last["tokens_seen"])
    assert length_of(settings, tokens, ranks=2).steps_an_epoch == -(-length.steps_an_epoch // 2)


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        raise AssertionError("a dry run started training")

    monkeypatch.setattr(launch, "_start", start)


def test_a_dry_run_describes_the_run_and_makes_no_model(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch_here(config, monkeypatch, "--dry_run", "max_steps=20")
    said = capsys.readouterr().out
    assert "steps     20, " in said
    assert "2 x 1 accumulated x 1 rank = 2 blocks" in said
    assert "max_steps=20" in said
    assert "start     at the beginning" in said
    assert "fits into" in said
    output = config.with_suffix("")
    assert [path.name.split("-")[0] for path in output.iterdir()] == ["tokens"]


def test_what_is_too_large_comes_with_the_keys_that_make_it_fit(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = ["--dry_run", "--gpus", "8", "--gpu", "H100", "--gpu_memory", "1.1", "per_device_train_batch_size=256"]
    with pytest.raises(UserError) as raised:
        launch_here(config, monkeypatch, *planned)
    assert "does not fit into 1.1 GiB" in capsys.readouterr().out
    assert "\n  activation_checkpointing=true: 0.1 GiB" in str(raised.value)
    assert "\n  per_device_train_batch_size=1 gradient_accumulation_steps=256: 0.0 GiB" in str(raised.value)
    with pytest.raises(UserError, match="--gpu_memory 80"):
        launch_here(config, monkeypatch, "--dry_run", "--gpus", "8")


def test_a_config_is_enough_and_what_a_start_would_lack_is_said(
    config: Path,
    tiny_model: Path,
    no_start: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    outline = tmp_path / "outline"
    outline.mkdir()
    (outline / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(UserError, match="a start would stop at this"):
        launch_here(config, monkeypatch, "--dry_run", f"model_name_or_path={outline}", "dataset=none.json")
    said = capsys.readouterr().out
    assert "tokens and steps are unknown" in said
    assert "fits into" in said


def test_all_that_stands_in_the_way_is_said_at_once(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = ["--dry_run", "--gpus", "8", "--gpu_memory", "1.1", "per_device_train_batch_size=256"]
    with pytest.raises(UserError) as raised:
        launch_here(config, monkeypatch, *planned, "dataset=none.json")
    assert "a start would stop at this:\nnone.json" in str(raised.value)
    assert "\n  activation_checkpointing=true: " in str(raised.value)


def test_what_output_dir_holds_is_said(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = train(config)
    for path in output.glob("*.json"):
        path.unlink()  # the finished model
    launch_here(config, monkeypatch, "--dry_run")
    assert f"start     it would go on from {output / 'checkpoint-8'}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"learning_rate: 0\.001 then, 0\.5 now"):
        launch_here(config, monkeypatch, "--dry_run", "learning_rate=0.5")
    launch_here(config, monkeypatch, "--dry_run", "learning_rate=0.5", "--gpus", "8", "--gpu_memory", "80")


def test_what_the_machine_lacks_is_said(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch_here(config, monkeypatch, "--dry_run", "attn_implementation=flash_attention_2")
    assert "kernels   attn_implementation: flash_attention_2 needs a GPU; using sdpa" in capsys.readouterr().out


def test_the_reserve_grows_with_what_is_forecast() -> None:
    assert reserve(Memory({"weights": 10 * GIB}, {})) == GIB
    assert reserve(Memory({"weights": 60 * GIB}, {})) == 3 * GIB


def test_the_disk_holds_the_model_in_its_own_type_and_the_extended_base(
    config: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dtype, size in (("auto", "4.0 GB"), ("float16", "2.0 GB")):
        settings = load_training_settings(config, [f"export_dtype={dtype}", "save_strategy=no"])
        model = fake_model(settings, AutoConfig.from_pretrained(tiny_model))
        assert not _say_disk(settings, model, total=10**9, length=None, made=10**18)
        assert f"1000000000.0 GB the extended base, {size} the model" in capsys.readouterr().out


def test_a_vocabulary_that_is_still_to_be_made_counts(
    tiny_model: Path,
    tmp_path: Path,
    no_start: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recipe in configs, on a tiny base: new rows alone are trained, and tokens are those of the start."""
    write_json_array(tmp_path / "texts.json", [{"text": "Сайн байна уу, Монгол улс минь. " * 20}] * 60)
    recipe = REPOSITORY / "configs" / "mongolian_vocabulary" / "embeddings.yaml"
    keys = {"model_name_or_path": tiny_model, "dataset": tmp_path / "texts.json", "output_dir": tmp_path / "run"}
    overrides = [*(f"{key}={value}" for key, value in keys.items()), "vocabulary.new_tokens=30", "cutoff_len=512"]
    launch_here(recipe, monkeypatch, "--dry_run", "use_cpu=true", *overrides)
    said = capsys.readouterr().out
    width = AutoConfig.from_pretrained(tiny_model).hidden_size
    assert f", {30 * width:,} trained (embeddings)" in said
    assert "the extended base" in said
    settings = load_training_settings(recipe, overrides)
    extended = extend_vocabulary(str(tiny_model), settings.vocabulary, settings.dataset, tmp_path / "extended")
    tokens = prepare_tokens(settings.dataset, settings, load_tokenizer(str(extended)), tmp_path / "tokens")
    assert f"60 records, {len(tokens.ids):,} tokens" in said


def test_the_flags_may_come_first(
    run_script: Callable[..., subprocess.CompletedProcess[str]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = config.with_name("python")
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(stub))
    for line in ("--dry_run --gpus 8 {} seed=1", "{} --dry_run --gpus 8 seed=1"):
        done = run_script("2_train_cpt.sh", *line.format(config).split())
        assert sorted(done.stdout.split()[-6:]) == sorted(["--dry_run", "--gpus", "8", str(config), "seed=1", MODULE])
    done = run_script("2_train_cpt.sh", "--dry_run", "seed=1")
    assert "configs/tibetan_qwen2.5_3b/cpt.yaml" in done.stdout.split()


def test_what_only_plans_takes_the_dry_run(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launch_here(config, monkeypatch, "--mfu", "0.5")
    assert "--dry_run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--mfu=0", "--mfu=-1", "--mfu=1.1", "--mfu=nan", "--mfu=much", "--gpus=0", "--gpus=-2", "--gpu_memory=0"]
)
def test_what_cannot_be_planned_for_is_refused(
    config: Path, no_start: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    for planned in ([], ["--dry_run"]):
        with pytest.raises(SystemExit):
            launch_here(config, monkeypatch, *planned, flag)
        assert f"argument {flag.split('=')[0]}: " in capsys.readouterr().err
