"""Checkpoints of different vocabularies: the rows of embedding and output matrix matched by their tokens.

Only rows of tokens that all three checkpoints have are compared; a row without a token (matrices are often padded) is
matched by its number. Tokens that CPT and SFT have and the base lacks are measured apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray
from tokenizers import Tokenizer

from langadapt.errors import UserError
from langadapt.models.folder import adapter_base, first_line, is_adapter
from langadapt.weights.measuring import Source
from langadapt.weights.stored import Values
from langadapt.weights.tensor_types import tensor_type

if TYPE_CHECKING:
    from langadapt.weights.checkpoints import Checkpoint


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor, in an order of their own."""

    whole: Source
    numbers: NDArray[numpy.int64]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def dtype(self) -> str:
        return self.whole.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), *self.whole.shape[1:])

    @property
    def rows(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> int:
        return self.whole.columns

    def read(self, first: int, last: int) -> Values:
        """Return the rows at places ``first`` to ``last`` (not with it); neighbours are read together."""
        wanted = self.numbers[first:last]
        runs = numpy.split(wanted, numpy.flatnonzero(numpy.diff(wanted) != 1) + 1)
        return numpy.concatenate([self.whole.read(int(run[0]), int(run[-1]) + 1) for run in runs])

    def pieces(self, first: int, last: int, rows: int) -> Iterator[Values]:
        """Yield rows ``first`` to ``last`` (not with it), ``rows`` at a time."""
        whole = self.read(first, last)
        yield from (whole[start : start + rows] for start in range(0, last - first, rows))

    def read_columns(self, first: int, last: int) -> Values:
        """Return columns ``first`` to ``last`` (not with it), [rows, columns]."""
        return self.whole.read_columns(first, last)[self.numbers]


@dataclass(frozen=True)
class Alignment:
    """How rows were matched: ``counts`` for the results, and the rows of tokens that the base lacks, by tensor."""

    counts: dict[str, Any]
    new_rows: list[list[Source]]


def align_rows(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], Alignment | None]:
    """Return the checkpoints with the rows of their common tokens, and how they were matched; None where all are alike.

    Without a tokenizer.json in each folder rows are taken as they are.
    """
    vocabularies = [_vocabulary(checkpoint.path) for checkpoint in checkpoints]
    known = [vocabulary for vocabulary in vocabularies if vocabulary is not None]
    if len(known) < len(checkpoints) or all(vocabulary == known[0] for vocabulary in known[1:]):
        return list(checkpoints), None
    tensors = [dict(checkpoint.tensors) for checkpoint in checkpoints]
    new_rows: list[list[Source]] = []
    counts: dict[str, Any] = {}
    for name in sorted(set(tensors[0]).intersection(*tensors[1:])):
        whole = [own[name] for own in tensors]
        if not all(_has_a_row_a_token(one, len(words)) for one, words in zip(whole, known, strict=True)):
            continue
        keys = [_keys(words, one.rows) for words, one in zip(known, whole, strict=True)]
        common = [key for key in keys[0] if all(key in other for other in keys[1:])]
        added = [key for key in keys[1] if key not in keys[0] and key in keys[2] and isinstance(key, str)]
        for own, one, places in zip(tensors, whole, keys, strict=True):
            own[name] = Rows(one, _numbers(places, common))
        if added:
            later = [Rows(one, _numbers(places, added)) for one, places in zip(whole[1:], keys[1:], strict=True)]
            new_rows.append([later[0], *later])
        counts = {
            "rows_compared": len(common),
            "new_tokens": len(added),
            "rows_left_out": {c.role: len(k) - len(common) for c, k in zip(checkpoints, keys, strict=True)},
        }
    aligned = [replace(c, tensors=own) for c, own in zip(checkpoints, tensors, strict=True)]
    return aligned, Alignment(counts, new_rows) if counts else None


def tokenizer_file(path: Path) -> Path | None:
    """Return the tokenizer.json of a checkpoint's folder, for an adapter perhaps its base's; None if there is none."""
    file = path / "tokenizer.json"
    if not file.is_file() and is_adapter(path):
        file = Path(adapter_base(path)) / "tokenizer.json"
    return file if file.is_file() else None


def _vocabulary(path: Path) -> dict[str, int] | None:
    file = tokenizer_file(path)
    if file is None:
        return None
    try:
        return dict(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{file}: not a readable tokenizer ({first_line(error)}). Copy the file again.") from None


def _has_a_row_a_token(tensor: Source, tokens: int) -> bool:
    kinds = ("embedding", "output")
    return tensor_type(tensor.name) in kinds and len(tensor.shape) == 2 and tensor.rows >= tokens


def _keys(vocabulary: dict[str, int], rows: int) -> dict[str | int, int]:
    """Return the row of each token, and of each row without a token under its own number, in the order of rows."""
    tokens = {row: token for token, row in vocabulary.items()}
    return {tokens.get(row, row): row for row in range(rows)}


def _numbers(places: dict[str | int, int], keys: Sequence[str | int]) -> NDArray[numpy.int64]:
    return numpy.array([places[key] for key in keys], dtype=numpy.int64)
