"""From a file of stage 1 to tokens on disk, packed into the blocks that the model is trained on.

One process encodes and packs, before the ranks start; they map the flat files into memory. A corpus of any size takes
one pass and no memory, and a second start finds everything there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files import iter_json_array, read_json_file, sha256_of, write_json
from langadapt.models import ChatFormatError, conversation, encode_texts, end_of_turn_id
from langadapt.models.chat import IGNORE, encode_labelled
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.training import TrainingSettings
from langadapt.training.best_fit import pack
from langadapt.training.translations import encode_translations

AnyTokenizer: TypeAlias = PreTrainedTokenizerBase | TranslationTokenizer
Encoded = tuple[NDArray[np.int32], NDArray[np.bool_]]  # token ids of a record, and which of them are learned

BLOCKS_FORMAT = 2  # to be raised when what is written for the same records changes

_BATCH = 2**20  # characters given to the tokenizer at a time: it holds a hundred bytes and more for each token
_NAMED = 5  # records that a message names


@dataclass
class Counts:
    """What became of the records of a file.

    Of ``records`` used, ``cut`` were longer than ``cutoff_len`` and stand in several pieces. Left out are the
    conversations and translations ``too_long`` for a block and the records that are ``empty``: nothing to learn but the
    end. The first of those are ``empty_numbers``, counted from 1. ``learned`` counts tokens. For seq2seq, ``unasked``
    records are no translations, or out of languages that are not asked for, and ``directions`` counts the others.
    """

    records: int = 0
    cut: int = 0
    too_long: int = 0
    empty: int = 0
    empty_numbers: list[int] = field(default_factory=list)
    learned: int = 0
    unasked: int = 0
    directions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """The tokens of all records in pieces of at most ``cutoff_len``, and which pieces make a block.

    ``ids`` (int32) and ``learned`` (bool) have one entry a token. Piece p is ``ids[pieces[p]:pieces[p + 1]]``; block b
    holds the pieces ``order[blocks[b]:blocks[b + 1]]`` (all three int64). The first token of a piece is never learned,
    since nothing stands before it.
    """

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]
    pieces: NDArray[np.int64]
    order: NDArray[np.int64]
    blocks: NDArray[np.int64]
    counts: Counts

    def block_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each block."""
        return np.add.reduceat(np.diff(self.pieces)[self.order], self.blocks[:-1])

    def target_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each piece that are learned: of a translation the target's."""
        return np.add.reduceat(self.learned, self.pieces[:-1], dtype=np.int64)


def pieces_a_record(settings: TrainingSettings) -> int:
    """Return how many sequences a record is, if it is not cut: of preferences the chosen and the rejected one."""
    return 2 if settings.stage == "dpo" else 1


def tokens_folder(settings: TrainingSettings, tokenizer: AnyTokenizer, dataset_sha256: str) -> Path:
    """Return where the tokens of this data under this tokenizer and these settings stand, or will stand."""
    layout = [settings.cutoff_len, settings.packing != "none", settings.seed]
    parts = [BLOCKS_FORMAT, dataset_sha256, settings.stage, layout]
    if isinstance(tokenizer, TranslationTokenizer):
        parts += [tokenizer.fingerprint(), settings.source_languages]
    else:
        parts += [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map]
        if settings.stage != "pt":
            parts.append(tokenizer.chat_template)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Path(settings.output_dir) / f"tokens-{digest[:16]}"


def evaluation_tokens_folder(settings: TrainingSettings, tokenizer: AnyTokenizer) -> Path:
    """Return where the tokens of ``settings.eval_dataset`` stand, or will stand."""
    return tokens_folder(settings, tokenizer, sha256_of(str(settings.eval_dataset)))


