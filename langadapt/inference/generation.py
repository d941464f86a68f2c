"""Generation in batches: many prompts, one answer each, the same answers as one at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.inference.decoding import (
    can_decode_greedily,
    decode,
    decode_greedily,
    decode_with_transformers,
    rounding_margin,
    sampler,
)
from langadapt.models.translation import TranslationTokenizer


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt."""

    text: str  # without the stop token or stop text, special tokens removed
    ids: list[int]  # generated tokens, without the stop token
    stop_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Stop:
    """What ends an answer: one of some tokens, or a text in it."""

    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer
    ids: Sequence[int]
    text: str | None

    def ended(self, new: list[int]) -> bool:
        """Say whether the last of the new tokens ends the answer."""
        if new[-1] in self.ids:
            return True
        if not self.text:
            return False
        # A token holds at least a byte, so a stop text that has just been completed stands within as many tokens.
        return self.text in decode(self.tokenizer, new[-len(self.text.encode()) - 1 :])

    def cut(self, new: list[int]) -> Generation:
        """Return the answer that new tokens hold, cut at the stop token or the stop text."""
        end = next((place for place, token in enumerate(new) if token in self.ids), None)
        ids = new[:end]
        text = decode(self.tokenizer, ids)
        stop_text = self.text
        if stop_text and stop_text in text:
            # `generate` goes on with an ended row until its batch has; only what led to the stop text counts.
            count = bisect_left(range(len(ids)), True, key=lambda n: stop_text in decode(self.tokenizer, ids[:n]))
            return Generation(text.partition(stop_text)[0], ids[:count], "stop")
        return Generation(text, ids, "length" if end is None else "stop")


def generate_batched(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int | Sequence[int],
    token_budget: int = 16384,
    num_beams: int = 1,
    stop_text: str | None = None,
    strict: bool = False,
    forced_bos_id: int | None = None,
    counts: Counter[str] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] = (),
) -> Iterator[tuple[int, Generation]]:
    """Yield ``(index of the prompt, its Generation)`` as batches finish, the longest first.

    Decoding is greedy, or beam search with ``num_beams`` > 1, whatever sampling the model's own generation config asks
    for. With a ``temperature`` above 0 tokens are drawn, as `sampler` says, by one of ``seeds`` for each prompt. A
    prompt is a list of token ids; it generates until one of ``stop_ids``, until its text holds ``stop_text``, or for
    its own number of ``max_new_tokens``. Prompts of like length share a batch, padded on the left, as many as fit in
    ``token_budget`` = sequences x (longest prompt + longest ``max_new_tokens``), and never fewer than one; one that has
    ended leaves its batch. When the GPU's memory does not hold a batch, that batch and those after it are halved.

    ``strict`` gives the text that the prompt has in a batch of its own, whatever the budget: prompts with a token that
    was ahead of the next likeliest by no more than a rounding error are generated again, alone, at the end.

    ``forced_bos_id`` is the token that the decoder of an encoder-decoder model is made to begin with, such as the mark
    of the target language; prompts are what its encoder reads.

    ``counts``, where given, is added to: ``batches``, ``halved``, and ``alone`` for prompts of the kind just told.
    Raises `UserError` when the memory does not hold even one prompt, and for ``strict`` with anything but a decoder in
    float32 without beams, and for sampling with anything but a decoder; `ValueError` for an empty prompt.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(limits)} values of max_new_tokens")
    if empty := [index for index, prompt in enumerate(prompts) if not prompt]:
        raise ValueError(f"prompt {empty[0]} has no tokens; give it a prefix token to start from")
    counts = Counter() if counts is None else counts
    stop = Stop(tokenizer, stop_ids, stop_text)
    greedy = num_beams == 1 and can_decode_greedily(model)
    if strict and not (greedy and model.dtype == torch.float32):
        raise UserError("strict: only for decoder models in float32 and num_beams=1. Set those, or strict=false.")

    if temperature and not (greedy and len(seeds) == len(prompts) and not strict):
        raise UserError("sampling: only for decoder models, without beams and strict, and with a seed for each prompt.")

    # The longest first, so that a budget too large for the memory shows at once.
    waiting = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]) + limits[index], index), reverse=True)
    margin: float | None = None
    undecided: list[int] = []
    while waiting or undecided:
        # At the end those that a rounding error may have decided, each a batch of its own.
        batch = _take_batch(waiting, prompts, limits, token_budget // num_beams) if waiting else [undecided.pop()]
        asked = [prompts[index] for index in batch]
        room = [limits[index] for index in batch]
        rows: Sequence[list[int] | None] | None = None
        try:
            if greedy:
                if strict and len(batch) > 1 and margin is None:
                    margin = rounding_margin(model, [prompts[index] for index in waiting])
                choose = sampler([seeds[i] for i in batch], room, temperature, top_p) if temperature else None
                rows = decode_greedily(model, asked, room, stop.ended, margin if len(batch) > 1 else None, choose)
            else:
                rows = decode_with_transformers(model, asked, room, stop.ended, stop_ids, num_beams, forced_bos_id)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise UserError(
                    f"a single prompt of {len(asked[0]) + room[0]} tokens, its answer included, does not fit in the "
                    "GPU's memory. Shorten the prompts or max_new_tokens, or use fewer beams or a smaller dtype."
                ) from None
        if rows is None:  # only here is the memory free again that the error held
            token_budget = _cost(batch, prompts, limits) * num_beams // 2
            counts["halved"] += 1
            torch.cuda.empty_cache()
            continue
        counts["batches"] += 1
        waiting = waiting[len(batch) :]
        for index, new in zip(batch, rows, strict=True):
            if new is None:
                counts["alone"] += 1
                undecided.append(index)
            else:
                yield index, stop.cut(new)


def _take_batch(
    waiting: Sequence[int], prompts: Sequence[Sequence[int]], limits: Sequence[int], budget: int
) -> list[int]:
    prompt = limit = count = 0
    for index in waiting:
        prompt, limit = max(prompt, len(prompts[index])), max(limit, limits[index])
        if count and (count + 1) * (prompt + limit) > budget:
            break
        count += 1
    return list(waiting[:count])


def _cost(batch: Sequence[int], prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    return len(batch) * (max(len(prompts[index]) for index in batch) + max(limits[index] for index in batch))
