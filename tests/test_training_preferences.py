"""Stage dpo: what of a pair is scored, TRL's own losses, exact resuming, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN
from datasets import Dataset
from runs import launch_here, losses, recipe, shell, train
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from langadapt.errors import UserError
from langadapt.files import write_json_array
from langadapt.models import conversation, load_tokenizer, user_turn
from langadapt.recipe.preferences import LOSSES
from langadapt.recipe.training import load_training_settings
from langadapt.training.arguments import training_arguments
from langadapt.training.checkpoints import describe_run
from langadapt.training.data import encode_pairs, open_tokens, prepare_tokens
from langadapt.training.methods import prepare_model
from langadapt.training.preferences import PreferenceTrainer, pairs_of, preference_trainer
from langadapt.training.progress import read_log

Interrupt = Callable[[int], None]


@pytest.fixture(scope="module")
def model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that knows its answers, under a template that writes nothing behind an answer: TRL would score it."""
    folder = tmp_path_factory.mktemp("policy") / "sft"
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    AutoModelForCausalLM.from_pretrained(chat_model).save_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    texts = [*TIBETAN, *ENGLISH]
    records = [
        {
            "instruction": CHINESE[i % 4],
            "input": ENGLISH[i % 3] if i % 2 else "",
            "history": [[CHINESE[0], TIBETAN[0]]] if i % 5 == 0 else [],
            "chosen": texts[i % 8],
            "rejected": texts[(i + 3) % 8],
        }
        for i in range(16)
    ]
    write_json_array(folder / "train.json", records)
    write_json_array(folder / "held_out.json", records[:5])
    return folder


def of_pairs(model: Path, pairs: Path, output: Path, **changes: Any) -> Path:
    keys = {"dataset": str(pairs / "train.json"), "cutoff_len": 256, "learning_rate": 3e-4, "beta": 0.3}
    return recipe("dpo", model, pairs, output, **keys | changes)


def conversational(path: Path) -> Dataset:
    from langadapt.files import iter_json_array

    rows = []
    for record in iter_json_array(path):
        *prompt, chosen = conversation({**record, "output": record["chosen"]})
        rejected = {"role": "assistant", "content": record["rejected"]}
        rows.append({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]})
    return Dataset.from_list(rows)


def plain_trl(model: Path, pairs: Path, output: Path, **changes: Any) -> DPOTrainer:
    keys: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "max_steps": 8,
        "logging_steps": 1,
        "beta": 0.3,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "max_length": None,
    }
    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=DPOConfig(output_dir=str(output), **keys | changes),
        train_dataset=conversational(pairs / "train.json"),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def test_what_is_scored_is_the_answer_and_its_end(chat_model: Path, model: Path, pairs: Path, tmp_path: Path) -> None:
    settings = load_training_settings(of_pairs(model, pairs, tmp_path / "out"))
    tokenizer = load_tokenizer(str(model))
    ours = pairs_of(prepare_tokens(settings.dataset, settings, tokenizer, tmp_path / "tokens"))
    theirs = plain_trl(model, pairs, tmp_path / "trl").train_dataset
    for key in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[key] == theirs[key]

    # The usual template has a line break behind an answer. TRL would score it; here it is left out.
    usual = load_tokenizer(str(chat_model))
    record = {"instruction": CHINESE[0], "chosen": TIBETAN[0], "rejected": TIBETAN[1]}
    chosen, rejected = encode_pairs([record], usual, "test")
    for (ids, learned), answer in ((chosen, TIBETAN[0]), (rejected, TIBETAN[1])):
        assert usual.decode(ids[learned]) == answer + "<|im_end|>"
        assert usual.decode(ids[~learned]).endswith(user_turn(record) + "<|im_end|>\n<|im_start|>assistant\n")
        assert learned[-1]


