"""Lengths in tokens, counted as training will see them: the recipe's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files.records import Record
from langadapt.models import ChatFormatError, conversation, encode_conversation, encode_text, load_tokenizer
from langadapt.models.templates import set_chat_template


def open_tokenizer(name: str, template: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lengths are counted with, with its chat template; raise `UserError` without one."""
    tokenizer = load_tokenizer(name)
    set_chat_template(tokenizer, template)
    return tokenizer


def token_length(tokenizer: PreTrainedTokenizerBase, record: Record) -> int:
    """Return the tokens a record takes: a text behind its prefix token, or a conversation under the chat template."""
    if record["task"] == "lm":
        return len(encode_text(tokenizer, record["text"])) + 1
    try:
        ids, _ = encode_conversation(tokenizer, conversation(record))
    except ChatFormatError as error:
        raise UserError(f"{tokenizer.name_or_path}: {error}.") from None
    return len(ids)


def within(records: Iterable[Record], cutoff: int, length: Callable[[Record], int]) -> tuple[list[Record], int]:
    """Return the records of at most ``cutoff`` tokens, and how many were longer."""
    kept, longer = [], 0
    for record in records:
        if length(record) <= cutoff:
            kept.append(record)
        else:
            longer += 1
    return kept, longer


def cutoff_suffix(cutoff: int) -> str:
    """Return the cutoff as it stands in file names: ``4k`` for 4,096, ``1000`` for 1,000."""
    return f"{cutoff // 1024}k" if cutoff % 1024 == 0 else str(cutoff)
