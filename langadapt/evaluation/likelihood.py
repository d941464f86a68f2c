"""How many bits a model needs for held-out text: every byte of it, whatever the tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.results import Likelihood
from langadapt.evaluation.test_sets import sha256_of_items
from langadapt.models import encode_texts

_LONGEST_WINDOW = 2048  # tokens, where the recipe names none
_LOGITS = 2**26  # logits in float32 at a time: 256 MiB


@dataclass(frozen=True)
class Window:
    """One forward pass: the last ``len(targets)`` positions of ``inputs`` predict ``targets``."""

    document: int
    inputs: list[int]
    targets: list[int]


def measure_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None,
    token_budget: int,
) -> Likelihood:
    """Return bits per byte and token perplexity of ``texts`` (normalised, not empty), summed over all of them.

    ``max_length`` is the length of a window in tokens; None stands for the model's longest sequence, 2,048 at most.

    Bits per byte is -sum(log2 p) / sum(UTF-8 bytes), as in lm-evaluation-harness; it compares across tokenizers.
    Raises `UserError` when the window is longer than the model's longest sequence, and when it gives no number.
    """
    longest = longest_sequence(model)
    if max_length is None:
        max_length = min(longest or _LONGEST_WINDOW, _LONGEST_WINDOW)
    elif longest is not None and max_length > longest:
        raise UserError(f"max_length={max_length}: the longest sequence of {model.name_or_path} is {longest} tokens.")
    documents = encode_texts(tokenizer, texts)
    log_likelihoods = document_log_likelihoods(
        model,
        documents,
        prefix_id=prefix_token_id(tokenizer),
        max_length=max_length,
        token_budget=token_budget,
    )
    total = math.fsum(log_likelihoods)
    if not math.isfinite(total):
        raise UserError(
            f"{model.name_or_path}: the likelihood is {total}, no number. Try dtype=float32; if it stays, the weights "
            "are broken."
        )
    tokens = sum(map(len, documents))
    size = sum(len(text.encode()) for text in texts)
    return Likelihood(
        bits_per_byte=-total / math.log(2) / size,
        token_perplexity=math.exp(-total / tokens),
        bytes=size,
        tokens=tokens,
        documents=len(texts),
        max_length=max_length,
        items_sha256=sha256_of_items(texts),
        tokenization_sha256=hashlib.sha256(str(sorted(documents)).encode()).hexdigest(),
    )


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


def windows(document: int, ids: Sequence[int], prefix_id: int, max_length: int) -> Iterator[Window]:
    """Yield windows of at most ``max_length`` inputs that predict every token of a document exactly once.

    The rolling windows of lm-evaluation-harness with a context of one token, here for ``max_length`` 4::

        inputs   P a b c | d e f g |   f g h i        P: the prefix token
        targets  a b c d | e f g h |       i j

    A window after the first starts with the last token of the one before it. The last is filled up from the left, so
    that its few tokens are not predicted from nothing.
    """
    stream = [prefix_id, *ids]
    for start in range(0, len(ids), max_length):
        end = min(start + max_length, len(ids))
        yield Window(document, stream[max(0, end - max_length) : end], list(ids[start:end]))


def document_log_likelihoods(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    *,
    prefix_id: int,
    max_length: int,
    token_budget: int,
) -> list[float]:
    """Return the natural log-likelihood of each document, the same for any ``token_budget`` up to rounding.

    Windows of like length share a batch of at most ``token_budget`` tokens; when the GPU's memory does not hold one,
    it and those after it are halved. Log-probabilities are float32, their sums float64.
    """
    todo = [w for number, ids in enumerate(documents) for w in windows(number, ids, prefix_id, max_length)]
    todo.sort(key=lambda window: len(window.inputs), reverse=True)
    output_layer = _output_layer(model, todo[0].inputs[:2]) if todo else None
    totals = [0.0] * len(documents)
    with tqdm(total=sum(map(len, documents)), desc="likelihood", unit="token", unit_scale=True, disable=None) as bar:
        while todo:
            width = len(todo[0].inputs)
            batch = todo[: max(1, token_budget // width)]
            try:
                values = _log_likelihoods(model, output_layer, batch)
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
def _log_likelihoods(model: PreTrainedModel, output_layer: Any, batch: Sequence[Window]) -> list[float]:
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
    rows = max(1, _LOGITS // model.config.get_text_config().vocab_size)
    parts = []
    for some_states, some_targets in zip(torch.split(states, rows), torch.split(targets, rows), strict=True):
        logits = (some_states if output_layer is None else output_layer(some_states)).float()
        parts.append(logits.gather(-1, some_targets[:, None]).squeeze(-1) - logits.logsumexp(-1))
    log_probabilities = torch.cat(parts).double()
    lengths = [len(window.targets) for window in batch]
    return [float(part.sum()) for part in torch.split(log_probabilities, lengths)]


@torch.inference_mode()
def _output_layer(model: PreTrainedModel, ids: Sequence[int]) -> Any:
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