def test_steps_are_those_of_plain_trl(model: Path, pairs: Path, tmp_path: Path) -> None:
    output = train(of_pairs(model, pairs, tmp_path / "ours", save_strategy="no"))
    trl = plain_trl(model, pairs, tmp_path / "trl")
    trl.train()
    log = [record for record in trl.state.log_history if "loss" in record]
    assert losses(output) == [(r["step"], pytest.approx(r["loss"], rel=1e-4)) for r in log]
    for name in ("rewards/margins", "rewards/accuracies", "grad_norm"):
        assert [r[name] for r in read_log(output)] == pytest.approx([r[name] for r in log], rel=1e-3, abs=1e-5)
    ours, theirs = load_file(output / "model.safetensors"), trl.model.state_dict()
    assert all(torch.allclose(weight, theirs[name], atol=1e-5) for name, weight in ours.items())


def test_evaluation_is_the_formula(model: Path, pairs: Path, tmp_path: Path) -> None:
    changes = {"eval_dataset": str(pairs / "held_out.json"), "eval_strategy": "steps", "eval_steps": 8}
    changes |= {"per_device_eval_batch_size": 2, "finetuning_type": "lora", "learning_rate": 3e-3}
    output = train(of_pairs(model, pairs, tmp_path / "out", **changes))
    logged = read_log(output)[-1]

    rows = plain_trl(model, pairs, tmp_path / "trl").train_dataset.select(range(5))
    policy, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (output, model))

    def log_probability(network: Any, prompt: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())

    rewards = np.array(
        [
            [
                0.3
                * (
                    log_probability(policy, row["prompt_ids"], row[key])
                    - log_probability(base, row["prompt_ids"], row[key])
                )
                for key in ("chosen_ids", "rejected_ids")
            ]
            for row in rows
        ]
    )
    margins = rewards[:, 0] - rewards[:, 1]
    assert logged["eval_loss"] == pytest.approx(float(np.log1p(np.exp(-margins)).mean()), abs=1e-4)
    assert logged["eval_rewards/margins"] == pytest.approx(margins.mean(), abs=1e-3)
    assert logged["eval_rewards/accuracies"] == pytest.approx((margins > 0).mean())
    assert logged["eval_pairs"] == 5
    assert not (output / "adapter" / "ref").exists()


