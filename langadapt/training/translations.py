"""Translations for an encoder-decoder model: what the encoder reads, what the decoder is to write.

::

    a piece on disk      Lsource x x end Ltarget y y end      «not learned», then learned
    input_ids            Lsource x x end
    labels                               Ltarget y y end
    decoder_input_ids                    start Ltarget y y    the labels, one place later
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from langadapt.errors import UserError
from langadapt.models import IGNORE
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.training import TrainingSettings

if TYPE_CHECKING:
    from langadapt.training.data import Counts, Encoded, Tokens

_BATCH = 1000  # records encoded at a time
_FIELDS = ("source_text", "output", "source_lang", "target_lang")


def encode_translations(
    records: Iterable[dict[str, Any]],
    tokenizer: TranslationTokenizer,
    source: str,
    settings: TrainingSettings,
    counts: Counts,
) -> Iterator[Encoded | None]:
    """Yield every record as source and target in one, the target learned; None for one that is left out.

    Left out are records of other tasks than translation and those out of other languages than ``source_languages``,
    which ``counts`` counts as ``unasked``, and those of which a side is longer than ``cutoff_len``. Of the others,
    ``counts.directions`` counts each direction. A target without text comes with nothing to learn. Raises `UserError`
    for a record without texts or languages, and for a direction that the model does not know.
    """
    numbered = iter(enumerate(records, start=1))
    while batch := list(islice(numbered, _BATCH)):
        yield from _encode_batch(batch, tokenizer, source, settings, counts)


def _encode_batch(
    batch: list[tuple[int, dict[str, Any]]],
    tokenizer: TranslationTokenizer,
    source: str,
    settings: TrainingSettings,
    counts: Counts,
) -> Iterator[Encoded | None]:
    groups: dict[tuple[str, str], list[int]] = {}
    asked = settings.source_languages
    for place, (number, record) in enumerate(batch):
        if record.get("task") != "translation":
            continue
        for name in _FIELDS:
            if not isinstance(record.get(name), str) or not record[name]:
                raise UserError(
                    f"{source}, record {number}: expected a text in `{name}`, but it is {record.get(name)!r}. Run "
                    "stage 1 again."
                )
        if asked is None or record["source_lang"] in asked:
            groups.setdefault((record["source_lang"], record["target_lang"]), []).append(place)
    encoded: dict[int, Encoded | None] = {}
    for (source_lang, target_lang), places in groups.items():
        texts, references = ([batch[place][1][name] for place in places] for name in ("source_text", "output"))
        sources = tokenizer.encode_source(texts, source_lang, target_lang)
        targets = tokenizer.encode_target(references, target_lang)
        (bare,) = tokenizer.encode_target([""], target_lang)
        for place, read, written in zip(places, sources, targets, strict=True):
            encoded[place] = None
            if max(len(read), len(written)) > settings.cutoff_len:
                counts.too_long += 1
                continue
            learned = np.arange(len(read) + len(written)) >= len(read)
            if len(written) > len(bare):
                direction = f"{source_lang}-{target_lang}"
                counts.directions[direction] = counts.directions.get(direction, 0) + 1
            else:
                learned[:] = False
            encoded[place] = np.array([*read, *written], np.int32), learned
    for place in range(len(batch)):
        counts.unasked += place not in encoded
        yield encoded.get(place)


class Translations:
    """The pieces of `Tokens` as examples: input_ids of the source, labels of the target."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each example's longer side: both are padded."""
        targets = self.tokens.target_lengths()
        return np.maximum(targets, np.diff(self.tokens.pieces) - targets)[self.tokens.order]

    def __len__(self) -> int:
        return len(self.tokens.blocks) - 1

    def __getitem__(self, index: int) -> dict[str, NDArray[np.int64]]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # what ends a loop over the examples
        tokens = self.tokens
        piece = tokens.order[index]
        inside = slice(tokens.pieces[piece], tokens.pieces[piece + 1])
        ids, learned = tokens.ids[inside].astype(np.int64), tokens.learned[inside]
        return {"input_ids": ids[~learned], "labels": ids[learned]}


class TranslationCollator:
    """Stack examples, source and target each padded on the right to the longest: not seen, and not learned."""

    def __init__(self, pad_token_id: int, decoder_start_token_id: int) -> None:
        self.pad_token_id, self.decoder_start_token_id = pad_token_id, decoder_start_token_id

    def __call__(self, examples: list[dict[str, NDArray[np.int64]]]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask (examples, longest source), labels and decoder_input_ids (examples, longest
        target), and the counts of real tokens of source and target: num_tokens (2).
        """
        sources, targets = ([example[name] for example in examples] for name in ("input_ids", "labels"))
        labels = _padded(targets, IGNORE)
        before = np.where(labels == IGNORE, self.pad_token_id, labels)[:, :-1]
        start = np.full((len(examples), 1), self.decoder_start_token_id)
        arrays = {
            "input_ids": _padded(sources, self.pad_token_id),
            "attention_mask": _padded([np.ones_like(ids) for ids in sources], 0),
            "labels": labels,
            "decoder_input_ids": np.concatenate([start, before], axis=1),
            "num_tokens": np.array([sum(map(len, sources)), sum(map(len, targets))]),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _padded(rows: list[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    padded = np.full((len(rows), max(map(len, rows))), value)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded
