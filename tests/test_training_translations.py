"""stage: seq2seq: the data, the loss against transformers' own, and runs of every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from runs import bytes_saved, launch_here, losses, recipe, shell, train
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from translators import FAMILIES, make_translators, place_names, seq2seq_keys, write_records

from langadapt.errors import UserError
from langadapt.models import IGNORE, load_model
from langadapt.models.translation import TRANSLATION_FILE, load_translation_tokenizer
from langadapt.recipe.training import load_training_settings
from langadapt.training.costs import flops_of_translations, pairs_of_translations
from langadapt.training.data import Tokens, open_tokens, prepare_tokens
from langadapt.training.dry_run import flops_of_epoch
from langadapt.training.memory import fake_model, forecast_memory
from langadapt.training.metering import TranslationMeter
from langadapt.training.methods import keep_all_layers, prepare_model
from langadapt.training.packing import describe, show_block
from langadapt.training.progress import read_log
from langadapt.training.sampling import LengthGroupedSampler
from langadapt.training.translations import TranslationCollator, Translations
from langadapt.training.translator_loss import TranslatorLoss


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_translators(tmp_path_factory.mktemp("translators"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("data") / "sft.json", place_names(40), others=2)


def encoded(model: Path, records: Path, folder: Path, **changes: Any) -> tuple[Any, Tokens]:
    keys = seq2seq_keys(dataset=str(records), packing="none", **changes)
    config = recipe("seq2seq", model, records.parent, folder / "run", **keys)
    settings = load_training_settings(config)
    tokenizer = load_translation_tokenizer(str(model))
    return tokenizer, prepare_tokens(str(records), settings, tokenizer, folder / "tokens")


def batch_of(model: Any, tokens: Tokens, count: int = 6) -> dict[str, torch.Tensor]:
    examples = Translations(tokens)
    collate = TranslationCollator(model.config.pad_token_id, model.config.decoder_start_token_id)
    return collate([examples[index] for index in range(count)])


def test_pieces_are_source_and_target(translators: dict[str, Path], records: Path, tmp_path: Path) -> None:
    tokenizer, tokens = encoded(translators["m2m100"], records, tmp_path)
    examples = Translations(tokens)
    english, french = place_names(40)[3]
    assert examples[3]["input_ids"].tolist() == tokenizer.encode_source([english], "en", "fr")[0]
    assert examples[3]["labels"].tolist() == tokenizer.encode_target([french], "fr")[0]
    assert len(examples) == 40
    assert tokens.counts.directions == {"en-fr": 40}
    said = list(describe(tokens, 64, "none"))
    assert "directions: en-fr 40" in said
    assert "42 records of another task, or out of a language not in source_languages, left out" in said
    first = place_names(1)[0]
    assert show_block(tokens, tokenizer) == f"  [1] «__en__ {first[0]}</s>»__fr__ {first[1]}</s>"
    assert np.array_equal(open_tokens(tmp_path / "tokens").ids, tokens.ids)


def test_cutoff_holds_for_each_side(translators: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = load_translation_tokenizer(str(translators["marian"]))
    pairs = [("Chad", "Tchad"), ("Chad", "Tchad " * 5), ("Chad " * 5, "Tchad")]
    sides = [len(tokenizer.encode_target([text], "fr")[0]) for _, text in pairs]
    read = [len(tokenizer.encode_source([text], "en", "fr")[0]) for text, _ in pairs]
    cutoff = max(sides[0], read[0])
    assert cutoff < min(sides[1], read[2])
    records = write_records(tmp_path / "sft.json", pairs)
    _, tokens = encoded(translators["marian"], records, tmp_path, cutoff_len=cutoff)
    assert (tokens.counts.records, tokens.counts.too_long) == (1, 2)
    assert len(tokens.ids) == sides[0] + read[0]  # together longer than the cutoff, and whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": "isolated"}, "packing: none"),
        ({"template": "chatml"}, "template is set"),
        ({"stage": "sft", "source_languages": ["en"]}, "source_languages is a key of seq2seq"),
        ({"source_languages": ["xx"]}, "no profile for the language 'xx'"),
        ({"new_languages": {"bo": {"token": "bo_CN"}}}, "`new_languages.bo.like` is missing"),
        ({"early_stopping_patience": 2}, "it takes eval_dataset"),
        ({"load_best_model_at_end": True}, "Set `early_stopping_patience`"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = recipe("seq2seq", tmp_path, tmp_path, tmp_path / "run", **(seq2seq_keys() | changes))
    with pytest.raises(UserError) as caught:
        load_training_settings(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(
    family: str, translators: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    _, tokens = encoded(translators[family], records, tmp_path)
    model = load_model(str(translators[family]))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    batch = batch_of(model, tokens)
    del batch["num_tokens"]
    labels = batch["labels"]
    shifted = batch.pop("decoder_input_ids")
    own = model(**batch, use_cache=False)  # with the model's own shift
    own.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    del batch["labels"]
    loss = TranslatorLoss(model, chunk=5)
    with loss.of(labels):
        outputs = model(**batch, decoder_input_ids=shifted, use_cache=False)
    ours = loss(outputs, labels)
    ours.backward()
    torch.testing.assert_close(ours, own.loss)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name, atol=1e-6, rtol=1e-4)

    smoothed = TranslatorLoss(model, label_smoothing=0.1, chunk=5)
    count = int((labels != IGNORE).sum())
    with smoothed.of(labels, 2 * count), torch.no_grad():
        outputs = model(**batch, decoder_input_ids=shifted, use_cache=False)
    logits = own.logits.flatten(0, 1)
    wanted = functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(smoothed(outputs, labels, 2 * count), wanted / 2)
    plain = TranslatorLoss(model, label_smoothing=0.1)
    plain.obstacle = "tried without chunks"
    with plain.of(labels, 2 * count):
        torch.testing.assert_close(plain(own, labels, 2 * count), wanted / 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_a_plain_seq2seq_trainer(
    family: str, translators: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    """Without accumulation, and so without batches of different length to weigh."""
    config = recipe(
        "seq2seq",
        translators[family],
        records.parent,
        tmp_path / "run",
        **seq2seq_keys(dataset=str(records), gradient_accumulation_steps=1, max_steps=4, save_strategy="no"),
    )
    _, tokens = encoded(translators[family], records, tmp_path)
    output = train(config)
    settings = load_training_settings(config)
    model = prepare_model(settings, load_translation_tokenizer(str(translators[family])))
    arguments = Seq2SeqTrainingArguments(**settings.trainer_keys() | {"output_dir": str(tmp_path / "plain")})
    collate = TranslationCollator(model.config.pad_token_id, model.config.decoder_start_token_id)

    def plain_batch(examples: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        del batch["num_tokens"]
        return batch

    plain = Seq2SeqTrainer(model=model, args=arguments, train_dataset=Translations(tokens), data_collator=plain_batch)
    plain.train()
    model(**plain_batch([Translations(tokens)[0]])).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    wanted = [record["loss"] for record in plain.state.log_history if "loss" in record]
    assert [loss for _, loss in losses(output)] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("family", "method"), [("m2m100", "full"), ("mbart50", "lora"), ("marian", "lora")])
def test_the_finished_model_opens_plainly(
    family: str, method: str, translators: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    keys = seq2seq_keys(dataset=str(records), finetuning_type=method, learning_rate=5e-3)
    if method == "lora":
        keys |= {"lora_rank": 32, "lora_alpha": 64}
    output = train(recipe("seq2seq", translators[family], records.parent, tmp_path / "run", **keys))
    model, loading = AutoModelForSeq2SeqLM.from_pretrained(output, output_loading_info=True)
    assert not loading["missing_keys"]
    own, ours = AutoTokenizer.from_pretrained(output), load_translation_tokenizer(str(output))
    if family != "marian":
        own.src_lang = {"m2m100": "en", "mbart50": "en_XX"}[family]
        assert model.generation_config.forced_bos_token_id == ours.forced_bos_id("fr")
    record = json.loads((output / TRANSLATION_FILE).read_text())
    assert record["directions"] == ["en-fr"]
    assert set(record["language_tokens"]) == (set() if family == "marian" else {"en", "fr"})
    batch = own(["Chad"], return_tensors="pt")
    assert batch["input_ids"].tolist() == ours.encode_source(["Chad"], "en", "fr")
    before, checkpoint = load_model(str(translators[family])), load_model(str(output / "checkpoint-8"))
    answers = [
        each.eval()(**batch, decoder_input_ids=batch["input_ids"]).logits for each in (model, checkpoint, before)
    ]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-4, rtol=1e-4)
    assert (answers[0] - answers[2]).abs().max() > 1e-2
    if method == "lora":
        base = AutoModelForSeq2SeqLM.from_pretrained(translators[family])
        adapted = PeftModel.from_pretrained(base, output / "adapter").eval()
        logits = adapted(**batch, decoder_input_ids=batch["input_ids"]).logits
        torch.testing.assert_close(logits, answers[0], atol=1e-4, rtol=1e-4)
        assert adapted.peft_config["default"].task_type == "SEQ_2_SEQ_LM"
        assert adapted.peft_config["default"].r == 32
    assert [step for step, _ in losses(output)] == list(range(1, 9))


def test_a_run_goes_on_to_the_same_weights(translators: dict[str, Path], records: Path, tmp_path: Path) -> None:
    """Halfway is in the second epoch, whose order is its own."""
    keys = seq2seq_keys(dataset=str(records), eval_dataset=str(records), eval_strategy="steps", eval_steps=4)
    keys |= {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 16}
    whole = train(recipe("seq2seq", translators["nllb"], records.parent, tmp_path / "whole", **keys))
    halves = recipe("seq2seq", translators["nllb"], records.parent, tmp_path / "halves", **keys)
    train(halves, "max_steps=4", "lr_scheduler_type=constant")
    first = load_training_settings(halves).output_dir
    for name in ("config.json", "training_run.json"):
        (Path(first) / name).unlink()
    constant = recipe("seq2seq", translators["nllb"], records.parent, tmp_path / "constant", **keys)
    in_one = train(constant, "lr_scheduler_type=constant")
    train(halves, "lr_scheduler_type=constant")
    one, two = (load_model(str(folder)).state_dict() for folder in (in_one, first))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert losses(in_one) == losses(Path(first))
    evaluated = [record for record in read_log(whole) if "eval_loss" in record]
    assert [record["step"] for record in evaluated] == [4, 8]
    settings = load_training_settings(tmp_path / "whole.yaml")
    model, tokenizer = load_model(str(whole)), load_translation_tokenizer(str(whole))
    tokens = prepare_tokens(str(records), settings, tokenizer, tmp_path / "tokens")
    batch = batch_of(model, tokens, len(Translations(tokens)))
    del batch["num_tokens"]
    assert evaluated[-1]["eval_loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert evaluated[-1]["eval_tokens"] == int((batch["labels"] != IGNORE).sum())


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_two_ranks_that_share_a_translator_learn_as_one(
    translators: dict[str, Path], records: Path, tmp_path: Path, zero: int
) -> None:
    keys = seq2seq_keys(dataset=str(records), max_steps=4, gradient_accumulation_steps=1, save_strategy="no")
    keys["train_sampling_strategy"] = "group_by_length"
    # The scheduler and clipping are the same; dropout is not, so that it is left out.
    config = json.loads((translators["m2m100"] / "config.json").read_text())
    model = tmp_path / "model"
    model.mkdir()
    for path in translators["m2m100"].iterdir():
        (model / path.name).symlink_to(path)
    (model / "config.json").unlink()
    dropouts = {name: 0.0 for name in config if "dropout" in name or "layerdrop" in name}
    (model / "config.json").write_text(json.dumps(config | dropouts))
    one = train(recipe("seq2seq", model, records.parent, tmp_path / "one", **keys, per_device_train_batch_size=4))
    sharded = keys | {"per_device_train_batch_size": 2, "deepspeed": f"configs/deepspeed/zero{zero}.json"}
    two = recipe("seq2seq", model, records.parent, tmp_path / "two", **sharded)
    process = shell("3_train_sft.sh", two, ranks=2)
    said, errors = process.communicate(timeout=400)
    assert process.returncode == 0, said + errors
    # The batches of a step are the same in both, each of two ranks takes half of them.
    assert [loss for _, loss in losses(tmp_path / "two")] == pytest.approx([loss for _, loss in losses(one)], rel=1e-4)
    weights, expected = (load_model(str(folder)).state_dict() for folder in (tmp_path / "two", one))
    for name, weight in expected.items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name


@pytest.mark.parametrize("count", [5, 37, 995, 1_503])
def test_like_lengths_come_together_in_another_order_each_epoch(count: int) -> None:
    lengths = np.random.default_rng(0).permutation(count)
    orders = [list(LengthGroupedSampler(lengths, group=10, seed=7, epoch=lambda k=k: k)) for k in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(count))
        groups = lengths[order[: count // 10 * 10]].reshape(-1, 10)
        if len(groups):
            assert lengths.argmax() in order[:10]
            # Sorted in chunks of a thousand, ten neighbours are ten steps of that chunk apart.
            assert np.ptp(groups, axis=1).mean() < 20 * max(1, count / 1_000)
        if len(groups) > 50:  # the groups themselves are in no order
            assert abs(np.corrcoef(groups.mean(axis=1), np.arange(len(groups)))[0, 1]) < 0.4


def test_an_order_that_knows_no_translations_is_refused(
    translators: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    keys = seq2seq_keys(dataset=str(records), train_sampling_strategy="batch_rebalance")
    with pytest.raises(UserError, match="stage: seq2seq does not know"):
        train(recipe("seq2seq", translators["nllb"], records.parent, tmp_path / "run", **keys))


def test_a_run_takes_the_kind_of_model_that_its_stage_says(
    tiny_model: Path, translators: dict[str, Path], records: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"stage is seq2seq, but .* is a decoder alone: it takes stage: sft"):
        train(recipe("seq2seq", tiny_model, records.parent, tmp_path / "a", **seq2seq_keys(dataset=str(records))))
    with pytest.raises(UserError, match=r"stage is sft, but .* is an encoder-decoder model: it takes stage: seq2seq"):
        train(recipe("sft", translators["nllb"], records.parent, tmp_path / "b", dataset=str(records)))
    keys = seq2seq_keys(dataset=str(records), source_languages=None)
    with pytest.raises(UserError, match="translates en-fr, and only that; asked was fr-en"):
        train(recipe("seq2seq", translators["marian"], records.parent, tmp_path / "c", **keys))


def test_arithmetic_of_a_translation(translators: dict[str, Path]) -> None:
    """Against the multiplications of every layer, forward and backward three times forward."""
    model = load_model(str(translators["marian"]))
    source, target, width, words = 7, 5, 32, model.config.vocab_size
    projection, hidden = width * width, 4 * width
    encoder = source * (4 * projection + 2 * width * hidden) + 2 * width * source**2
    decoder = target * (6 * projection + 2 * width * hidden) + source * 2 * projection
    attended = 2 * width * (target * (target + 1) // 2 + source * target)
    multiplied = 2 * (encoder + decoder + attended) + target * width * words
    matrices = {
        name: weight for name, weight in model.named_parameters() if weight.dim() == 1 or "embed_positions" in name
    }
    pairs = int(pairs_of_translations(model, source, target))
    found = flops_of_translations(model, source, target, pairs)
    small = 6 * max(source, target) * sum(weight.numel() for weight in matrices.values())
    assert 6 * multiplied <= found <= 6 * multiplied + small


def saved_for_backward(config: Any, ids: torch.Tensor) -> int:
    """The bytes that a real step of the real model keeps for its backward pass, but for its weights."""
    model = AutoModelForSeq2SeqLM.from_config(config).train()
    keep_all_layers(model)
    loss, mask = TranslatorLoss(model, 0.1), torch.ones_like(ids)
    mask[0, -3:] = 0
    with loss.of(ids, 1):
        return bytes_saved(model, input_ids=ids, attention_mask=mask, decoder_input_ids=ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_forecast_activations_are_what_a_real_step_saves(
    translators: dict[str, Path], records: Path, tmp_path: Path, family: str
) -> None:
    """A layer more, of encoder and decoder, saves as much more; what one operation needs for a moment is the same.

    mBART's and Marian's decoders then need no mask, which takes seeing that there is no padding: one is counted.
    """
    keys = seq2seq_keys(dataset=str(records), cutoff_len=64)
    settings = load_training_settings(recipe("seq2seq", translators[family], tmp_path, tmp_path / "run", **keys))
    size = settings.model_dump()["per_device_train_batch_size"]
    ids = torch.full((size, settings.cutoff_len), 7)
    held, saved = [], []
    for layers in (4, 8):
        config = AutoConfig.from_pretrained(translators[family], encoder_layers=layers, decoder_layers=layers)
        model = fake_model(settings, config)
        forecast = forecast_memory(settings, model, ranks=1, on_gpu=False).forward_and_backward
        held.append(forecast["activations"] + forecast["logits"])
        saved.append(saved_for_backward(config, ids))
    counted = (held[1] - held[0]) / (saved[1] - saved[0])
    assert counted == pytest.approx(1) if family in ("m2m100", "nllb") else 1 < counted < 1.05
    if model.config.attention_dropout:  # whose matrices a GPU's kernels do not keep
        on_gpu = forecast_memory(settings, model, ranks=1, on_gpu=True).forward_and_backward
        matrices = 4 * size * model.config.encoder_attention_heads * settings.cutoff_len**2
        assert on_gpu["activations"] < forecast["activations"] - 3 * layers * matrices


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_dry_run_knows_steps_tokens_and_arithmetic_of_the_run(
    translators: dict[str, Path],
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    drop_last: bool,
) -> None:
    keys = seq2seq_keys(dataset=str(records), max_steps=-1, num_train_epochs=2, dataloader_drop_last=drop_last)
    keys |= {"per_device_train_batch_size": 7, "train_sampling_strategy": "sequential", "logging_steps": 1}
    keys["new_languages"] = {"bo": {"token": "__bo__", "like": "fr"}}
    config = recipe("seq2seq", translators["m2m100"], records.parent, tmp_path / "run", **keys)
    launch_here(config, monkeypatch, "--dry_run")
    said = capsys.readouterr().out
    assert not (tmp_path / "run" / "config.json").exists()
    assert "40 translations, " in said

    settings = load_training_settings(config)
    tokenizer = load_translation_tokenizer(str(translators["m2m100"]))
    tokens = prepare_tokens(str(records), settings, tokenizer, tmp_path / "tokens")
    collated = TranslationCollator(0, 0)([Translations(tokens)[index] for index in range(40)])
    meter = TranslationMeter(load_model(str(translators["m2m100"])), torch.device("cpu"), torch.float32)
    meter.count(dict(collated))
    per_epoch = meter._flops(*(int(meter._counts[k]) for k in (0, 2, 3)))
    assert flops_of_epoch(settings, meter.model, tokens) == pytest.approx(per_epoch)
    train(config)
    logged = read_log(tmp_path / "run")[-1]
    assert f"{logged['step']:,}, {logged['step'] // 2:,} an epoch; " in said
    if not drop_last:
        assert f" an epoch; {logged['tokens_seen']:,} tokens in all" in said
    launch_here(config, monkeypatch, "--dry_run")  # of a run whose base with new languages is there
    assert "the extended base" in capsys.readouterr().out