@pytest.mark.parametrize(
    "method", ["full", *(pytest.param(each, marks=pytest.mark.slow) for each in ("lora", "qlora"))]
)
def test_the_reference_is_the_same_measured_before_or_in_every_step(
    model: Path, pairs: Path, tmp_path: Path, method: str
) -> None:
    common = {"finetuning_type": method, "save_strategy": "no", "max_steps": 3}
    before = train(of_pairs(model, pairs, tmp_path / "before", **common))
    during = train(of_pairs(model, pairs, tmp_path / "during", precompute_ref_log_probs=False, **common))
    assert losses(during) == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in losses(before)]


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_bit(
    model: Path, pairs: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "finetuning_type": method,
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 3,
        "save_steps": 100,
    }
    changes |= {"eval_dataset": str(pairs / "held_out.json"), "eval_strategy": "steps", "eval_steps": 4}
    changes |= {"per_device_eval_batch_size": 2}
    whole = train(of_pairs(model, pairs, tmp_path / "whole", **changes))

    plain, calls = PreferenceTrainer.compute_ref_log_probs, []

    def killed_at_the_fifth(self: PreferenceTrainer, *args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(self, *args)

    config = of_pairs(model, pairs, tmp_path / "cut", **changes)
    monkeypatch.setattr(PreferenceTrainer, "compute_ref_log_probs", killed_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    step = PreferenceTrainer.training_step

    def asked_to_stop(self: PreferenceTrainer, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 4:
            self._asked_to_stop.set()
        return step(self, *args, **options)

    monkeypatch.setattr(PreferenceTrainer, "training_step", asked_to_stop)
    with pytest.raises(SystemExit):
        train(config)
    assert len(calls) == 5 + 4 + 3  # of 8 and 3 batches, those that were not measured before
    monkeypatch.setattr(PreferenceTrainer, "training_step", step)
    output = train(config)
    assert len(calls) == 12
    kept = (
        "step",
        "loss",
        "eval_loss",
        "grad_norm",
        "rewards/margins",
        "rewards/chosen",
        "logps/rejected",
        "tokens_seen",
    )
    logs = [[{key: record.get(key) for key in kept} for record in read_log(folder)] for folder in (whole, output)]
    assert logs[0] == logs[1]
    weights = [load_file(folder / "model.safetensors") for folder in (whole, output)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.fixture(scope="module")
def trainer(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> PreferenceTrainer:
    """A trainer whose model has moved away from its reference."""
    folder = tmp_path_factory.mktemp("losses")
    settings = load_training_settings(of_pairs(model, pairs, folder / "out"))
    tokenizer = load_tokenizer(str(model))
    prepare_tokens(settings.dataset, settings, tokenizer, folder / "tokens")
    made = preference_trainer(
        settings,
        tokenizer,
        prepare_model(settings, tokenizer),
        training_arguments(settings),
        {"train": folder / "tokens", "eval": None},
        0,
        describe_run(settings, "", 1),
    )
    torch.manual_seed(0)
    for parameter in made.model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return made


def test_losses_are_their_formulas(trainer: PreferenceTrainer) -> None:
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    del batch["num_tokens"]
    with torch.no_grad():
        logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].double()
    scored = batch["completion_mask"][:, 1:].double()
    own = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    sums, lengths = (own * scored).sum(1).numpy(), scored.sum(1).numpy()
    reference = torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]).double().numpy()
    ratio, mean = sums - reference, (sums - reference) / lengths
    margin, per_token = 0.3 * (ratio[:4] - ratio[4:]), mean[:4] - mean[4:]
    assert np.abs(margin).min() > 0.01
    cost, flipped = np.log1p(np.exp(-margin)), np.log1p(np.exp(margin))
    expected = {
        "sigmoid": cost,
        "hinge": np.maximum(0, 1 - margin),
        "ipo": (per_token - 1 / 0.6) ** 2,
        "robust": (0.9 * cost - 0.1 * flipped) / 0.8,
        "bco_pair": np.log1p(np.exp(-0.3 * ratio[:4])) + np.log1p(np.exp(0.3 * ratio[4:])),
        "apo_zero": 1 - 1 / (1 + np.exp(-0.3 * ratio[:4])) + 1 / (1 + np.exp(-0.3 * ratio[4:])),
    }
    trainer.label_smoothing = 0.1
    for name, values in expected.items():
        trainer.loss_types = [name]
        with torch.no_grad():
            loss = float(trainer.compute_loss(trainer.model, {**batch, "num_tokens": torch.tensor([1])}))
        assert loss == pytest.approx(values.mean(), rel=1e-4), name


def test_every_loss_of_trl_can_be_named_and_no_other(trainer: PreferenceTrainer) -> None:
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    trainer.label_smoothing, trainer.loss_types = 0.1, ["no loss"]
    with pytest.raises(ValueError, match="Unknown loss type") as refused:
        trainer.compute_loss(trainer.model, dict(batch))
    listed = str(refused.value).partition("[")[2].rstrip("]'").replace("'", "").split(", ")
    assert listed == list(LOSSES)
    for name in LOSSES:
        trainer.loss_types = [name]
        assert math.isfinite(float(trainer.compute_loss(trainer.model, dict(batch))))


def test_pairs_that_are_too_long_are_left_out_whole_and_counted(model: Path, pairs: Path, tmp_path: Path) -> None:
    records = [
        {"instruction": "x", "chosen": "a", "rejected": "b"},
        {"instruction": "x", "chosen": "a", "rejected": "b " * 200},
        {"instruction": "x", "chosen": "a " * 200, "rejected": "b"},
    ]
    write_json_array(tmp_path / "train.json", records)
    settings = load_training_settings(of_pairs(model, tmp_path, tmp_path / "out", cutoff_len=64))
    tokens = prepare_tokens(settings.dataset, settings, load_tokenizer(str(model)), tmp_path / "tokens")
    assert (tokens.counts.records, tokens.counts.too_long, len(tokens.pieces), len(tokens.blocks)) == (1, 2, 3, 2)

    write_json_array(tmp_path / "bad.json", [records[0], {"instruction": "x", "chosen": "a"}])
    with pytest.raises(UserError, match=r"bad.json, record 2: expected a text in `rejected`"):
        prepare_tokens(str(tmp_path / "bad.json"), settings, load_tokenizer(str(model)), tmp_path / "bad")
    assert open_tokens(tmp_path / "tokens").counts == tokens.counts


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("sft", {"beta": 0.2}, "stage is sft, and beta belong to dpo"),
        ("dpo", {"packing": "isolated"}, "stage is dpo, and packing is isolated"),
        ("dpo", {"lora_dropout": 0.1, "finetuning_type": "lora"}, "without dropout"),
        ("dpo", {"loss_type": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing is for robust"),
        ("dpo", {"loss_type": "sigmoid,sft", "loss_weights": [1.0]}, "1 loss_weights for 2 losses"),
        ("dpo", {"loss_type": "dpo"}, "'sigmoid', 'hinge', 'ipo'"),
    ],
)
def test_contradictory_keys(
    model: Path, pairs: Path, tmp_path: Path, stage: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load_training_settings(recipe(stage, model, pairs, tmp_path / "out", **changes))


def test_defaults_are_those_of_preferences(model: Path, pairs: Path, tmp_path: Path) -> None:
    config = of_pairs(model, pairs, tmp_path / "out", loss_type="sigmoid, sft", loss_weights=[1.0, 0.2])
    config.write_text(config.read_text().replace("learning_rate: 0.0003\n", ""))
    settings = load_training_settings(config)
    arguments = training_arguments(settings)
    assert (arguments.learning_rate, arguments.loss_type, arguments.precompute_ref_log_probs) == (
        1e-6,
        ["sigmoid", "sft"],
        True,
    )
    assert not arguments.activation_checkpointing
    assert "beta" in settings.resolved()
    assert "beta" not in load_training_settings(recipe("sft", model, pairs, tmp_path / "sft")).resolved()


def test_dry_run_says_what_it_would_train_on(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = of_pairs(model, pairs, tmp_path / "out", precompute_ref_log_probs=False)
    launch_here(config, monkeypatch, "--dry_run")
    said = capsys.readouterr().out
    assert "16 pairs of a chosen and a rejected answer" in said
    assert "sigmoid, beta 0.3; reference: " in said
    assert "= 4 pairs," in said
    assert "\n          reference " in said


@pytest.mark.slow
@pytest.mark.parametrize("shared", [{}, {"deepspeed": "configs/deepspeed/zero2.json"}], ids=["plain", "zero-2"])
def test_two_ranks_take_the_steps_of_one(model: Path, pairs: Path, tmp_path: Path, shared: dict[str, Any]) -> None:
    changes = {"eval_dataset": str(pairs / "held_out.json"), "eval_strategy": "steps", "eval_steps": 4}
    changes |= {"per_device_eval_batch_size": 2, "save_strategy": "no", "max_steps": 4}
    one = train(of_pairs(model, pairs, tmp_path / "one", **changes))
    config = of_pairs(model, pairs, tmp_path / "two", **changes | shared | {"gradient_accumulation_steps": 1})
    process = shell("3_train_sft.sh", config, ranks=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for alone, together in zip(read_log(one), read_log(tmp_path / "two"), strict=True):
        for key in ("loss", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "tokens_seen"):
            assert together.get(key) == (pytest.approx(alone[key], rel=1e-4) if key in alone else None)
