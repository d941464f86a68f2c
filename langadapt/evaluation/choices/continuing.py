"""The log-likelihood of several continuations of one context, the context read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from langadapt.errors import UserError

_LOGITS = 2**28  # logits in float32 at a time: 1 GiB


@dataclass(frozen=True)
class Continuations:
    """A context of one token or more, and what may follow it, as token ids."""

    context: list[int]
    choices: list[list[int]]


def log_likelihoods(
    model: PreTrainedModel, items: Sequence[Continuations], token_budget: int
) -> Iterator[tuple[int, list[float]]]:
    """Yield ``(index of the item, natural log-likelihood of each choice)`` as batches finish, longest contexts first.

    A batch holds items of like length, at most ``token_budget`` tokens in the cache of keys and values, padding
    included, and never fewer than one item; when the GPU's memory does not hold it, it and those after it are halved.
    The figures are the same for any budget up to rounding. Raises `UserError` when one item alone does not fit.
    """
    waiting = sorted(
        range(len(items)), key=lambda index: (len(items[index].context), _longest(items[index])), reverse=True
    )
    while waiting:
        batch = _take_batch(waiting, items, token_budget, _LOGITS // model.config.get_text_config().vocab_size)
        try:
            values = _score(model, [items[index] for index in batch])
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise UserError(
                    f"one question of {len(items[batch[0]].context)} tokens and its choices do not fit in the GPU's "
                    "memory. Use fewer examples, a smaller dtype or a smaller model."
                ) from None
            token_budget = _cost(batch, items) // 2
            torch.cuda.empty_cache()
            continue
        waiting = waiting[len(batch) :]
        yield from zip(batch, values, strict=True)


def _longest(item: Continuations) -> int:
    return max(map(len, item.choices))


def _take_batch(waiting: Sequence[int], items: Sequence[Continuations], budget: int, predicted: int) -> list[int]:
    batch = [waiting[0]]
    for index in waiting[1:]:
        more = [*batch, index]
        if _cost(more, items) > budget or _rows(more, items) * max(_longest(items[i]) for i in more) > predicted:
            break
        batch = more
    return batch


def _cost(batch: Sequence[int], items: Sequence[Continuations]) -> int:
    width = max(len(items[index].context) for index in batch) + max(_longest(items[index]) for index in batch)
    return _rows(batch, items) * width


def _rows(batch: Sequence[int], items: Sequence[Continuations]) -> int:
    return sum(len(items[index].choices) for index in batch)


@torch.inference_mode()
def _score(model: PreTrainedModel, batch: Sequence[Continuations]) -> list[list[float]]:
    """Return the log-likelihoods of a batch in two passes: the contexts, then every choice on its context's cache.

    The last token of a context goes with the choices, since it predicts their first. For the context ``a b c`` and the
    choices ``x y`` and ``z``, with P for padding::

        first pass    P a b          second pass    c x     targets  x y
                                                    c P              z
    """
    heads = [item.context[:-1] for item in batch]
    rows = [(number, item.context[-1], choice) for number, item in enumerate(batch) for choice in item.choices]
    width = max(map(len, heads))
    before = torch.tensor([[0] * (width - len(head)) + [1] * len(head) for head in heads], device=model.device)
    owner = torch.tensor([number for number, _, _ in rows], device=model.device)

    cache = DynamicCache(config=model.config)
    if width:
        ids = torch.tensor([[0] * (width - len(head)) + head for head in heads], device=model.device)
        positions = (before.cumsum(-1) - 1).clamp(min=0)
        # Without the output layer: nothing is predicted here.
        model.base_model(input_ids=ids, attention_mask=before, position_ids=positions, past_key_values=cache)
        cache.batch_select_indices(owner)

    length = max(len(choice) for _, _, choice in rows)
    inputs = torch.tensor([_padded([last, *choice[:-1]], length) for _, last, choice in rows], device=model.device)
    targets = torch.tensor([_padded(choice, length) for _, _, choice in rows], device=model.device)
    counts = torch.tensor([_padded([1] * len(choice), length) for _, _, choice in rows], device=model.device)
    starts = torch.tensor([len(heads[number]) for number, _, _ in rows], device=model.device)
    logits = model(
        input_ids=inputs,
        attention_mask=torch.cat([before[owner], counts], dim=-1),
        position_ids=starts[:, None] + torch.arange(length, device=model.device),
        past_key_values=cache,
    ).logits.float()
    chosen = logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(-1)
    sums = iter((chosen.double() * counts).sum(-1).tolist())
    return [[next(sums) for _ in item.choices] for item in batch]


def _padded(ids: list[int], length: int) -> list[int]:
    """Padding stands on the right, where no token that counts sees it."""
    return ids + [0] * (length - len(ids))
