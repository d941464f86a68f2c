"""From the settings' mixture to pools: everything that could be drawn for one part, in the order it will be drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from langadapt.corpus.sources import InstructionCollection, TextCollection
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import RUN
from langadapt.errors import UserError
from langadapt.files.records import Record
from langadapt.models import user_turn
from langadapt.recipe.preprocess import PreprocessSettings, SftPart
from langadapt.text import units

Collections = Mapping[str, TextCollection | InstructionCollection]


@dataclass(frozen=True)
class Candidate:
    """A record that may be drawn, and every text by which twins are told."""

    record: Record
    texts: list[str]  # its own and their translations, without the words of prompt templates
    prompt: str = ""  # what the user says, whole: held-out text may be quoted anywhere in it


@dataclass(frozen=True)
class Pool:
    """What one part of the mixture can draw from."""

    name: str
    size: int
    wanted: int  # training records
    max_share: float  # of the mixture; 1.0 for parts that are never cut
    translates: bool  # its records are text pairs
    seed: int
    read: Callable[[int], Candidate]

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate in an order that only the seed and the pool's name decide."""
        generator = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        return (self.read(int(k)) for k in generator.permutation(self.size))


def cpt_pool(settings: PreprocessSettings, collections: Collections) -> Pool:
    """Return the pool of texts in the target language, over all sources that `cpt.sources` names."""
    chosen = [
        collection for name in settings.cpt.sources if isinstance(collection := collections[name], TextCollection)
    ]
    ends = np.cumsum([collection.size for collection in chosen])

    def read(k: int) -> Candidate:
        which = int(np.searchsorted(ends, k, side="right"))
        collection = chosen[which]
        key, texts = collection.read(k - int(ends[which] - collection.size))
        record = {
            "id": key,
            "source": collection.name,
            "task": "lm",
            "language": settings.language,
            "text": texts[settings.language],
        }
        return Candidate(record, list(texts.values()))

    return Pool("cpt", int(ends[-1]), settings.cpt.count, 1.0, False, settings.seed, read)


def sft_pools(settings: PreprocessSettings, collections: Collections, templates: Templates) -> list[Pool]:
    """Return one pool for each part of the fine-tuning mixture, in the order of the YAML."""
    return [_sft_pool(settings, part, collections[part.source], templates) for part in settings.sft]


def _sft_pool(
    settings: PreprocessSettings,
    part: SftPart,
    collection: TextCollection | InstructionCollection,
    templates: Templates,
) -> Pool:
    name = f"{part.source} {part.task} {part.direction}"
    asked, answered = part.languages
    common = {"source": part.source, "task": part.task, "source_lang": asked, "target_lang": answered}

    def read_pair(k: int) -> Candidate:
        assert isinstance(collection, TextCollection)
        key, texts = collection.read(k)
        record_id = f"{key}:{part.direction}"
        prompts = settings.prompts[part.direction]
        prompt = prompts[zlib.crc32(f"{settings.seed}:{record_id}".encode()) % len(prompts)]
        record = {
            "id": record_id,
            **common,
            "instruction": prompt.replace("{text}", texts[asked]),
            "input": "",
            "output": texts[answered],
            "source_text": texts[asked],
        }
        return Candidate(record, list(texts.values()))

    def read_instruction(k: int) -> Candidate:
        assert isinstance(collection, InstructionCollection)
        row = collection.by_direction[part.direction][k]
        record: dict[str, Any] = {"id": row["id"], **common, **{k: row[k] for k in ("instruction", "input", "output")}}
        if part.task == "translation":
            record["source_text"] = row["input"] or templates.content(row["instruction"])
        return Candidate(record, comparable_texts(record, templates), user_turn(record))

    translates = part.task == "translation"
    if isinstance(collection, TextCollection):
        return Pool(name, collection.size, part.count, part.max_share, translates, settings.seed, read_pair)
    size = len(collection.by_direction.get(part.direction, []))
    return Pool(name, size, part.count, part.max_share, translates, settings.seed, read_instruction)


def comparable_texts(record: Record, templates: Templates) -> list[str]:
    """Return the texts of a written record by which twins are told, without the words of prompt templates.

    The answer to an instruction counts only from `RUN` units on: short answers ("politics", "yes") are shared by many
    records that have nothing else in common.
    """
    if record["task"] == "lm":
        return [record["text"]]
    if record["task"] == "translation":
        return [record["source_text"], record["output"]]
    long_answer = len(units(record["output"])) >= RUN
    return [templates.content(user_turn(record)), *([record["output"]] if long_answer else [])]


def prompts_of(collections: Collections) -> Iterator[str]:
    """Yield what the user says in every instruction record of every source."""
    for collection in collections.values():
        if isinstance(collection, InstructionCollection):
            for rows in collection.by_direction.values():
                yield from (user_turn(row) for row in rows)


def check_not_empty(cpt: Pool, sft: list[Pool]) -> None:
    """Raise `UserError` when nothing at all can be drawn for continual pretraining or for fine-tuning."""
    if not cpt.size:
        raise UserError("no text for continual pretraining: every line of the sources was dropped. See `sources`.")
    if not any(pool.size for pool in sft):
        raise UserError(f"no record for fine-tuning in any of: {', '.join(pool.name for pool in sft)}. See `sft`.")
