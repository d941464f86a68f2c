"""From a file of stage 1 to tokens on disk.

Tokens are kept in flat files beside the model that is trained on them, mapped into memory by every rank: a corpus of
any size takes one pass and no memory, and a second start finds them there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files import iter_json_array, read_json_file, write_json
from langadapt.models import ChatFormatError, conversation, encode_conversation, encode_texts
from langadapt.models.chat import IGNORE
from langadapt.recipe.training import TrainingSettings

_BATCH = 256  # documents given to the tokenizer at a time

Encoded = tuple[list[int], list[bool]]  # token ids of a record, and which of them are learned


@dataclass(frozen=True)
class Tokens:
    """The tokens of all records, one after the other.

    ``ids`` (int32) and ``learned`` (bool) have one entry a token; ``ends`` (int64) has one a record, the index after
    its last token. ``skipped`` counts the records that were longer than the cutoff.
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    ends: NDArray[np.int64]
    skipped: int


def tokens_folder(settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase, dataset_sha256: str) -> Path:
    """Return where the tokens of this data under this tokenizer stand, or will stand."""
    parts = [dataset_sha256, settings.stage, tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token]
    if settings.stage == "sft":
        parts += [tokenizer.chat_template, settings.cutoff_len]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Path(settings.output_dir) / f"tokens-{digest[:16]}"


def prepare_tokens(settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Tokens:
    """Return the tokens of ``settings.dataset``, encoding them into ``folder`` if they are not there yet.

    Raises `UserError` for a record without the fields of its stage, and when nothing is left to learn from.
    """
    if not folder.is_dir():
        records = iter_json_array(settings.dataset)
        encode = encode_documents if settings.stage == "pt" else encode_conversations
        cutoff = None if settings.stage == "pt" else settings.cutoff_len
        _write_tokens(folder, encode(records, tokenizer, settings.dataset), cutoff)
    tokens = _open_tokens(folder)
    if not tokens.learned.any():
        shutil.rmtree(folder)
        raise UserError(
            f"{settings.dataset}: no token is left to learn from ({len(tokens.ends)} records used, {tokens.skipped} "
            f"longer than cutoff_len={settings.cutoff_len}). Raise cutoff_len, or look at the data."
        )
    return tokens


def encode_documents(
    records: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, source: str
) -> Iterator[Encoded]:
    """Yield every document as ``start text end``, all learned but the start.

    The end is the tokenizer's end-of-text token; so is the start where the tokenizer has no beginning-of-text token,
    so that the first word of a text is learned behind the same token that stage 4 measures it behind.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-text token (eos_token).")
    start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    for batch in _batched(enumerate(records, start=1), _BATCH):
        texts = [_field(record, "text", source, number) for number, record in batch]
        for ids in encode_texts(tokenizer, texts):
            yield [start, *ids, end], [False, *[True] * (len(ids) + 1)]


def encode_conversations(
    records: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, source: str
) -> Iterator[Encoded]:
    """Yield every record as a conversation under the chat template; only the answer is learned."""
    for number, record in enumerate(records, start=1):
        # Either part of the user's turn may be empty, but not both.
        question = [name for name in ("instruction", "input") if record.get(name)] or ["instruction"]
        for name in (*question, "output"):
            _field(record, name, source, number)
        try:
            ids, labels = encode_conversation(tokenizer, conversation(record))
        except ChatFormatError as error:
            raise UserError(f"{source}, record {number}: {error}.") from None
        yield ids, [label != IGNORE for label in labels]


def _field(record: dict[str, Any], name: str, source: str, number: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        found = f"has {', '.join(record)}" if name not in record else f"is {value!r}"
        raise UserError(f"{source}, record {number}: expected a text in `{name}`, but it {found}. Run stage 1 again.")
    return value


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _write_tokens(folder: Path, encoded: Iterator[Encoded], cutoff: int | None) -> None:
    """Write the flat files into a temporary folder, then rename it; records longer than ``cutoff`` are counted only."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    total, skipped = 0, 0
    try:
        with (
            open(temporary / "ids", "wb") as ids_file,
            open(temporary / "learned", "wb") as learned_file,
            open(temporary / "ends", "wb") as ends_file,
        ):
            for ids, learned in encoded:
                if cutoff is not None and len(ids) > cutoff:
                    skipped += 1
                    continue
                total += len(ids)
                ids_file.write(np.array(ids, np.int32).tobytes())
                learned_file.write(np.array(learned, np.bool_).tobytes())
                ends_file.write(np.array([total], np.int64).tobytes())
        write_json(temporary / "counts.json", {"skipped": skipped})
        if not folder.is_dir():
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_tokens(folder: Path) -> Tokens:
    return Tokens(
        ids=_mapped(folder / "ids", np.int32),
        learned=_mapped(folder / "learned", np.bool_),
        ends=_mapped(folder / "ends", np.int64),
        skipped=read_json_file(folder / "counts.json")["skipped"],
    )


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """Map a flat file into memory; an empty one cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")
