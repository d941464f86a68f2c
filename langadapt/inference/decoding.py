"""How the tokens of one batch are chosen: greedily, here, or by beam search, in transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.models.translation import TranslationTokenizer

Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]  # of logits, (rows, vocabulary), and their prompts
Ended = Callable[[list[int]], bool]  # says of the new tokens of a row whether they are complete

# For `rounding_margin`: so many prompts are compared at so many tokens, and the largest difference is taken so often.
_PROBES = 8
_PROBED_TOKENS = 4
_SAFETY = 8


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


def decode(tokenizer: PreTrainedTokenizerBase | TranslationTokenizer, ids: Sequence[int]) -> str:
    """Return the text of generated ids, special tokens removed and spaces left as they are."""
    if isinstance(tokenizer, TranslationTokenizer):
        return tokenizer.decode(ids)
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class Rows:
    """Sequences that grow together: padded on the left, with their keys and values kept from step to step.

    ::

        prompt 0    a b c d | e ...
        prompt 1    . . x y | z ...      (.: padding, which no token attends to)
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        width = max(map(len, prompts))
        self._model = model
        self._input = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device)
        lengths = torch.tensor([len(ids) for ids in prompts], device=model.device)
        self._mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache = DynamicCache(config=model.config)

    @torch.inference_mode()
    def logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, (rows, vocabulary). To be called once for each token."""
        output = self._model(
            input_ids=self._input,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def append(self, tokens: torch.Tensor) -> None:
        """Append a token to each row."""
        self._input = tokens[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        self._positions = self._positions[:, -1:] + 1

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but those at ``places``; the others need no longer be computed."""
        index = torch.tensor(places, device=self._mask.device)
        self._cache.reorder_cache(index)
        self._input, self._mask, self._positions = self._input[index], self._mask[index], self._positions[index]


def can_decode_greedily(model: PreTrainedModel) -> bool:
    """Say whether a model is called the way `decode_greedily` does it: a decoder that keeps keys and values."""
    needed = {"position_ids", "past_key_values", "logits_to_keep"}
    return not model.config.is_encoder_decoder and needed <= {*inspect.signature(model.forward).parameters}


def decode_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ended: Ended,
    margin: float | None = None,
    choose: Choose | None = None,
) -> list[list[int] | None]:
    """Return the new tokens of each prompt, up to its limit or where ``ended`` says so, the last token included.

    A row that has ended leaves the batch. With a ``margin``, so does one whose likeliest token was ahead of the second
    by no more than that: its tokens are None. ``choose`` takes another token than the likeliest.
    """
    rows = Rows(model, prompts)
    new: list[list[int]] = [[] for _ in prompts]
    undecided: set[int] = set()
    left = list(range(len(prompts)))  # the prompt that each row belongs to
    while True:
        logits = rows.logits()
        tokens = logits.argmax(-1) if choose is None else choose(logits, left)
        close = [False] * len(left)
        if margin is not None:
            best = logits.topk(2).values
            close = (best[:, 0] - best[:, 1] <= margin).tolist()
        kept = []
        for place, (index, token) in enumerate(zip(left, tokens.tolist(), strict=True)):
            new[index].append(token)
            if close[place]:
                undecided.add(index)
            elif len(new[index]) < limits[index] and not ended(new[index]):
                kept.append(place)
        if not kept:
            return [None if index in undecided else ids for index, ids in enumerate(new)]
        rows.append(tokens)
        if len(kept) < len(left):
            rows.keep(kept)
            left = [left[place] for place in kept]


def sampler(seeds: Sequence[int], limits: Sequence[int], temperature: float, top_p: float) -> Choose:
    """Return a choice of tokens at random, for `decode_greedily` to make once a step; a prompt draws by its own seed.

    So an answer does not depend on which prompts share its batch, but for rounding. Drawn is from the likeliest tokens
    that together hold ``top_p`` of the probability (Holtzman et al. 2020), after the logits are divided by
    ``temperature``.
    """
    draws = [
        torch.rand(limit, generator=torch.Generator().manual_seed(seed)).tolist()
        for seed, limit in zip(seeds, limits, strict=True)
    ]
    taken = [0] * len(draws)

    def choose(logits: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
        points = torch.tensor([draws[index][taken[index]] for index in prompts], device=logits.device)
        for index in prompts:
            taken[index] += 1
        ordered, tokens = (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        below = ordered.cumsum(-1)
        held = ordered * (below - ordered < top_p)  # the likeliest is always among them
        reached = held.cumsum(-1) > points[:, None] * held.sum(-1, keepdim=True)
        return tokens.gather(-1, reached.int().argmax(-1, keepdim=True))[:, 0]

    return choose


def rounding_margin(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> float:
    """Return the lead of a token, in logits, below which a batch might choose another than the prompt alone.

    Sums are rounded in another order in a batch than alone, so the logits of the same tokens differ by some d. If no
    logit differs by more, the choice is the same wherever the lead is above 2 d. d is measured: the largest difference
    over all logits of some prompts, in a batch and alone, after the prompt and as their last tokens come one by one;
    and taken eight times, for what was not measured.
    """
    step = max(1, len(prompts) // _PROBES)
    probes = list(prompts[::step][:_PROBES])
    count = min(_PROBED_TOKENS, *(len(ids) - 1 for ids in probes)) if len(probes) > 1 else 0
    together = _forced_logits(model, probes, count)
    apart = torch.cat([_forced_logits(model, [ids], count) for ids in probes])
    return 2 * _SAFETY * float((together - apart).abs().max())


def _forced_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    """Return the logits after all but the last ``count`` tokens of each prompt, and after each of those."""
    rows = Rows(model, [ids[: len(ids) - count] for ids in prompts])
    logits = [rows.logits()]
    for place in range(-count, 0):
        rows.append(torch.tensor([ids[place] for ids in prompts], device=model.device))
        logits.append(rows.logits())
    return torch.stack(logits, 1)


def decode_with_transformers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ended: Ended,
    stop_ids: Sequence[int],
    num_beams: int,
    forced_bos_id: int | None = None,
) -> list[list[int]]:
    """Return the new tokens of each prompt by transformers' `generate`; what follows the end of a row is padding.

    An encoder reads the prompts of an encoder-decoder model, whose decoder then begins with ``forced_bos_id``, if any.
    """
    # Ended rows are filled with the padding token. Where that is a stop token, the first one ends the text.
    padding = stop_ids[0] if stop_ids else 0
    if model.config.is_encoder_decoder:
        # On the right, and with the model's own token: some count positions from the left, some by that token.
        input_ids, attention_mask = _padded(prompts, model.config.pad_token_id, on_left=False)
        start = 1  # the decoder's start token
    else:
        input_ids, attention_mask = _padded(prompts, padding, on_left=True)
        start = input_ids.shape[1]

    def rows_ended(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        beams = len(ids) // len(limits)  # beam search shows its candidates, several rows a prompt
        new = ids[:, start:].tolist()
        done = [len(row) >= limits[place // beams] or ended(row) for place, row in enumerate(new)]
        return torch.tensor(done, device=ids.device)

    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max(limits),
        eos_token_id=list(stop_ids) or None,
        pad_token_id=padding,
        use_cache=True,
        **decoder_options(model, forced_bos_id),
    )
    with without_model_defaults(model), torch.inference_mode():
        output = model.generate(
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
            stopping_criteria=[rows_ended],
        )
    return [row[:limit] for row, limit in zip(output[:, start:].tolist(), limits, strict=True)]


def decoder_options(model: PreTrainedModel, forced_bos_id: int | None) -> dict[str, Any]:
    """Return what `generate` must be told of an encoder-decoder model once its own config is left out, else nothing.

    Padding is never generated: Marian's decoder was trained with it as start token, and may give it a high score.
    """
    if not model.config.is_encoder_decoder:
        return {}
    config: Any = model.config
    first = model.generation_config.decoder_start_token_id if model.generation_config else None
    return {
        "decoder_start_token_id": config.decoder_start_token_id if first is None else first,
        "forced_bos_token_id": forced_bos_id,
        "suppress_tokens": [config.pad_token_id],
    }


def _padded(prompts: Sequence[Sequence[int]], padding: int, on_left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts filled up to the longest, and 1 where they are, both (prompts, width)."""
    width = max(map(len, prompts))
    ids, mask = torch.full((len(prompts), width), padding), torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if on_left else slice(len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return ids, mask
