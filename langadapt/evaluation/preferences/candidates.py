"""What a model answers when it is asked the same several times."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.files import check_vouched, iter_json_array
from langadapt.files.partial import PartialFile
from langadapt.files.records import Record
from langadapt.inference.generation import generate_batched
from langadapt.inference.resuming import generate_missing, model_files
from langadapt.models import (
    conversation,
    encode_prompt,
    find_model,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    stop_token_ids,
    user_turn,
)
from langadapt.models.chat import encode_text
from langadapt.models.likelihood import longest_sequence
from langadapt.recipe.pairs import PairSettings

_EXTRA_TOKENS = 16
_KEYS = ("samples", "temperature", "top_p", "seed", "length_ratio", "dtype")  # what an answer depends on


@dataclass(frozen=True)
class Answer:
    """One candidate; ``ended`` says that the model came to its end, and was not cut off."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Candidates:
    """A record with the answers drawn for it, in their order."""

    record: Record
    answers: Sequence[Answer]

    @property
    def source(self) -> str:
        """What was to be translated, or all that was asked."""
        return str(self.record.get("source_text") or user_turn(self.record))


def read_records(settings: PairSettings) -> list[Record]:
    """Return the records to ask, in the order of their file.

    Raises `UserError` for a held-out file, one that stage 1 does not vouch for, and one without answers.
    """
    path = Path(settings.dataset)
    if "_test" in path.stem or "_sft_valid" in path.stem:
        raise UserError(
            f"dataset={path}: a test set or one to validate on, never trained on. Name a training file of stage 1."
        )
    check_vouched(path)
    records = list(iter_json_array(path))
    for number, record in enumerate(records, start=1):
        if not record.get("output") or not record.get("instruction") or "id" not in record:
            raise UserError(
                f"{path}, record {number}: expected `id`, `instruction` and `output`, but it has {', '.join(record)}. "
                "Name a file for fine-tuning that stage 1 wrote (*_sft_*.json)."
            )
    if settings.limit is not None and settings.limit < len(records):
        places = sorted(random.Random(settings.seed).sample(range(len(records)), settings.limit))
        records = [records[place] for place in places]
    return records


def draw_candidates(
    records: Sequence[Record], settings: PairSettings, ranks: Ranks
) -> tuple[list[Candidates], PreTrainedTokenizerBase]:
    """Return ``settings.samples`` answers to each record, and the tokenizer of the model that gave them.

    Each answer is drawn by a seed of its own, made of the settings' seed, the record's id and its number. What is drawn
    stands in <name>_candidates.partial.jsonl, from which a run that was killed goes on; it stays, so that the pairs
    can be made anew by another judge.
    """
    find_model(settings.model_path)
    tokenizer = load_tokenizer(settings.model_path)
    if not tokenizer.chat_template:
        raise UserError(f"{settings.model_path}: its tokenizer has no chat template; name a model trained to answer.")
    device = pick_device(ranks.device(settings.device))
    dtype = pick_dtype(settings.dtype, device)
    model = load_model(settings.model_path, dtype, device, settings.trust_remote_code)
    window = longest_sequence(model)
    prompts, limits = [], []
    for record in records:
        prompt = encode_prompt(tokenizer, conversation(record)[:-1])
        wanted = math.ceil(settings.length_ratio * len(encode_text(tokenizer, record["output"]))) + _EXTRA_TOKENS
        limits.append(wanted if window is None else min(wanted, window - len(prompt)))
        prompts.append(prompt)
        if limits[-1] < 1:
            raise UserError(
                f"{settings.dataset}, the record {record['id']!r} takes {len(prompt)} tokens, {settings.model_path} at "
                f"most {window}. Use the file with a smaller cutoff in its name."
            )
    every = [(place, number) for place in range(len(records)) for number in range(settings.samples)]
    names = [f"{records[place]['id']} {number}" for place, number in every]
    fingerprint: dict[str, Any] = {
        "langadapt": __version__,
        "model": {settings.model_path: model_files(settings.model_path)},
        "dataset": check_vouched(settings.dataset),
        **{key: getattr(settings, key) for key in _KEYS},
    }
    path = Path(settings.output_dir) / f"{settings.name}_candidates.partial.jsonl"
    with PartialFile(path, fingerprint, ranks) as drawn:
        values = generate_missing(
            partial(
                generate_batched,
                model,
                tokenizer,
                temperature=settings.temperature,
                top_p=settings.top_p,
                token_budget=settings.token_budget,
            ),
            drawn,
            names,
            [prompts[place] for place, _ in every],
            [limits[place] for place, _ in every],
            lambda _, answer: {"text": answer.text.strip(), "ended": answer.stop_reason == "stop"},
            stop_ids=stop_token_ids(tokenizer, model.generation_config, chat=True),
            title="candidates",
            seeds=[zlib.crc32(f"{settings.seed} {name}".encode()) for name in names],
        )
    answers = [Answer(**value) for value in values]
    count = settings.samples
    return [
        Candidates(record, answers[place * count : (place + 1) * count]) for place, record in enumerate(records)
    ], tokenizer