def prepare_tokens(dataset: str, settings: TrainingSettings, tokenizer: AnyTokenizer, folder: Path) -> Tokens:
    """Return the tokens of a file of records, encoded and packed into ``folder`` if they are not there yet.

    Any number of processes may do so at once: the first that is done makes the folder, whole.

    Packed, the blocks come in an order drawn with ``settings.seed``; otherwise each piece is a block, of preferences
    each pair of pieces, in the order of the records. Raises `UserError` for a record without the fields of its stage,
    for a chat template under which answers cannot be learned, and when nothing is left to learn from.
    """
    if folder.is_dir():
        return open_tokens(folder)
    # The process alone is not enough of a name: on a shared disk another machine may have one of the same number.
    temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        counts = Counts()
        # disable=None: no bar where standard error is no terminal
        records = tqdm(iter_json_array(dataset), "encoding", unit=" records", disable=None)
        encoded: Iterator[Encoded | None]
        if isinstance(tokenizer, TranslationTokenizer):
            encoded = encode_translations(records, tokenizer, dataset, settings, counts)
        else:
            encode = {"pt": encode_documents, "sft": encode_conversations, "dpo": encode_pairs}[settings.stage]
            encoded = encode(records, tokenizer, dataset)
        _write_tokens(temporary, settings, encoded, counts)
        if not counts.records + counts.too_long + counts.empty + counts.unasked:
            raise UserError(f"{dataset}: the file holds no records. Run stage 1 again.")
        if counts.learned == 0:
            raise UserError(
                f"{dataset}: no token is left to learn from ({counts.records} records used, {counts.too_long} "
                f"longer than cutoff_len={settings.cutoff_len}, {counts.empty} empty, {counts.unasked} of another "
                "task or source language). Raise cutoff_len, or look at the data."
            )
        _write_blocks(temporary, settings)
        write_json(temporary / "counts.json", asdict(counts))
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_tokens(folder)


