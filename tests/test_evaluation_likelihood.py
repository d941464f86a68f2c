"""Bits per byte against a plain loop over plain transformers, in double precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.likelihood import document_log_likelihoods, measure_likelihood, prefix_token_id, windows
from langadapt.models import encode_text, load_model, load_tokenizer

TEXTS = [*TIBETAN, "".join(TIBETAN) * 3, *CHINESE, *ENGLISH, "x"]


def brute_force(model, documents: list[list[int]], prefix: int, max_length: int) -> list[float]:
    """The log-likelihood of each document: one window at a time, as lm-evaluation-harness cuts them, all in float64."""
    totals = []
    for ids in documents:
        total = 0.0
        for start in range(0, len(ids), max_length):
            end = min(start + max_length, len(ids))
            first = 0 if start == 0 else end - max_length
            inputs = [prefix, *ids][first:end]
            with torch.no_grad():
                log_probabilities = model(input_ids=torch.tensor([inputs])).logits[0].double().log_softmax(-1)
            for position in range(start, end):
                total += log_probabilities[position - first, ids[position]].item()
        totals.append(total)
    return totals


@pytest.mark.parametrize("max_length", [16, 512])
def test_bits_per_byte_equal_a_brute_force_count(tiny_model: Path, max_length: int) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    model, double = load_model(str(tiny_model)), load_model(str(tiny_model), dtype=torch.float64)
    for each in (model, double):
        each.base_model.norm.weight.data.mul_(50)  # logits as large as a trained model's
    measured = measure_likelihood(model, tokenizer, TEXTS, max_length=max_length, token_budget=600)
    documents = [encode_text(tokenizer, text) for text in TEXTS]
    total = sum(brute_force(double, documents, tokenizer.eos_token_id, max_length))
    size = sum(len(text.encode("utf-8")) for text in TEXTS)
    assert (measured.bytes, measured.tokens, measured.documents) == (size, sum(map(len, documents)), len(TEXTS))
    assert measured.bits_per_byte == pytest.approx(-total / math.log(2) / size, rel=1e-6)
    assert measured.token_perplexity == pytest.approx(math.exp(-total / measured.tokens), rel=1e-5)


def test_batches_and_order_do_not_change_the_figure(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    runs = [
        measure_likelihood(model, tokenizer, texts, max_length=64, token_budget=budget)
        for texts in (TEXTS, TEXTS[::-1])
        for budget in (1, 100, 10_000)
    ]
    for run in runs[1:]:
        assert run.bits_per_byte == pytest.approx(runs[0].bits_per_byte, rel=1e-6)
        assert run.items_sha256 == runs[0].items_sha256
        assert run.tokenization_sha256 == runs[0].tokenization_sha256


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 24, 25])
def test_windows_predict_every_token_once(length: int) -> None:
    ids = list(range(100, 100 + length))
    stream = [0, *ids]
    predicted = []
    for window in windows(3, ids, prefix_id=0, max_length=8):
        assert window.document == 3
        assert len(window.targets) <= len(window.inputs) <= 8
        assert len(window.inputs) == min(8, length)
        for given, target in zip(window.inputs[-len(window.targets) :], window.targets, strict=True):
            assert stream.index(target) == stream.index(given) + 1
        predicted += window.targets
    assert predicted == ids


def test_a_batch_beyond_the_memory_is_halved(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    options = {"prefix_id": prefix_token_id(tokenizer), "max_length": 64, "token_budget": 10_000}
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


def test_a_model_that_caps_its_logits_is_scored_with_the_cap(tiny_model: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = load_tokenizer(str(tiny_model))
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
    ours = document_log_likelihoods(model, documents, prefix_id=1, max_length=64, token_budget=200)
    assert ours == pytest.approx(brute_force(model, documents, 1, 64), rel=1e-5)


def test_control_tokens_in_a_text_are_scored_as_text(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    measured = measure_likelihood(model, tokenizer, ["<|im_end|>"], max_length=64, token_budget=100)
    assert measured.tokens > 1


def test_a_window_longer_than_the_model_takes_is_refused(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    with pytest.raises(UserError, match=r"max_length=9999.*512"):
        measure_likelihood(model, tokenizer, TEXTS, max_length=9999, token_budget=100)


def test_a_model_that_gives_no_number_is_refused(tiny_model: Path) -> None:
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    with torch.no_grad():
        model.base_model.norm.weight.fill_(math.nan)
    with pytest.raises(UserError, match="no number"):
        measure_likelihood(model, tokenizer, TEXTS, max_length=64, token_budget=100)
