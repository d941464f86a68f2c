"""Lengths in tokens, counted as training will see them: the recipe's tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from langadapt.corpus.turns import answers_of
from langadapt.errors import UserError
from langadapt.files.records import Record
from langadapt.models import ChatFormatError, conversation, encode_conversation, encode_texts, load_tokenizer
from langadapt.models.chat import encode_conversations, render
from langadapt.models.folder import is_adapter
from langadapt.models.templates import set_chat_template
from langadapt.models.translation import TranslationTokenizer, is_encoder_decoder, load_translation_tokenizer

_AT_ONCE = 256  # records given to the tokenizer together

Tokenizer: TypeAlias = PreTrainedTokenizerBase | TranslationTokenizer


def open_tokenizer(name: str, template: str | None) -> Tokenizer:
    """Return the tokenizer that lengths are counted with: with a chat template, or an encoder-decoder translator's.

    Raises `UserError` for none, and without a chat template where it is no translator's.
    """
    if _is_translator(name):
        return load_translation_tokenizer(name)
    tokenizer = load_tokenizer(name)
    set_chat_template(tokenizer, template)
    try:
        encode_conversation(tokenizer, conversation({"instruction": "x", "output": "x"}))
    except ChatFormatError as error:
        raise UserError(f"{tokenizer.name_or_path}: {error}.") from None
    return tokenizer


def _is_translator(name: str) -> bool:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file() and not is_adapter(folder):
        return False  # a tokenizer alone
    return is_encoder_decoder(name)


def token_lengths(tokenizer: Tokenizer, records: Sequence[Record]) -> list[int]:
    """Return the tokens each record takes: a text behind its prefix token, or a conversation under the template.

    Of a translation for an encoder-decoder model it is the longer side that counts, each with its language token; of a
    preference the longer of its two conversations.
    """
    if isinstance(tokenizer, TranslationTokenizer):
        return _translation_lengths(tokenizer, records)
    lengths = [0] * len(records)
    for texts in (True, False):
        mine = [k for k, record in enumerate(records) if (record["task"] == "lm") == texts]
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            if texts:
                ids = encode_texts(tokenizer, [records[k]["text"] for k in some])
            else:
                whole = [(k, conversation({**records[k], "output": a})) for k in some for a in answers_of(records[k])]
                some = [k for k, _ in whole]
                ids = encode_conversations(tokenizer, [turns for _, turns in whole])
            for k, tokens in zip(some, ids, strict=True):
                lengths[k] = max(lengths[k], len(tokens) + texts)
    return lengths


def _translation_lengths(tokenizer: TranslationTokenizer, records: Sequence[Record]) -> list[int]:
    other = next((record for record in records if record["task"] != "translation"), None)
    if other is not None:
        raise UserError(
            f"{tokenizer.tokenizer.name_or_path} is an encoder-decoder translator, which learns translations only; "
            f"record {other['id']} is of task {other['task']}. Set cpt: null and leave such parts out of `sft`, or "
            "take the tokenizer of a decoder."
        )
    lengths = [0] * len(records)
    by_direction: dict[tuple[str, str], list[int]] = {}
    for k, record in enumerate(records):
        by_direction.setdefault((record["source_lang"], record["target_lang"]), []).append(k)
    for (source, target), mine in by_direction.items():
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            read = tokenizer.encode_source([records[k]["source_text"] for k in some], source, target)
            written = tokenizer.encode_target([records[k]["output"] for k in some], target)
            for k, one, other_side in zip(some, read, written, strict=True):
                lengths[k] = max(len(one), len(other_side))
    return lengths


class Cutoff:
    """Which records take more tokens than a cutoff. Each record is measured once, told by its id."""

    def __init__(self, tokenizer: Tokenizer, cutoff: int) -> None:
        self.cutoff = cutoff
        self._tokenizer = tokenizer
        self._bounded = isinstance(tokenizer, PreTrainedTokenizerBase) and bounded_by_bytes(tokenizer)
        self._excess: dict[str, int] = {}

    def excess(self, records: Sequence[Record]) -> list[int]:
        """Return how many tokens each record takes that takes more than the cutoff, and 0 for all others.

        Byte-level BPE makes no more tokens than there are bytes, so that a record of no more bytes needs no tokenizer.
        """
        new = [record for record in records if record["id"] not in self._excess]
        unsure = [record for record in new if not self._fits_by_bytes(record)]
        self._excess |= {record["id"]: 0 for record in new}
        for record, length in zip(unsure, token_lengths(self._tokenizer, unsure), strict=True):
            if length > self.cutoff:
                self._excess[record["id"]] = length
        return [self._excess[record["id"]] for record in records]

    def _fits_by_bytes(self, record: Record) -> bool:
        if isinstance(self._tokenizer, TranslationTokenizer) or not self._bounded:
            return False
        return _bytes_of(self._tokenizer, record) <= self.cutoff


def bounded_by_bytes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether a tokenizer makes at most one token a byte of text in NFC: byte-level BPE that adds nothing."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = backend["pre_tokenizer"] or {}
    byte_level = [step for step in steps.get("pretokenizers", [steps]) if step.get("type") == "ByteLevel"]
    normalizer = backend["normalizer"]
    return (
        backend["model"]["type"] == "BPE"
        and len(byte_level) == 1
        and not byte_level[0]["add_prefix_space"]
        and (normalizer is None or normalizer["type"] == "NFC")
    )


def cutoff_suffix(cutoff: int) -> str:
    """Return the cutoff as it stands in file names: ``4k`` for 4,096, ``1000`` for 1,000."""
    return f"{cutoff // 1024}k" if cutoff % 1024 == 0 else str(cutoff)


def _bytes_of(tokenizer: PreTrainedTokenizerBase, record: Record) -> int:
    """Return the bytes of what is tokenised, and one for the prefix of a text; a control token counts as its name."""
    if record["task"] == "lm":
        return len(record["text"].encode()) + 1
    whole = (conversation({**record, "output": answer}) for answer in answers_of(record))
    return max(len(render(tokenizer, turns).encode()) for turns in whole)
