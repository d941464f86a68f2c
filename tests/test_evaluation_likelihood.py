"""Bits per byte against the lm-evaluation-harness itself, and against a plain loop in double precision."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.likelihood import measure_likelihood
from langadapt.evaluation.results import Likelihood
from langadapt.evaluation.test_sets import TextSet
from langadapt.models import encode_text, load_model, load_tokenizer
from langadapt.models.likelihood import document_log_likelihoods, prefix_token_id, windows
from langadapt.text import units

TEXTS = [*TIBETAN, "".join(TIBETAN) * 3, *CHINESE, *ENGLISH, "x"]
REAL_TEXT = REPOSITORY.parent / "shared/data/bo_zh_en.jsonl"

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture
def tiny(tiny_model: Path) -> Loaded:
    """The tiny model, its logits scaled up to be as far apart as a trained model's."""
    model = load_model(str(tiny_model))
    model.base_model.norm.weight.data.mul_(50)
    return model, load_tokenizer(str(tiny_model))


def text_set(texts: list[str], language: str = "bo") -> TextSet:
    return TextSet("held_out", language, [f"{number:03}" for number in range(len(texts))], texts)


def measure(loaded: Loaded, texts: TextSet, **changes: Any) -> Likelihood:
    options = {"max_length": 64, "stride": None, "token_budget": 600, "resamples": 100}
    return measure_likelihood(*loaded, texts, **(options | changes))[0]


def brute_force(
    model: PreTrainedModel, documents: list[list[int]], prefix: int, length: int, stride: int
) -> list[float]:
    """The log-likelihood of each document in float64: every token predicted by a forward pass of its own."""
    totals = []
    for ids in documents:
        total = 0.0
        for position, token in enumerate(ids):
            end = min(length + math.ceil(max(0, position + 1 - length) / stride) * stride, len(ids))
            inputs = [prefix, *ids][max(0, end - length) : position + 1]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([inputs])).logits[0, -1].double()
            total += logits.log_softmax(-1)[token].item()
        totals.append(total)
    return totals


def real_texts() -> list[str]:
    if not REAL_TEXT.is_file():
        return []
    lines = REAL_TEXT.read_text(encoding="utf-8").split("\n")[:300:30]
    return [json.loads(line)[language] for line in lines for language in ("bo", "zh", "en")]


