"""The rows of new tokens in a model's embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

_MULTIPLE = 128  # what hardware likes; more than that is chance


def mean_rows(matrix: torch.Tensor, old_tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return for each new token the mean of the rows of its old tokens: (new tokens, width), float32."""
    device = matrix.device
    ids = torch.tensor([token for tokens in old_tokens for token in tokens], device=device)
    lengths = torch.tensor([len(tokens) for tokens in old_tokens], device=device)
    owners = torch.repeat_interleave(torch.arange(len(old_tokens), device=device), lengths)
    sums = torch.zeros(len(old_tokens), matrix.shape[1], device=device)
    sums.index_add_(0, owners, matrix.detach()[ids].float())
    return sums / lengths[:, None]


@torch.no_grad()
def append_rows(model: PreTrainedModel, first: int, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """Set the rows from ``first`` on to ``inputs`` and ``outputs`` (new tokens, width), growing the model as it has to.

    Tied embeddings stay tied and get ``inputs``. The number of rows stays a multiple of the power of two, up to 128,
    that it is one of; rows without a token, which such rounding makes, are the mean of all old ones.
    """
    old, needed = model.get_input_embeddings().weight.shape[0], first + len(inputs)
    if needed > old:
        multiple = math.gcd(old, _MULTIPLE)
        model.resize_token_embeddings(-(-needed // multiple) * multiple, mean_resizing=False)
    for layer, rows in ((model.get_output_embeddings(), outputs), (model.get_input_embeddings(), inputs)):
        layer.weight[old:] = layer.weight[:old].float().mean(0)
        layer.weight[first:needed] = rows


def is_tied(model: PreTrainedModel) -> bool:
    """Say whether input and output embeddings are one matrix."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight
