"""What each training method moves and what it leaves, and that what it writes is the model it trained."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CHINESE, ENGLISH, TIBETAN
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from runs import losses, recipe, train
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from langadapt.errors import UserError
from langadapt.files import write_json_array
from langadapt.models import check_model_folder, find_model, is_chat_model, load_model, load_tokenizer
from langadapt.models.adapters import merge_adapter, open_adapter
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training import __main__ as stage
from langadapt.training import launch, trainer
from langadapt.training.loss import loss_obstacle
from langadapt.training.methods import check_method, count_parameters, prepare_model
from langadapt.training.progress import read_log

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH]
VOCABULARY, OLD_ROWS, WIDTH = 400, 390, 32
IDS = torch.cat([torch.arange(3, 50), torch.arange(OLD_ROWS - 5, VOCABULARY)])[None]
Run = Callable[..., Path]


def settings_for(model: Path | str, *overrides: str) -> TrainingSettings:
    required = ["stage=pt", "dataset=d", "cutoff_len=64", "output_dir=o", f"model_name_or_path={model}"]
    return load_training_settings(None, [*required, *overrides])


def problem(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        settings_for("m", *overrides)
    return str(caught.value)


def two_steps(model: Any, weight_decay: float = 0.0) -> None:
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=weight_decay
    )
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="session")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train by a recipe of four steps with checkpoints at 2 and 4, in this process; return the output folder."""
    data = tmp_path_factory.mktemp("data")
    write_json_array(data / "pt.json", [{"text": " ".join(TEXTS[i % 12 : i % 12 + 3])} for i in range(60)])
    pairs = [{"instruction": TEXTS[i % 12], "input": "", "output": TEXTS[(i + 5) % 12]} for i in range(24)]
    write_json_array(data / "sft.json", pairs)

    def train(output: Path, **changes: Any) -> Path:
        keys = {
            "stage": "pt",
            "dataset": str(data / f"{changes.get('stage', 'pt')}.json"),
            "output_dir": str(output),
            "cutoff_len": 64,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "max_steps": 4,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
        }
        if "model" not in changes:
            keys["model_name_or_path"] = str(tiny_model)
        config = output.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(keys | changes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["langadapt.training", str(config)])
            patch.setattr(launch, "_start", lambda *_: stage.main())
            launch.main()
        return output

    return train


@pytest.fixture(scope="session")
def lora_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"additional_target": ["embed_tokens"], "adapter_archive": True, "ema_decay": 0.5, "lora_dropout": 0.1}
    return run(tmp_path_factory.mktemp("runs") / "lora", finetuning_type="lora", **options)


# Which parameters move