def in_the_harness(loaded: Loaded, texts: list[str], max_length: int, folder: Path) -> dict[str, float]:
    """What lm-evaluation-harness reports for a task of these texts, from reading the file to the last sum."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `dev`)")
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    data = folder / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    metrics = ["bits_per_byte", "byte_perplexity"]
    task = {
        "task": "held_out",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder)},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": metric} for metric in metrics],
    }
    model, tokenizer = loaded
    judge = HFLM(pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=3, device="cpu")
    results = lm_eval.evaluate(judge, {"held_out": ConfigurableTask(config=task)}, bootstrap_iters=0)["results"][
        "held_out"
    ]
    return {metric: results[f"{metric},none"] for metric in metrics}


@pytest.mark.parametrize("max_length", [16, 512])
@pytest.mark.parametrize("real", [False, True], ids=["short texts", "real text"])
def test_equal_to_the_lm_evaluation_harness(tiny: Loaded, max_length: int, real: bool, tmp_path: Path) -> None:
    texts = real_texts() if real else TEXTS
    if not texts:
        pytest.skip("the real text is not in ../shared/data")
    theirs = in_the_harness(tiny, texts, max_length, tmp_path)
    ours = measure(tiny, text_set(texts), max_length=max_length)
    assert ours.bits_per_byte == pytest.approx(theirs["bits_per_byte"], rel=1e-5)
    assert 2**ours.bits_per_byte == pytest.approx(theirs["byte_perplexity"], rel=1e-5)


@pytest.mark.parametrize("max_length", [1, 7, 8])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 25])
def test_windows_are_those_of_the_harness(length: int, max_length: int) -> None:
    rolling = pytest.importorskip("lm_eval.utils", reason="lm-evaluation-harness is not installed (extra `dev`)")
    ids = list(range(100, 100 + length))
    for stride in range(1, max_length + 1):
        theirs = rolling.get_rolling_token_windows(ids, 0, max_seq_len=max_length, context_len=max_length - stride + 1)
        ours = windows(3, ids, 0, max_length, stride)
        assert [(window.inputs, window.targets) for window in ours] == [tuple(map(list, pair)) for pair in theirs]


@pytest.mark.parametrize(("max_length", "stride"), [(16, 16), (16, 5), (16, 1), (512, 512)])
def test_bits_equal_a_brute_force_count(tiny_model: Path, tiny: Loaded, max_length: int, stride: int) -> None:
    model, tokenizer = tiny
    double = load_model(str(tiny_model), dtype=torch.float64)
    double.base_model.norm.weight.data.mul_(50)
    options = {"max_length": max_length, "stride": stride, "token_budget": 600, "resamples": 100}
    measured, documents = measure_likelihood(model, tokenizer, text_set(TEXTS), **options)
    ids = [encode_text(tokenizer, text) for text in TEXTS]
    bits = [-nats / math.log(2) for nats in brute_force(double, ids, tokenizer.eos_token_id, max_length, stride)]
    assert [document.bits for document in documents] == pytest.approx(bits, rel=1e-5)
    assert [document.tokens for document in documents] == [len(each) for each in ids]
    assert [document.bytes for document in documents] == [len(text.encode("utf-8")) for text in TEXTS]
    assert [document.characters for document in documents] == [len(text) for text in TEXTS]
    assert [document.units for document in documents] == [len(units(text)) for text in TEXTS]
    for name in ("bytes", "characters", "units", "tokens"):
        assert getattr(measured, name) == sum(getattr(document, name) for document in documents)
    assert measured.bits_per_byte == pytest.approx(sum(bits) / measured.bytes, rel=1e-6)
    assert measured.bits_per_character == pytest.approx(sum(bits) / measured.characters, rel=1e-6)
    assert measured.bits_per_unit == pytest.approx(sum(bits) / measured.units, rel=1e-6)
    assert measured.token_perplexity == pytest.approx(2 ** (sum(bits) / measured.tokens), rel=1e-5)
    assert (measured.max_length, measured.stride, measured.unit) == (max_length, stride, "syllables")


@pytest.mark.parametrize("stride", [None, 20])
def test_batches_and_order_do_not_change_the_figure(tiny: Loaded, stride: int | None) -> None:
    whole = text_set(TEXTS)
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    shuffled = replace(whole, ids=[whole.ids[k] for k in order], texts=[whole.texts[k] for k in order])
    runs = [
        measure(tiny, texts, stride=stride, token_budget=budget)
        for texts in (whole, shuffled)
        for budget in (1, 100, 10_000)
    ]
    for run in runs[1:]:
        assert run.bits_per_byte == pytest.approx(runs[0].bits_per_byte, rel=1e-6)
        assert run.interval.low == pytest.approx(runs[0].interval.low, rel=1e-6)
        assert run.interval.high == pytest.approx(runs[0].interval.high, rel=1e-6)
        assert (run.items_sha256, run.tokenization_sha256) == (runs[0].items_sha256, runs[0].tokenization_sha256)


def test_more_context_changes_what_the_windows_after_the_first_predict(tiny: Loaded) -> None:
    one_window, several = text_set(ENGLISH), text_set(["".join(TIBETAN) * 3])
    assert measure(tiny, one_window).bits_per_byte == measure(tiny, one_window, stride=8).bits_per_byte
    assert measure(tiny, several).bits_per_byte != measure(tiny, several, stride=8).bits_per_byte


def test_the_interval_is_where_the_ratio_of_sums_falls(tiny: Loaded) -> None:
    texts = text_set([TEXTS[k % len(TEXTS)] * (1 + k % 3) for k in range(60)])
    measured, documents = measure_likelihood(*tiny, texts, max_length=64, stride=None, token_budget=600, resamples=2000)
    bits, sizes = (np.array([getattr(d, name) for d in documents], float) for name in ("bits", "bytes"))
    drawn = np.random.default_rng(1).multinomial(len(bits), np.full(len(bits), 1 / len(bits)), size=20_000)
    low, high = np.percentile(drawn @ bits / (drawn @ sizes), [2.5, 97.5])
    assert measured.interval.low < measured.bits_per_byte < measured.interval.high
    assert measured.interval.low == pytest.approx(low, abs=0.1 * (high - low))
    assert measured.interval.high == pytest.approx(high, abs=0.1 * (high - low))
    assert measure(tiny, text_set(TEXTS[:1])).interval is None


def test_units_are_those_of_the_language(tiny: Loaded) -> None:
    zh = measure(tiny, text_set(CHINESE, "zh"))
    en = measure(tiny, text_set(ENGLISH, "en"))
    assert (zh.unit, zh.units) == ("characters", sum(len(units(text)) for text in CHINESE))
    assert (en.unit, en.units) == ("words", len(" ".join(ENGLISH).split()))


def test_a_batch_beyond_the_memory_is_halved(tiny: Loaded) -> None:
    model, tokenizer = tiny
    options = {"prefix_id": prefix_token_id(tokenizer), "max_length": 64, "stride": 64, "token_budget": 10_000}
    documents = [encode_text(tokenizer, text) for text in TEXTS]
    expected = document_log_likelihoods(model, documents, **options)
    sizes = []

    def fail_beyond(tokens: int):
        def check(module, args, kwargs):
            sizes.append(kwargs["input_ids"].numel())
            if sizes[-1] > tokens:
                raise torch.OutOfMemoryError("no memory")

        return model.base_model.register_forward_pre_hook(check, with_kwargs=True)

    hook = fail_beyond(200)
    assert document_log_likelihoods(model, documents, **options) == pytest.approx(expected, rel=1e-6)
    assert max(sizes) > 200
    hook.remove()
    fail_beyond(2)
    with pytest.raises(UserError, match="max_length"):
        document_log_likelihoods(model, documents, **options)


def test_a_model_that_caps_its_logits_is_scored_with_the_cap(tiny: Loaded) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = tiny[1]
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            final_logit_softcapping=0.1,
            attn_implementation="eager",
            pad_token_id=0,
        )
    ).eval()
    documents = [encode_text(tokenizer, text) for text in TIBETAN]
    ours = document_log_likelihoods(model, documents, prefix_id=1, max_length=64, stride=64, token_budget=200)
    assert ours == pytest.approx(brute_force(model, documents, 1, 64, 64), rel=1e-5)


def test_control_tokens_in_a_text_are_scored_as_text(tiny: Loaded) -> None:
    assert measure(tiny, text_set(["<|im_end|>"])).tokens > 1


@pytest.mark.parametrize(
    ("texts", "changes", "said"),
    [
        (TEXTS, {"max_length": 9999}, r"max_length=9999.*512"),
        (TEXTS, {"max_length": 16, "stride": 17}, r"stride=17.*16 tokens"),
        (["།།"], {}, "no letter and no number in bo"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny: Loaded, texts: list[str], changes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        measure(tiny, text_set(texts), **changes)


@pytest.mark.parametrize("scale", [math.nan, 1e9])
def test_a_model_that_gives_no_number_is_refused(tiny: Loaded, scale: float) -> None:
    with torch.no_grad():
        tiny[0].base_model.norm.weight.mul_(scale)
    with pytest.raises(UserError, match="the weights are broken"):
        measure(tiny, text_set(TEXTS))
