"""Blocks for the trainer: documents that share one without seeing each other, or seeing those before, or one alone.

::

    block                   a a a a b b c c c
    position_ids, isolated  0 1 2 3 0 1 0 1 2      restart at each document: attention stays inside it
    position_ids, joined    0 1 2 3 4 5 6 7 8      as if the block were one document
    labels                  - a a a - b - c c      the first token of each is not learned: it would be from another

Restarted positions are all that isolates documents: transformers builds the block-diagonal mask from them as long as no
attention mask and no cache is passed. An attention mask of ones would let documents leak into each other in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from langadapt.models.chat import IGNORE
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.training import Packing
from langadapt.training.data import AnyTokenizer, Tokens

Example = dict[str, NDArray[np.int64]]

_SHOWN_DOCUMENTS, _SHOWN_HEAD, _SHOWN_TAIL = 3, 160, 40  # the latter two in characters


class Blocks:
    """The blocks of `Tokens` as examples: input_ids, labels and position_ids, of at most ``cutoff_len`` tokens each."""

    def __init__(self, tokens: Tokens, packing: Packing) -> None:
        self.tokens = tokens
        self.isolated = packing != "joined"

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each block."""
        return self.tokens.block_lengths()

    def __len__(self) -> int:
        return len(self.tokens.blocks) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)  # what ends a loop over the blocks
        tokens = self.tokens
        pieces = tokens.order[tokens.blocks[index] : tokens.blocks[index + 1]]
        starts, ends = tokens.pieces[pieces], tokens.pieces[pieces + 1]
        ids = np.concatenate([tokens.ids[a:b] for a, b in zip(starts, ends, strict=True)]).astype(np.int64)
        learned = np.concatenate([tokens.learned[a:b] for a, b in zip(starts, ends, strict=True)])
        positions = np.arange(len(ids))
        if self.isolated:
            lengths = ends - starts
            positions -= np.repeat(np.cumsum(lengths) - lengths, lengths)
        return {"input_ids": ids, "labels": np.where(learned, ids, IGNORE), "position_ids": positions}


class Collator:
    """Stack examples, padded on the right to the longest; padding is a document of its own that is not learned.

    ``flat`` puts them one after the other into a single row, without padding. Flash attention needs that: only in a
    batch of one row do restarted positions isolate documents under it.
    """

    def __init__(self, pad_token_id: int, flat: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.flat = flat

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Return input_ids, labels and position_ids, each (examples, longest), and the count of real tokens."""
        if self.flat:
            batch = {name: np.concatenate([example[name] for example in examples])[None] for name in examples[0]}
        else:
            batch = self._stacked(examples)
        batch["num_tokens"] = np.array([sum(len(example["input_ids"]) for example in examples)])
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _stacked(self, examples: list[Example]) -> Example:
        shape = (len(examples), max(len(example["input_ids"]) for example in examples))
        ids, labels = np.full(shape, self.pad_token_id), np.full(shape, IGNORE)
        positions = np.empty(shape, np.int64)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = example["input_ids"]
            labels[row, :length] = example["labels"]
            positions[row, :length] = example["position_ids"]
            positions[row, length:] = np.arange(shape[1] - length)
        return {"input_ids": ids, "labels": labels, "position_ids": positions}


def efficiency(tokens: Tokens, cutoff_len: int) -> float:
    """Return the share of real tokens among those of all blocks, each padded to ``cutoff_len``."""
    return len(tokens.ids) / ((len(tokens.blocks) - 1) * cutoff_len)


def describe(tokens: Tokens, cutoff_len: int, packing: Packing) -> Iterator[str]:
    """Yield one sentence each about what is trained on, how it is packed, what was cut, and what was left out."""
    counts, pieces, blocks = tokens.counts, len(tokens.order), len(tokens.blocks) - 1
    yield f"{_several(counts.records, 'record')}, {len(tokens.ids):,} tokens, {counts.learned:,} learned"
    if packing != "none":
        yield (
            f"packed best-fit into {_several(blocks, 'block')} of {cutoff_len:,} tokens, {packing}: "
            f"{pieces / blocks:.1f} documents a block, {efficiency(tokens, cutoff_len):.2%} of it filled"
        )
    if counts.cut:
        yield (
            f"{_several(counts.cut, 'document')} longer than cutoff_len={cutoff_len} cut, which makes "
            f"{_several(pieces - counts.records, 'further piece')} without what stood before"
        )
    if counts.too_long:
        yield f"{_several(counts.too_long, 'record')} longer than cutoff_len={cutoff_len} left out"
    if counts.directions:
        yield "directions: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.directions.items()))
    if counts.unasked:
        others = _several(counts.unasked, "record")
        yield f"{others} of another task, or out of a language not in source_languages, left out"
    if counts.empty:
        some = ", ".join(map(str, counts.empty_numbers)) + (", ..." if counts.empty > len(counts.empty_numbers) else "")
        yield f"{_several(counts.empty, 'record')} with nothing to learn under this tokenizer left out: {some}"


def show_block(tokens: Tokens, tokenizer: AnyTokenizer, index: int = 0) -> str:
    """Return the first documents of a block as text, «what is not learned» marked, long parts without their middle."""
    if isinstance(tokenizer, TranslationTokenizer):
        tokenizer = tokenizer.tokenizer
    pieces = tokens.order[tokens.blocks[index] : tokens.blocks[index + 1]]
    lines = []
    for piece in pieces[:_SHOWN_DOCUMENTS]:
        inside = slice(tokens.pieces[piece], tokens.pieces[piece + 1])
        ids, learned = tokens.ids[inside], tokens.learned[inside]
        runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(learned)) + 1)
        parts = [(_shortened(tokenizer.decode(ids[run])), learned[run[0]]) for run in runs]
        lines.append("".join(text if is_learned else f"«{text}»" for text, is_learned in parts))
    if len(pieces) > _SHOWN_DOCUMENTS:
        lines.append(f"({len(pieces) - _SHOWN_DOCUMENTS} more)")
    return "\n".join(f"  [{number}] {line}" for number, line in enumerate(lines, start=1))


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_HEAD + _SHOWN_TAIL else f"{text[:_SHOWN_HEAD]} ... {text[-_SHOWN_TAIL:]}"