EMBEDDINGS = {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("overrides", "moves"),
    [
        (["finetuning_type=embeddings"], lambda name: name in EMBEDDINGS),
        (["finetuning_type=freeze", "freeze_trainable_layers=1"], lambda name: ".layers.1." in name),
        (["finetuning_type=freeze", "freeze_trainable_layers=-1"], lambda name: ".layers.0." in name),
        (
            ["finetuning_type=freeze", "freeze_trainable_modules=mlp", "freeze_extra_modules=norm,lm_head"],
            lambda name: ".mlp." in name or name == "model.norm.weight" or name in EMBEDDINGS,
        ),
        (["finetuning_type=full"], lambda name: True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_only_the_chosen_parameters_move(tiny_model: Path, overrides: list[str], moves: Callable[[str], bool]) -> None:
    before = dict(load_model(str(tiny_model)).named_parameters())
    settings = settings_for(tiny_model, *overrides)
    model = prepare_model(settings, load_tokenizer(str(tiny_model)))
    assert loss_obstacle(model) is None
    two_steps(model, weight_decay=0.1)
    after = dict(model.named_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(filter(moves, before))
    sizes = {name: parameter.numel() for name, parameter in before.items()}
    assert count_parameters(model, settings) == (
        sum(sizes[name] for name in filter(moves, before)),
        sum(sizes.values()),
    )


@pytest.mark.parametrize("tied", [True, False])
def test_only_new_rows_of_the_embeddings_move(tiny_model: Path, tmp_path: Path, tied: bool) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    if not tied:
        model = load_model(str(folder))
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH) * 0.02)
        model.save_pretrained(folder)
    (folder / "vocabulary.json").write_text(json.dumps({"old_size": OLD_ROWS}))
    before = load_model(str(folder))
    settings = settings_for(folder, "finetuning_type=embeddings", "embeddings_trained=new")
    model = prepare_model(settings, load_tokenizer(str(folder)))
    two_steps(model)
    for name, parameter in model.named_parameters():
        old, same = before.get_parameter(name), name not in {*EMBEDDINGS, "lm_head.weight"}
        assert torch.equal(parameter[:OLD_ROWS], old[:OLD_ROWS])
        assert torch.equal(parameter[OLD_ROWS:], old[OLD_ROWS:]) == (same or parameter.shape[0] <= OLD_ROWS)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert count_parameters(model, settings)[0] == (VOCABULARY - OLD_ROWS) * WIDTH * (1 if tied else 2)


def test_an_adapter_leaves_its_base_and_is_float32_on_a_bfloat16_one(tiny_model: Path) -> None:
    settings = settings_for(tiny_model, "finetuning_type=lora", "bf16=true", "additional_target=embed_tokens")
    model = prepare_model(settings, load_tokenizer(str(tiny_model)))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        two_steps(model)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


@pytest.mark.parametrize(
    ("overrides", "scaling", "kind"),
    [
        (["lora_rank=4"], 2.0, "lora_A"),
        (["lora_rank=4", "lora_alpha=6", "use_rslora=true"], 6 / math.sqrt(4), "lora_A"),
        (["lora_rank=4", "use_dora=true"], 2.0, "lora_magnitude_vector"),
    ],
)
def test_the_keys_of_lora_reach_peft(tiny_model: Path, overrides: list[str], scaling: float, kind: str) -> None:
    settings = settings_for(tiny_model, "finetuning_type=lora", "lora_target=q_proj,up_proj", *overrides)
    model = prepare_model(settings, load_tokenizer(str(tiny_model)))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    assert {name.split(".")[-1] for name in layers} == {"q_proj", "up_proj"}
    assert {layer.scaling["default"] for layer in layers.values()} == {scaling}
    assert all(any(kind in name for name, _ in layer.named_parameters()) for layer in layers.values())
    assert {layer.lora_A["default"].weight.shape[0] for layer in layers.values()} == {4}


# What is written


def test_the_finished_model_is_the_adapted_one_and_stays_tied(lora_run: Path, tiny_model: Path) -> None:
    """Embeddings trained beside an adapter, merged, saved and opened by the library: transformers #45127."""
    finished = AutoModelForCausalLM.from_pretrained(lora_run)
    assert finished.lm_head.weight is finished.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(lora_run / "model.safetensors")
    adapted = open_adapter(lora_run / "adapter")
    torch.testing.assert_close(logits(finished), logits(adapted), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(finished), logits(load_model(str(tiny_model))), atol=1e-3)
    assert (logits(merge_adapter(lora_run / "adapter")) - logits(finished)).abs().max() == 0
    with zipfile.ZipFile(lora_run / "adapter.zip") as archive:
        assert set(archive.namelist()) == {f"adapter/{path.name}" for path in (lora_run / "adapter").iterdir()}
    assert {path.stat().st_mode & 0o777 for path in (lora_run / "adapter").iterdir()} == {
        lora_run.stat().st_mode & 0o666
    }


def test_stages_open_a_checkpoint_that_is_an_adapter(run: Run, tmp_path: Path) -> None:
    output = run(tmp_path / "run", stage="sft", finetuning_type="lora", use_dora=True)
    checkpoint = str(output / "checkpoint-4")
    assert not (output / "checkpoint-4" / "config.json").exists()
    model, tokenizer = load_model(checkpoint, torch.bfloat16), load_tokenizer(checkpoint)
    assert model.dtype == torch.bfloat16
    assert is_chat_model(tokenizer, model.generation_config)
    finished = load_model(str(output))
    assert is_chat_model(tokenizer, finished.generation_config)
    torch.testing.assert_close(logits(load_model(checkpoint)), logits(finished), rtol=0, atol=0)


def test_an_adapter_that_cannot_be_used_says_why(lora_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lora_run / "adapter", tmp_path / "adapter"))
    with pytest.raises(UserError, match="an adapter, not a model"):
        check_model_folder(folder)
    (folder / "tokenizer.json").unlink()
    assert len(load_tokenizer(str(folder))) == VOCABULARY
    weights = load_file(folder / "adapter_model.safetensors")
    first = next(name for name in weights if "lora_B" in name)
    torch.save(weights, folder / "adapter_model.bin")

    save_file({name: tensor for name, tensor in weights.items() if name != first}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="1 weights of the adapter are missing"):
        load_model(str(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="never opened"):
        find_model(str(folder))
    shutil.copy(lora_run / "adapter" / "adapter_model.safetensors", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "saves/gone/base"}))
    with pytest.raises(UserError, match=r"base cannot be used: saves/gone/base: no such folder"):
        load_model(str(folder))


