"""Generation in batches: many prompts, one answer each, the same answers as one at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt."""

    text: str  # without the stop token or stop text, special tokens removed
    token_count: int  # generated tokens, the stop token not counted
    stop_reason: Literal["stop", "length"]


def generate_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int | Sequence[int],
    token_budget: int = 16384,
    num_beams: int = 1,
    stop_text: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Yield ``(index of the prompt, its Generation)`` as batches finish, longest prompts first.

    Decoding is greedy, or beam search with ``num_beams`` > 1, whatever sampling the model's own generation config asks
    for. A prompt is a list of token ids; it generates until one of ``stop_ids``, until its text holds ``stop_text``,
    or for its own number of ``max_new_tokens``. Prompts of like length share a batch, padded on the left, as many as
    fit in ``token_budget`` = sequences x (longest prompt + longest ``max_new_tokens``), and never fewer than one. When
    the GPU's memory does not hold a batch, that batch and those after it are halved.

    ``progress`` is called with the number of prompts that each batch finished. Raises `UserError` when the memory does
    not hold even one prompt, `ValueError` for an empty prompt.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(limits)} values of max_new_tokens")
    if empty := [index for index, prompt in enumerate(prompts) if not prompt]:
        raise ValueError(f"prompt {empty[0]} has no tokens; give it a prefix token to start from")

    # The longest first, so that a budget too large for the memory shows at once.
    waiting = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), limits[index]), reverse=True)
    while waiting:
        batch = _take_batch(waiting, prompts, limits, token_budget // num_beams)
        try:
            generations = _generate(
                model,
                tokenizer,
                [prompts[index] for index in batch],
                [limits[index] for index in batch],
                stop_ids,
                num_beams,
                stop_text,
            )
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                longest = len(prompts[batch[0]]) + limits[batch[0]]
                raise UserError(
                    f"a single prompt of {longest} tokens, its answer included, does not fit in the GPU's memory. "
                    "Shorten the prompts or max_new_tokens, or use fewer beams or a smaller dtype."
                ) from None
            token_budget = _cost(batch, prompts, limits) * num_beams // 2
            torch.cuda.empty_cache()
            continue
        waiting = waiting[len(batch) :]
        yield from zip(batch, generations, strict=True)
        if progress is not None:
            progress(len(batch))


@contextmanager
def without_model_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Keep the model's own generation config out of `generate` while the block runs.

    A config passed to `generate` does not replace the model's: each value it leaves open is taken from there, and
    chat models bring a repetition penalty, under which greedy decoding is no longer greedy.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of generated ids, special tokens removed and spaces left as they are."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _take_batch(
    waiting: Sequence[int], prompts: Sequence[Sequence[int]], limits: Sequence[int], budget: int
) -> list[int]:
    batch = [waiting[0]]
    for index in waiting[1:]:
        if _cost([*batch, index], prompts, limits) > budget:
            break
        batch.append(index)
    return batch


def _cost(batch: Sequence[int], prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    return len(batch) * (max(len(prompts[index]) for index in batch) + max(limits[index] for index in batch))


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    stop_ids: Sequence[int],
    num_beams: int,
    stop_text: str | None,
) -> list[Generation]:
    width = max(map(len, prompts))
    # Ended rows are filled with the padding token. Where that is a stop token, the first one ends the text.
    padding = stop_ids[0] if stop_ids else 0
    input_ids = torch.tensor([[padding] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    attention_mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max(limits),
        eos_token_id=list(stop_ids) or None,
        pad_token_id=padding,
        use_cache=True,
    )
    with without_model_defaults(model), torch.inference_mode():
        output = model.generate(
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
            stopping_criteria=[_end_of_row(tokenizer, width, limits, stop_text)],
        )
    rows = output[:, width:].tolist()
    return [_finish(tokenizer, row[:limit], stop_ids, stop_text) for row, limit in zip(rows, limits, strict=True)]


def _end_of_row(
    tokenizer: PreTrainedTokenizerBase, width: int, limits: Sequence[int], stop_text: str | None
) -> Callable[..., torch.Tensor]:
    """Return a stopping criterion that ends each row at its own limit, or when its new text holds ``stop_text``."""
    # A token holds at least a byte, so a stop text that has just been completed stands within as many tokens.
    tail = len(stop_text.encode()) + 1 if stop_text else 0

    def ended(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, width:]
        beams = len(new) // len(limits)  # beam search shows its candidates, several rows a prompt
        done = new.shape[1] >= torch.tensor(limits).repeat_interleave(beams)
        if stop_text:
            done |= torch.tensor([stop_text in decode(tokenizer, row) for row in new[:, -tail:].tolist()])
        return done.to(input_ids.device)

    return ended


def _finish(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], stop_ids: Sequence[int], stop_text: str | None
) -> Generation:
    """Cut a row, already cut to its limit, at its stop token or stop text."""
    end = next((position for position, token in enumerate(ids) if token in stop_ids), None)
    stopped = end is not None
    ids = ids[:end]
    text = decode(tokenizer, ids)
    if stop_text and stop_text in text:
        # Without stop tokens an ended row goes on until its batch has; only what led to the stop text counts.
        count = bisect_left(range(len(ids)), True, key=lambda n: stop_text in decode(tokenizer, ids[:n]))
        return Generation(text.partition(stop_text)[0], count, "stop")
    return Generation(text, len(ids), "stop" if stopped else "length")
