"""Sequences for the trainer: blocks that documents share without seeing each other, or one conversation each.

::

    block         a a a a b b | b b c c c c      two blocks of six tokens, documents a, b, c
    position_ids  0 1 2 3 0 1 | 0 1 0 1 2 3      restart at each document: attention stays inside it

Restarted positions are all that isolates documents: transformers builds the block-diagonal mask from them as long as no
attention mask and no cache is passed. An attention mask of ones would let documents leak into each other in silence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from langadapt.models.chat import IGNORE
from langadapt.training.data import Tokens

Example = dict[str, NDArray[np.int64]]


class PackedBlocks:
    """The token stream cut every ``length`` tokens: each token stands in one block, the last may be shorter."""

    def __init__(self, tokens: Tokens, length: int) -> None:
        self.tokens = tokens
        self.length = length

    def __len__(self) -> int:
        return -(-len(self.tokens.ids) // self.length)

    def __getitem__(self, index: int) -> Example:
        if index >= len(self):
            raise IndexError(index)  # what ends a loop over the blocks
        start = index * self.length
        return _example(self.tokens, start, min(start + self.length, len(self.tokens.ids)))


class Conversations:
    """One record a sequence."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens.ends)

    def __getitem__(self, index: int) -> Example:
        start = int(self.tokens.ends[index - 1]) if index else 0
        return _example(self.tokens, start, int(self.tokens.ends[index]))


class Collator:
    """Stack examples, padded on the right to the longest; padding is a document of its own that is not learned."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Return input_ids, labels and position_ids, each (examples, longest), and the count of real tokens."""
        lengths = [len(example["input_ids"]) for example in examples]
        shape = (len(examples), max(lengths))
        ids, labels = np.full(shape, self.pad_token_id), np.full(shape, IGNORE)
        positions = np.empty(shape, np.int64)
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            ids[row, :length] = example["input_ids"]
            labels[row, :length] = example["labels"]
            positions[row, :length] = example["position_ids"]
            positions[row, length:] = np.arange(shape[1] - length)
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "position_ids": positions}
        batch["num_tokens"] = np.array([sum(lengths)])
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def _example(tokens: Tokens, start: int, end: int) -> Example:
    ids = tokens.ids[start:end].astype(np.int64)
    first, last = np.searchsorted(tokens.ends, [start, end], side="right")
    inside = tokens.ends[first:last]
    starts = np.concatenate([[0], inside[inside < end] - start])
    lengths = np.diff(np.append(starts, len(ids)))
    return {
        "input_ids": ids,
        "labels": np.where(tokens.learned[start:end], ids, IGNORE),
        "position_ids": np.arange(len(ids)) - np.repeat(starts, lengths),
    }