@pytest.mark.parametrize("targets", [["embed_tokens", "lm_head"], ["lm_head"], ["embed_tokens"]])
def test_a_merged_adapter_of_tied_embeddings_computes_what_the_adapter_did(
    tiny_model: Path, tmp_path: Path, targets: list[str]
) -> None:
    """PEFT itself would add both changes to the one tensor; ours never trains such an adapter, but opens it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load_model(str(tiny_model)), LoraConfig(task_type="CAUSAL_LM", target_modules=targets))
        two_steps(model)
        model.save_pretrained(tmp_path / "adapter")
        merged = merge_adapter(tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged"))), logits(model), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=f"additional_target: {targets[0]}"):
        prepare_model(
            settings_for(tiny_model, "finetuning_type=lora", f"lora_target=q_proj,{','.join(targets)}"),
            load_tokenizer(str(tiny_model)),
        )


def test_qlora_trains_on_four_bits_and_merges_into_the_unquantised_base(
    run: Run, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tiny_model, "finetuning_type=qlora", "quantization_type=fp4", "double_quantization=false")
    model = prepare_model(settings, load_tokenizer(str(tiny_model)))
    weight = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
    assert (weight.dtype, weight.quant_state.quant_type, weight.quant_state.nested) == (torch.uint8, "fp4", False)
    assert loss_obstacle(model) is None
    base = load_model(str(tiny_model))
    assert count_parameters(model, settings)[1] == base.num_parameters() + count_parameters(model, settings)[0]

    capfd.readouterr()
    output = run(tmp_path / "run", finetuning_type="qlora", lora_rank=2)
    assert "Paged" not in capfd.readouterr().err
    assert load_training_settings(output / "training_settings.yaml").trainer_keys()["optim"] == "paged_adamw_8bit"
    finished = AutoModelForCausalLM.from_pretrained(output)
    for name, parameter in finished.named_parameters():
        change = parameter.detach() - base.get_parameter(name).detach()
        if name.endswith("proj.weight"):
            # Weights rounded to 4 bits would differ from the base in every direction.
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
        else:
            assert change.abs().max() == 0


def test_an_evaluation_leaves_a_base_in_four_bits_as_it_was(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some CPUs bitsandbytes would lay the weights out for inference, for good: no gradient passes those."""
    settings = settings_for(tiny_model, "finetuning_type=qlora")
    with monkeypatch.context() as patch:
        patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
        model = prepare_model(settings, load_tokenizer(str(tiny_model)))
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in model.modules())
    keys = {"finetuning_type": "qlora", "learning_rate": 1e-2, "logging_steps": 1}
    plain = recipe("pt", tiny_model, data, tmp_path / "plain", **keys)
    keys |= {"eval_dataset": str(data / "cpt.json"), "eval_strategy": "steps", "eval_steps": 2}
    evaluated = recipe("pt", tiny_model, data, tmp_path / "evaluated", **keys)
    assert losses(train(evaluated)) == losses(train(plain))


@pytest.mark.parametrize(
    "changes",
    [
        {"finetuning_type": "lora", "use_rslora": True, "lora_dropout": 0.2, "ema_decay": 0.9},
        {"finetuning_type": "qlora"},
        {"finetuning_type": "embeddings", "embeddings_trained": "new", "new_rows_from": OLD_ROWS},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "bf16": True, "ema_decay": 0.9},
        {"average_last_checkpoints": 2},
    ],
    ids=lambda changes: changes.get("finetuning_type", "full"),
)
def test_resuming_gives_the_same_model_to_the_last_bit(run: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = run(tmp_path / "straight", **changes)
    again = tmp_path / "again"
    for lost in ("checkpoint-4", None):  # in the middle, and when only the finished model is missing
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(straight, again, ignore=shutil.ignore_patterns("config.json", "model.safetensors", str(lost)))
        for path in again.glob("checkpoint-*"):
            shutil.rmtree(path)
            shutil.copytree(straight / path.name, path)
        run(again, **changes)
        assert [r["loss"] for r in read_log(again)] == [r["loss"] for r in read_log(straight)]
        assert (again / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


# From nothing


@pytest.mark.parametrize("from_file", [False, True])
def test_a_new_model_has_the_size_it_was_asked_for(run: Run, tiny_model: Path, tmp_path: Path, from_file: bool) -> None:
    config: Any = {
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    if from_file:
        (tmp_path / "config.json").write_text(json.dumps(config))
        config = str(tmp_path / "config.json")
    model = {"config": config, "tokenizer": str(tiny_model)}
    first = AutoModelForCausalLM.from_pretrained(run(tmp_path / "first", model=model, seed=3))
    attention, mlp = 48 * 48 * 2 + 48 * 24 * 2, 3 * 48 * 80
    assert first.num_parameters() == VOCABULARY * 48 + 3 * (attention + mlp + 2 * 48) + 48
    assert first.config.model_type == "llama"
    assert len(AutoTokenizer.from_pretrained(tmp_path / "first")) == VOCABULARY
    log = read_log(tmp_path / "first")
    assert log[0]["loss"] == pytest.approx(math.log(VOCABULARY), abs=0.3)
    assert log[-1]["loss"] < log[0]["loss"]
    if not from_file:
        assert ModelCard.load(tmp_path / "first" / "README.md").data.base_model is None


def test_a_new_model_is_drawn_by_its_seed_and_a_misspelt_config_is_refused(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    def first_weight(*overrides: str) -> torch.Tensor:
        model = f"model={{config: {tiny_model}/config.json, tokenizer: {tiny_model}}}"
        settings = settings_for("null", model, *overrides)
        return next(prepare_model(settings, load_tokenizer(settings.tokenizer_source)).parameters())

    assert torch.equal(first_weight("seed=3"), first_weight("seed=3"))
    assert not torch.equal(first_weight("seed=3"), first_weight("seed=4"))
    for config, said in (
        ({"model_type": "llama", "hiden_size": 3}, "mean hidden_size"),
        ({}, "no causal language model"),
    ):
        with pytest.raises(UserError, match=said):
            run(tmp_path / "no", model={"config": config, "tokenizer": str(tiny_model)})


# Averages, noise and smoothing


def test_the_moving_average_is_that_of_the_weights_after_every_step(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    output = run(tmp_path / "run", ema_decay=0.4, save_steps=1)
    average = {name: tensor.double() for name, tensor in load_file(tiny_model / "model.safetensors").items()}
    for step in range(1, 5):
        decay = min(0.4, (1 + step) / (10 + step))
        weights = load_file(output / f"checkpoint-{step}" / "model.safetensors")
        average = {name: decay * average[name] + (1 - decay) * weights[name].double() for name in average}
    finished = load_file(output / "model.safetensors")
    assert finished.keys() == average.keys()
    for name in average:
        torch.testing.assert_close(finished[name].double(), average[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_mean_of_the_last_checkpoints(run: Run, tmp_path: Path, method: str) -> None:
    options = {"average_last_checkpoints": 2, "save_steps": 1, "finetuning_type": method}
    output = run(tmp_path / "run", **options)
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    last = [load_file(output / f"checkpoint-{step}" / file) for step in (3, 4)]
    found = load_file((output if method == "full" else output / "adapter") / file)
    assert found.keys() == last[0].keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (last[0][name] + last[1][name]) / 2, rtol=1e-6, atol=1e-8)
    assert not list(output.glob(".averaging*"))


def test_noise_and_smoothing_give_the_chunked_loss_what_they_give_the_plain_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(name: str, **changes: Any) -> list[float]:
        options: dict[str, Any] = {"finetuning_type": "lora", "label_smoothing_factor": 0.1, "save_steps": 4}
        return [record["loss"] for record in read_log(run(tmp_path / name, **options, **changes))]

    quiet, noisy = losses("quiet"), losses("noisy", neftune_noise_alpha=5.0)
    assert abs(quiet[0] - noisy[0]) > 1e-4
    monkeypatch.setattr(trainer, "loss_obstacle", lambda model: "the test says so")
    assert noisy == pytest.approx(losses("plain", neftune_noise_alpha=5.0), rel=1e-5)


def test_label_smoothing_is_that_of_torch(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    options = {"max_steps": 1, "per_device_train_batch_size": 64, "learning_rate": 1e-9, "save_steps": 1}
    log = [read_log(run(tmp_path / str(e), label_smoothing_factor=e, **options))[0]["loss"] for e in (0.0, 0.2)]
    model = load_model(str(tiny_model))
    uniform = functional.cross_entropy(logits(model)[0], IDS[0], label_smoothing=1.0)
    assert log[1] - 0.8 * log[0] == pytest.approx(0.2 * float(uniform), rel=1e-2)


# What is said


def test_a_key_of_another_method_is_an_error_that_names_both() -> None:
    said = problem("lora_rank=4", "freeze_trainable_layers=3", "double_quantization=false")
    assert "3 problems" in said
    assert "`lora_rank` is 4: finetuning_type is full, and this is a key of lora and qlora" in said
    assert "`double_quantization` is False: finetuning_type is full, and this is a key of qlora" in said
    assert "embeddings_trained is all" in problem("finetuning_type=embeddings", "new_rows_from=3")
    assert "ema_decay is set as well" in problem("ema_decay=0.9", "average_last_checkpoints=2")
    assert "save_total_limit keeps only 2" in problem("average_last_checkpoints=3", "save_total_limit=2")
    assert "weight_decay would move" in problem(
        "finetuning_type=embeddings", "embeddings_trained=new", "new_rows_from=3", "weight_decay=0.1"
    )
    new = "model={config: {model_type: llama}, tokenizer: t}"
    assert "both are there" in problem(new)
    assert "neither is there" in problem("model_name_or_path=null")
    assert "a new model has no weights to keep" in problem("model_name_or_path=null", new, "finetuning_type=lora")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["finetuning_type=lora", "lora_target=q_prj"], "has no module q_prj. It has: .*q_proj"),
        (["finetuning_type=freeze", "freeze_trainable_layers=3"], "has 2 layers"),
        (["finetuning_type=freeze", "freeze_trainable_modules=mpl"], "has no module mpl"),
        (["finetuning_type=embeddings", "embeddings_trained=new", "new_rows_from=400"], "has only 400 rows"),
        (["finetuning_type=embeddings", "embeddings_trained=new"], "Set new_rows_from"),
    ],
)
def test_what_a_model_does_not_have_is_named(tiny_model: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        prepare_model(settings_for(tiny_model, *overrides), load_tokenizer(str(tiny_model)))


def test_what_a_method_lacks_is_said_before_a_model_is_loaded(lora_run: Path) -> None:
    with pytest.raises(UserError, match="an adapter, not a model"):
        check_method(settings_for(lora_run / "adapter"), sharded=False)
    with pytest.raises(UserError, match="ema_decay needs whole weights"):
        check_method(settings_for("m", "ema_decay=0.9"), sharded=True)


def test_the_resolved_settings_of_every_method_are_a_recipe(tmp_path: Path) -> None:
    for method in ("full", "lora", "qlora", "embeddings", "freeze"):
        settings = settings_for("m", f"finetuning_type={method}")
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(settings.resolved()))
        assert load_training_settings(tmp_path / "again.yaml").resolved() == settings.resolved()


def test_the_cards_say_what_the_model_was_made_from(lora_run: Path) -> None:
    for folder, library in ((lora_run, "transformers"), (lora_run / "adapter", "peft")):
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == library
        assert {"lora", "continual-pretraining"} <= set(card.data.tags)
        sha = json.loads((lora_run / "training_run.json").read_text())["dataset_sha256"]
        for said in (
            sha,
            "finetuning_type: lora",
            "## Limits",
            f"{read_log(lora_run)[-1]['loss']:.4f}",
            "Trained param",
        ):
            assert said in card.text
