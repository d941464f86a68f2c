"""Generation in batches gives what transformers' own generate gives one at a time."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.inference import Generation, generate_batched
from langadapt.models import load_model, load_tokenizer

STOPS = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]
LIMITS = [4 + 7 * index % 25 for index in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    """The tiny model with large random weights, so that its greedy answers vary from token to token."""
    model = load_model(str(tiny_model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(50, 300) for _ in range(1 + 5 * index % 19)] for index in range(12)]


def one_by_one(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    limits: list[int],
    beams: int = 1,
    stops: list[int] = STOPS,
) -> dict[int, Generation]:
    """The oracle: transformers' generate, a single prompt at a time, without padding."""
    plain = copy.deepcopy(model)
    plain.generation_config = GenerationConfig()
    expected = {}
    for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        config = GenerationConfig(num_beams=beams, max_new_tokens=limit, eos_token_id=stops, pad_token_id=stops[0])
        new = plain.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        stopped = new[-1] in stops
        ids = [token for token in new if token not in stops]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        expected[index] = Generation(text, len(ids), "stop" if stopped else "length")
    return expected


@pytest.mark.parametrize("token_budget", [1, 100, 16384])
@pytest.mark.parametrize("beams", [1, 3])
def test_batches_of_any_size_equal_one_at_a_time(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    token_budget: int,
    beams: int,
) -> None:
    expected = one_by_one(model, tokenizer, prompts, LIMITS, beams)
    assert {answer.stop_reason for answer in expected.values()} == {"stop", "length"}
    answers = dict(
        generate_batched(
            model,
            tokenizer,
            prompts,
            stop_ids=STOPS,
            max_new_tokens=LIMITS,
            num_beams=beams,
            token_budget=token_budget,
        )
    )
    assert answers == expected


def test_the_models_own_sampling_defaults_play_no_part(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    chatty = copy.deepcopy(model)
    chatty.generation_config = GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=1.9, no_repeat_ngram_size=2, min_new_tokens=9
    )
    answers = dict(generate_batched(chatty, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS))
    assert answers == one_by_one(model, tokenizer, prompts, LIMITS)
    assert chatty.generation_config.repetition_penalty == 1.9


@pytest.mark.parametrize("stop_ids", [[], [399]])
def test_stop_text_ends_the_answer_where_it_first_stands(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], stop_ids: list[int]
) -> None:
    whole = one_by_one(model, tokenizer, prompts, [40] * 12, stops=[399])
    # A text that some answers hold in their middle, and one character of it of several bytes where there is one.
    stop_text = max(whole[0].text[10:], key=lambda character: len(character.encode()))
    answers = dict(
        generate_batched(
            model, tokenizer, prompts, stop_ids=stop_ids, max_new_tokens=40, stop_text=stop_text, token_budget=200
        )
    )
    assert answers[0].stop_reason == "stop"
    for index, answer in answers.items():
        assert answer.text == whole[index].text.partition(stop_text)[0]
        assert (answer.stop_reason == "stop") == (stop_text in whole[index].text)
        assert answer.stop_reason == "stop" or answer.token_count == 40
        assert answer.token_count <= whole[index].token_count


def test_a_stop_text_of_several_tokens_ends_generation_at_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    text = one_by_one(model, tokenizer, prompts[:1], [40], stops=[399])[0].text
    steps = 0

    def count(*arguments: Any) -> None:
        nonlocal steps
        steps += 1

    hook = model.register_forward_pre_hook(count)
    [(_, answer)] = generate_batched(
        model, tokenizer, prompts[:1], stop_ids=[399], max_new_tokens=40, stop_text=text[8:14]
    )
    hook.remove()
    assert answer.text == text[:8]
    assert steps == answer.token_count < 40


def test_memory_that_does_not_suffice_halves_the_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = one_by_one(model, tokenizer, prompts, LIMITS)
    generate = model.generate
    tried = []

    def small_memory(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        tried.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(input_ids, **options)

    monkeypatch.setattr(model, "generate", small_memory)
    finished: list[int] = []
    answers = dict(
        generate_batched(model, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS, progress=finished.append)
    )
    assert answers == expected
    assert max(tried) == 12
    assert sum(finished) == 12
    assert max(finished) <= 3


def test_memory_for_not_even_one_prompt_is_an_error(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", no_memory)
    with pytest.raises(UserError, match="13 tokens"):
        dict(generate_batched(model, tokenizer, [[50, 51, 52]], stop_ids=STOPS, max_new_tokens=10))


def test_an_empty_prompt_is_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        dict(generate_batched(model, tokenizer, [[50], []], stop_ids=STOPS, max_new_tokens=10))