def open_tokens(folder: Path) -> Tokens:
    """Map what `prepare_tokens` wrote; raises `UserError` where it is not there."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: the encoded data is not there. The launcher makes it on every machine before training starts: "
            "start with 2_train_cpt.sh or 3_train_sft.sh."
        )
    return Tokens(
        ids=_mapped(folder / "ids", np.int32),
        learned=_mapped(folder / "learned", np.bool_),
        pieces=_mapped(folder / "pieces", np.int64),
        order=_mapped(folder / "order", np.int64),
        blocks=_mapped(folder / "blocks", np.int64),
        counts=Counts(**read_json_file(folder / "counts.json")),
    )


def delete_tokens(output_dir: str | Path) -> None:
    """Delete the tokens of a run that is finished, those of other settings before it, and what killed starts left."""
    name = "tokens-" + "[0-9a-f]" * 16
    for folder in (*Path(output_dir).glob(name), *Path(output_dir).glob(f".{name}.*.tmp")):
        shutil.rmtree(folder, ignore_errors=True)  # NFS keeps files that are still mapped


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
    for batch in _numbered_batches(records):
        texts = [_field(record, "text", source, number) for number, record in batch]
        for text_ids in encode_texts(tokenizer, texts):
            ids = np.array([start, *text_ids, end], np.int32)
            yield ids, np.arange(len(ids)) > 0


def encode_conversations(
    records: Iterable[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    answers: Sequence[str] = ("output",),
) -> Iterator[Encoded]:
    """Yield every record as a conversation under the chat template; only what the assistant says is learned.

    A record with several ``answers`` is as many conversations, one after the other.
    """
    try:
        end = end_of_turn_id(tokenizer)
    except ChatFormatError as error:
        raise UserError(f"{tokenizer.name_or_path}: {error}.") from None
    for batch in _numbered_batches(records):
        for number, record in batch:
            # Either part of the user's turn may be empty, but not both.
            question = [name for name in ("instruction", "input") if record.get(name)] or ["instruction"]
            for name in (*question, *answers):
                _field(record, name, source, number)
            _check_turns_before(record, source, number)
        answered = [(number, record, name) for number, record in batch for name in answers]
        encoded = encode_labelled(
            tokenizer, [conversation({**record, "output": record[n]}) for _, record, n in answered]
        )
        for number, _, _ in answered:
            try:
                ids, labels = (np.array(row, np.int32) for row in next(encoded))
            except ChatFormatError as error:
                raise UserError(f"{source}, record {number}: {error}.") from None
            learned = labels != IGNORE
            if ids[learned][-1] != end:
                raise UserError(
                    f"{source}, record {number}: the answer ends in {tokenizer.decode(ids[learned][-1:])!r} and not in "
                    f"{tokenizer.decode([end])!r}, at which generation stops. Use another template (key `template`)."
                )
            yield ids, learned


def encode_pairs(
    records: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, source: str
) -> Iterator[Encoded]:
    """Yield every preference pair as two conversations, the chosen one first.

    Learned is the last answer alone, up to the token that ends it, and nothing stands behind that: what a template
    writes between two turns is no part of an answer.
    """
    for ids, learned in encode_conversations(records, tokenizer, source, answers=("chosen", "rejected")):
        end = int(np.flatnonzero(learned)[-1]) + 1
        start = int(np.flatnonzero(~learned[:end])[-1]) + 1
        yield ids[:end], np.arange(end) >= start


def _field(record: dict[str, Any], name: str, source: str, number: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        found = f"has {', '.join(record)}" if name not in record else f"is {value!r}"
        way_out = "Run stage 1 again."
        for stage, field_of_stage in (("pt", "text"), ("sft", "output"), ("dpo", "chosen")):
            if name not in record and field_of_stage in record:
                way_out = f"This looks like a file for stage: {stage}; check `stage` and `dataset`."
        raise UserError(f"{source}, record {number}: expected a text in `{name}`, but it {found}. {way_out}")
    return value


def _check_turns_before(record: dict[str, Any], source: str, number: int) -> None:
    """Check what may stand in a conversation before its question, `null` and nothing meaning none."""
    system, history = record.get("system") or "", record.get("history") or []
    if not isinstance(system, str):
        raise UserError(f"{source}, record {number}: expected a text in `system`, but it is {system!r}.")
    if not isinstance(history, list) or not all(map(_is_turn, history)):
        raise UserError(
            f"{source}, record {number}: expected [user, assistant] texts in `history`, but it is {history!r}."
        )


def _is_turn(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _numbered_batches(records: Iterable[dict[str, Any]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    batch, size = [], 0
    for number, record in enumerate(records, start=1):
        batch.append((number, record))
        size += sum(len(str(value)) for value in record.values())
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_tokens(folder: Path, settings: TrainingSettings, encoded: Iterator[Encoded | None], counts: Counts) -> None:
    """Write ids, learned and pieces; count. What is longer than a block is cut for pt, left out for sft and dpo."""
    cutoff, total = settings.cutoff_len, 0
    if settings.stage == "seq2seq":
        cutoff *= 2  # source and target have one each
    of_record = zip(*[encoded] * pieces_a_record(settings), strict=True)
    with (
        open(folder / "ids", "wb") as ids_file,
        open(folder / "learned", "wb") as learned_file,
        open(folder / "pieces", "wb") as pieces_file,
    ):
        pieces_file.write(np.zeros(1, np.int64).tobytes())
        for number, record in enumerate(of_record, start=1):
            sequences = [each for each in record if each is not None]
            if not sequences:
                continue
            if settings.stage in ("sft", "dpo") and any(len(ids) > cutoff for ids, _ in sequences):
                counts.too_long += 1
                continue
            if any(np.count_nonzero(learned) < 2 for _, learned in sequences):
                counts.empty += 1
                counts.empty_numbers = [*counts.empty_numbers, number][:_NAMED]
                continue
            for ids, learned in sequences:
                starts = np.arange(0, len(ids), cutoff)
                if len(starts) > 1 and len(ids) - starts[-1] == 1:
                    starts[-1] -= 1  # the end by itself would be a piece with nothing to learn
                learned[starts] = False
                ids_file.write(ids.tobytes())
                learned_file.write(learned.tobytes())
                pieces_file.write((total + np.append(starts[1:], len(ids))).tobytes())
                total += len(ids)
                counts.cut += len(starts) > 1
                counts.learned += int(np.count_nonzero(learned))
            counts.records += 1


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    return np.asarray(np.memmap(path, dtype, mode="r"))  # a plain array, which is sliced several times faster


def _write_blocks(folder: Path, settings: TrainingSettings) -> None:
    pieces = np.fromfile(folder / "pieces", np.int64)
    lengths = pieces[1:] - pieces[:-1]
    if settings.packing == "none":
        order, blocks = np.arange(len(lengths)), np.arange(0, len(lengths) + 1, pieces_a_record(settings))
    else:
        order, blocks = pack(lengths, settings.cutoff_len, settings.seed)
    (folder / "order").write_bytes(order.tobytes())
    (folder / "blocks").write_bytes(blocks.tobytes())
