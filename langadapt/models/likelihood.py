"""The log-likelihood that a model gives to texts: every token predicted once, in windows, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError

_LOGITS = 2**26  # logits in float32 at a time: 256 MiB
# A CPU works from its caches, which larger batches and larger pieces of the logits do not fit in.
_CPU_TOKENS = 1024  # tokens in a batch
_CPU_ROWS = 256  # positions whose logits are there at a time


@dataclass(frozen=True)
class Window:
    """One forward pass: the last ``len(targets)`` positions of ``inputs`` predict ``targets``."""

    document: int
    inputs: list[int]
    targets: list[int]


def longest_sequence(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model was built for, or None where its config does not say."""
    longest: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return longest


def prefix_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that stands before a document: the beginning of sequence, else the end of text."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(
        f"{tokenizer.name_or_path}: the tokenizer has neither a bos_token nor an eos_token, and the first token of a "
        "text needs one before it. Name one in tokenizer_config.json."
    )


def windows(document: int, ids: Sequence[int], prefix_id: int, max_length: int, stride: int) -> Iterator[Window]:
    """Yield windows of at most ``max_length`` inputs that together predict every token of a document exactly once.

    The first window predicts all it can, those after it ``stride`` tokens each. A line is a window of ``max_length`` 4,
    P the prefix token, a dot what was predicted before::

        stride 4                 stride 2
        inputs   targets         inputs   targets
        P a b c  a b c d         P a b c  a b c d
        d e f g  e f g h         b c d e  . . e f
        f g h i  . . i j         d e f g  . . g h
                                 f g h i  . . i j

    With ``stride`` equal to ``max_length`` these are the rolling windows of lm-evaluation-harness, with a context of
    one token: the last is filled up from the left, so that its few tokens are not predicted from nothing.
    """
    stream = [prefix_id, *ids]
    start = 0
    while start < len(ids):
        end = min(start + (stride if start else max_length), len(ids))
        yield Window(document, stream[max(0, end - max_length) : end], list(ids[start:end]))
        start = end


def document_log_likelihoods(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    *,
    prefix_id: int,
    max_length: int,
    stride: int,
    token_budget: int,
    quiet: bool = False,
) -> list[float]:
    """Return the natural log-likelihood of each document, the same for any ``token_budget`` up to rounding.

    Windows of like length share a batch of at most ``token_budget`` tokens, on the CPU of at most 1,024; when the GPU's
    memory does not hold a batch, it and those after it are halved. Log-probabilities are float32, their sums float64.
    ``quiet`` shows no progress bar.
    """
    if model.device.type == "cpu":
        token_budget = min(token_budget, _CPU_TOKENS)
    todo = [w for number, ids in enumerate(documents) for w in windows(number, ids, prefix_id, max_length, stride)]
    todo.sort(key=lambda window: len(window.inputs), reverse=True)
    output_layer = split_output_layer(model, todo[0].inputs[:2]) if todo else None
    totals = [0.0] * len(documents)
    with tqdm(
        total=sum(map(len, documents)), desc="likelihood", unit="token", unit_scale=True, disable=quiet or None
    ) as bar:
        while todo:
            width = len(todo[0].inputs)
            batch = todo[: max(1, token_budget // width)]
            try:
                values = batch_log_likelihoods(model, output_layer, batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UserError(
                        f"one window of {width} tokens does not fit in the GPU's memory. Use a smaller max_length."
                    ) from None
                token_budget = len(batch) * width // 2
                torch.cuda.empty_cache()
                continue
            todo = todo[len(batch) :]
            for window, value in zip(batch, values, strict=True):
                totals[window.document] += value
                bar.update(len(window.targets))
    return totals


@torch.inference_mode()
def batch_log_likelihoods(model: PreTrainedModel, output_layer: Any, batch: Sequence[Window]) -> list[float]:
    """Return the log-likelihood of each window's targets. Padding stands on the right, where no token sees it."""
    width = max(len(window.inputs) for window in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    predicts = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, window in enumerate(batch):
        end = len(window.inputs)
        ids[row, :end] = torch.tensor(window.inputs)
        predicts[row, end - len(window.targets) : end] = True
    ids, predicts = ids.to(model.device), predicts.to(model.device)
    targets = torch.tensor([token for window in batch for token in window.targets], device=model.device)

    if output_layer is None:
        states = model(input_ids=ids, use_cache=False).logits[predicts]
    else:
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[predicts]
    rows = _CPU_ROWS if ids.device.type == "cpu" else max(1, _LOGITS // model.config.get_text_config().vocab_size)
    parts = []
    for some_states, some_targets in zip(torch.split(states, rows), torch.split(targets, rows), strict=True):
        logits = (some_states if output_layer is None else output_layer(some_states)).float()
        logits -= logits.amax(-1, keepdim=True)  # in place, as the exponential below: a copy takes longer than the sum
        targeted = logits.gather(-1, some_targets[:, None]).squeeze(-1)
        parts.append(targeted - logits.exp_().sum(-1).log())
    log_probabilities = torch.cat(parts).double()
    lengths = [len(window.targets) for window in batch]
    return [float(part.sum()) for part in torch.split(log_probabilities, lengths)]


@torch.inference_mode()
def split_output_layer(model: PreTrainedModel, ids: Sequence[int]) -> Any:
    """Return the layer from hidden states to logits, or None where the model does more after it (Gemma's soft cap).

    Applied to a few positions at a time it spares the logits of a whole batch: 10 GB for 16,384 tokens of Qwen2.5.
    """
    output_layer = model.get_output_embeddings()
    if output_layer is None:
        return None
    inputs = torch.tensor([ids], device=model.device)
    ours = output_layer(model.base_model(input_ids=inputs, use_cache=False).last_hidden_state)
    theirs = model(input_ids=inputs, use_cache=False).logits
    return output_layer if ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-3) else None
