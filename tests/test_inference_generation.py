"""Generation in batches gives what transformers' own generate gives one at a time."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langadapt.errors import UserError
from langadapt.inference import Generation, generate_batched, generation, vllm_engine
from langadapt.inference.decoding import Rows, rounding_margin
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
        expected[index] = Generation(text, ids, "stop" if stopped else "length")
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
        assert answer.stop_reason == "stop" or len(answer.ids) == 40
        assert len(answer.ids) <= len(whole[index].ids)


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
    assert steps == len(answer.ids) < 40


def test_a_row_that_has_ended_costs_nothing_more(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    computed = 0

    def count(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        nonlocal computed
        computed += len(options["input_ids"])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    answers = dict(generate_batched(model, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS))
    hook.remove()
    assert computed == sum(len(answer.ids) + (answer.stop_reason == "stop") for answer in answers.values())
    assert computed < len(prompts) * max(len(answer.ids) for answer in answers.values())


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, sliding_window=6
        ),
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_too(config: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> None:
    torch.manual_seed(0)
    config.vocab_size, config.num_key_value_heads = 400, 2
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    answers = dict(generate_batched(model, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS))
    assert answers == one_by_one(model, tokenizer, prompts, LIMITS)
    assert len({answer.text for answer in answers.values()}) > 6


def test_models_that_are_called_otherwise_go_through_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "can_decode_greedily", lambda model: False)
    answers = dict(generate_batched(model, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS, token_budget=100))
    assert answers == one_by_one(model, tokenizer, prompts, LIMITS)


@pytest.fixture(scope="module")
def undecided_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model with two of three tokens nearly the same, so that a rounding error decides between them."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        twins = torch.arange(0, len(rows) - 2, 3)
        rows[twins + 1] = rows[twins] * (1 + 1e-7 * torch.randn(len(twins), rows.shape[1], generator=generator))
    return model


@pytest.mark.parametrize("token_budget", [1, 120, 16384])
def test_strict_gives_the_same_text_for_any_batch_size(
    undecided_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], token_budget: int
) -> None:
    expected = one_by_one(undecided_model, tokenizer, prompts, LIMITS)
    for strict in (False, True):
        counts: Counter[str] = Counter()
        answers = dict(
            generate_batched(
                undecided_model,
                tokenizer,
                prompts,
                stop_ids=STOPS,
                max_new_tokens=LIMITS,
                token_budget=token_budget,
                strict=strict,
                counts=counts,
            )
        )
        assert (answers == expected) == (strict or token_budget == 1)
        assert (counts["alone"] > 0) == (strict and token_budget > 1)


def test_the_margin_is_above_what_a_batch_changes(model: PreTrainedModel, prompts: list[list[int]]) -> None:
    margin = rounding_margin(model, prompts)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(50, 300, (20, len(prompts)), generator=generator)

    def logits(indices: list[int]) -> torch.Tensor:
        rows = Rows(model, [prompts[index] for index in indices])
        found = [rows.logits()]
        for step in tokens[:, indices]:
            rows.append(step)
            found.append(rows.logits())
        return torch.stack(found, 1)

    apart = torch.cat([logits([index]) for index in range(len(prompts))])
    largest = float((apart - logits(list(range(len(prompts))))).abs().max())
    assert 0 < 2 * largest < margin < 1e-3 * float(apart.abs().max())


def test_few_are_generated_alone_where_choices_are_clear(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    counts: Counter[str] = Counter()
    options = {"stop_ids": STOPS, "max_new_tokens": LIMITS, "strict": True, "counts": counts}
    assert dict(generate_batched(model, tokenizer, prompts, **options)) == one_by_one(model, tokenizer, prompts, LIMITS)
    assert counts["batches"] == 1 + counts["alone"] < 4


def test_strict_refuses_what_it_cannot_hold(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    for refused, beams in ((half, 1), (model, 2)):
        with pytest.raises(UserError, match="strict"):
            dict(
                generate_batched(
                    refused, tokenizer, [[50]], stop_ids=STOPS, max_new_tokens=3, num_beams=beams, strict=True
                )
            )


class FakeVllm:
    """What is used of vLLM, as its documentation has it: it goes on after a stop text, and gives the stop token too."""

    def SamplingParams(self, **options: Any) -> dict[str, Any]:  # noqa: N802 - the name is vLLM's
        return options

    def __init__(self, answers: dict[tuple[int, ...], list[int]]) -> None:
        self.answers, self.asked = answers, []

    def generate(self, prompts: list[Any], parameters: list[Any], use_tqdm: bool) -> list[Any]:
        self.asked += parameters
        found = [self.answers[tuple(prompt["prompt_token_ids"])] for prompt in prompts]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids))]) for ids in found]


def test_vllm_is_asked_greedily_and_its_tokens_are_cut_in_the_same_way(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = one_by_one(model, tokenizer, prompts, LIMITS)
    tokens = {
        tuple(prompts[i]): [*a.ids, *([STOPS[0]] if a.stop_reason == "stop" else [])] for i, a in expected.items()
    }
    fake = FakeVllm(tokens)
    monkeypatch.setattr(vllm_engine, "import_module", lambda name: fake)
    monkeypatch.setattr(vllm_engine, "_CHUNK", 5)
    options = {"stop_ids": STOPS, "max_new_tokens": LIMITS, "stop_text": "\n\n"}
    assert dict(vllm_engine.generate_with_vllm(fake, tokenizer, prompts, **options)) == expected
    assert [asked["max_tokens"] for asked in fake.asked] == LIMITS
    assert all(
        (asked["temperature"], asked["stop_token_ids"], asked["stop"]) == (0, STOPS, ["\n\n"]) for asked in fake.asked
    )


def test_memory_that_does_not_suffice_halves_the_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = one_by_one(model, tokenizer, prompts, LIMITS)
    forward = model.forward
    tried = []

    @functools.wraps(forward)
    def small_memory(input_ids: torch.Tensor, **options: Any) -> Any:
        tried.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids, **options)

    monkeypatch.setattr(model, "forward", small_memory)
    counts: Counter[str] = Counter()
    answers = dict(generate_batched(model, tokenizer, prompts, stop_ids=STOPS, max_new_tokens=LIMITS, counts=counts))
    assert answers == expected
    assert max(tried) == 12
    assert counts["halved"] >= 2
    assert counts["batches"] >= 4


def test_memory_for_not_even_one_prompt_is_an_error(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    @functools.wraps(model.forward)
    def no_memory(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", no_memory)
    with pytest.raises(UserError, match="13 tokens"):
        dict(generate_batched(model, tokenizer, [[50, 51, 52]], stop_ids=STOPS, max_new_tokens=10))


def test_an_empty_prompt_is_refused(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        dict(generate_batched(model, tokenizer, [[50], []], stop_ids=STOPS, max_new_tokens=10))
