"""Rows of new tokens, fitted so that the model does with one token what it did with several.

Token Distillation (Dobler, Elliott and de Melo 2025, arXiv:2505.20133): the same text goes through the model twice, cut
as before and with the new tokens; the rows of these are moved until the hidden states at the end of each token agree.
To make the rows good for prediction too, which matters most where input and output share them, the loss of the next
token is added with the weight at which both count the same. All other weights stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding
from tqdm import tqdm
from transformers import PreTrainedModel

from langadapt.training.vocabulary.rows import is_tied

STEPS = 400
_WINDOW = 64  # new tokens; a context of several sentences, and for the old tokenizer several times as many tokens
_WINDOWS = 8  # a step
_LEARNING_RATE = 0.05  # of the root mean square of the old rows


def distilled_rows(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    old_tokens: Sequence[Sequence[int]],
    inputs: Tensor,
    outputs: Tensor,
    first: int,
    prefix: int,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Return input and output rows of the new tokens, both (new tokens, width) in float32; equal where tied.

    ``documents`` are token ids under the new tokenizer, where id ``first + k`` is the new token that ``old_tokens[k]``
    stood for; ``inputs`` and ``outputs`` are the rows to start from. ``model`` has not grown yet and keeps its
    weights; ``prefix`` is the token before a document.
    """
    model.requires_grad_(False)
    tied = is_tied(model)
    old_embedding, old_output = model.get_input_embeddings(), model.get_output_embeddings().weight[:first]
    scale = getattr(old_embedding, "embed_scale", 1.0)  # Gemma multiplies what it looks up
    inputs = inputs.clone().requires_grad_()
    outputs = inputs if tied else outputs.clone().requires_grad_()
    optimizer = torch.optim.Adam(
        [
            {"params": [rows], "lr": _LEARNING_RATE * float(old.float().square().mean().sqrt())}
            for rows, old in ((inputs, old_embedding.weight),) + (() if tied else ((outputs, old_output),))
        ]
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    batches = _batches(documents, first)
    for _ in tqdm(range(steps), desc="distillation", unit="step", disable=None):
        windows = next(batches)
        targets = _teach(model, [_as_before(window, old_tokens, first) for window in windows], prefix)
        ids = _padded([[prefix, *window] for window in windows], model.device)
        seen = ids >= 0
        new = ids >= first
        looked_up = old_embedding(ids.clamp(0, first - 1))
        rows = embedding((ids - first).clamp(min=0), inputs) * scale
        embedded = torch.where(new[..., None], rows.to(looked_up.dtype), looked_up)
        states = model.base_model(inputs_embeds=embedded, attention_mask=seen.long(), use_cache=False).last_hidden_state
        distance = (states[seen].float() - targets).square().sum() / targets.square().sum()
        follows = seen[:, 1:]
        before = states[:, :-1][follows]
        logits = torch.cat([before @ old_output.T, before @ outputs.to(before.dtype).T], dim=-1).float()
        surprise = cross_entropy(logits, ids[:, 1:][follows])
        loss = distance + surprise * (distance / surprise).detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return inputs.detach(), outputs.detach()


def _batches(documents: Sequence[Sequence[int]], first: int) -> Iterator[list[Sequence[int]]]:
    """Yield windows that hold a new token, `_WINDOWS` at a time, in an order drawn anew in every pass; no end."""
    windows = [ids[start : start + _WINDOW] for ids in documents for start in range(0, len(ids), _WINDOW)]
    windows = [window for window in windows if max(window) >= first]
    draw = random.Random(0)
    while True:
        draw.shuffle(windows)
        for start in range(0, len(windows), _WINDOWS):
            yield windows[start : start + _WINDOWS]


def _as_before(window: Sequence[int], old_tokens: Sequence[Sequence[int]], first: int) -> list[Sequence[int]]:
    """Return the old tokens of every token of a window; an old token's are itself."""
    return [old_tokens[token - first] if token >= first else [token] for token in window]


@torch.no_grad()
def _teach(model: PreTrainedModel, windows: Sequence[Sequence[Sequence[int]]], prefix: int) -> Tensor:
    """Return the hidden state (float32) at the prefix and at the last old token of every token, one after the other."""
    ids = _padded([[prefix, *(old for tokens in window for old in tokens)] for window in windows], model.device)
    ends = torch.zeros_like(ids, dtype=torch.bool)
    for row, window in enumerate(windows):
        lengths = torch.tensor([0, *map(len, window)])
        ends[row, lengths.cumsum(0).to(model.device)] = True
    mask = (ids >= 0).long()
    states: Tensor = model.base_model(input_ids=ids.clamp(0), attention_mask=mask, use_cache=False).last_hidden_state
    return states[ends].float()


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return rows of ids side by side, filled up with -1 on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], device=device)
