"""From the settings' mixture to pools: everything that could be drawn for one part, in the order it will be drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.cleaning import implausible_lengths, unlike_pairs
from langadapt.corpus.sources import Collection
from langadapt.corpus.storing import TURNS
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import RUN
from langadapt.errors import UserError
from langadapt.files.records import Record
from langadapt.models import user_turn
from langadapt.recipe.preprocess import PreprocessSettings, SftPart
from langadapt.text import units
from langadapt.text.blocks import TextBlock

_BATCH = 128  # candidates read together


@dataclass(frozen=True)
class Candidate:
    """A record that may be drawn, and every text by which twins are told."""

    record: Record
    texts: list[str]  # its own and their translations, without the words of prompt templates
    prompt: str = ""  # what the user says, whole: held-out text may be quoted anywhere in it
    clusters: tuple[int, ...] = ()  # of equal and near texts, all its languages
    problem: str | None = None  # why it is not to be used after all


@dataclass(frozen=True)
class Pool:
    """What one part of the mixture can draw from."""

    name: str
    size: int
    wanted: int  # training records
    max_share: float  # of the mixture; 1.0 for parts that are never cut
    translates: bool  # its records are text pairs
    seed: int
    read: Callable[[Sequence[int]], list[Candidate]]

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield every candidate, some at a time, in an order that only the seed and the pool's name decide."""
        generator = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        order = generator.permutation(self.size)
        return (self.read(order[start : start + _BATCH].tolist()) for start in range(0, self.size, _BATCH))


def cpt_pool(settings: PreprocessSettings, collections: Sequence[Collection]) -> Pool:
    """Return the pool of texts in the target language, over all sources that `cpt.sources` names."""
    chosen = [collection for collection in collections if collection.name in settings.cpt.sources]
    code = settings.language
    usable = [np.flatnonzero(c.usable(code) & c.first(code)) for c in chosen]
    ends = np.cumsum([len(documents) for documents in usable])

    def read(numbers: Sequence[int]) -> list[Candidate]:
        found: dict[int, Candidate] = {}
        which = np.searchsorted(ends, numbers, side="right")
        for number, collection in enumerate(chosen):
            mine = [k for k, w in zip(numbers, which, strict=True) if w == number]
            documents = usable[number][np.array(mine, np.int64) - int(ends[number] - len(usable[number]))]
            for k, candidate in zip(mine, _texts(collection, documents, code), strict=True):
                found[k] = candidate
        return [found[k] for k in numbers]

    return Pool("cpt", int(ends[-1]), settings.cpt.count, 1.0, False, settings.seed, read)


def _texts(collection: Collection, documents: NDArray[np.int64], code: str) -> Iterator[Candidate]:
    clusters = _clusters(collection, documents)
    for document, texts, own in zip(documents, collection.read(documents.tolist()), clusters, strict=True):
        record = {
            "id": f"{collection.name}:{collection.numbers[document]}",
            "source": collection.name,
            "task": "lm",
            "language": code,
            "text": texts[code],
        }
        yield Candidate(record, list(texts.values()), clusters=own)


def _clusters(collection: Collection, documents: NDArray[np.int64]) -> list[tuple[int, ...]]:
    columns = [collection.clusters(code)[documents].tolist() for code in collection.columns]
    return list(zip(*columns, strict=True))


def sft_pools(settings: PreprocessSettings, collections: Sequence[Collection], templates: Templates) -> list[Pool]:
    """Return one pool for each part of the fine-tuning mixture, in the order of the YAML."""
    by_name = {collection.name: collection for collection in collections}
    return [_sft_pool(settings, part, by_name[part.source], templates) for part in settings.sft]


def _sft_pool(settings: PreprocessSettings, part: SftPart, collection: Collection, templates: Templates) -> Pool:
    name = f"{part.source} {part.task} {part.direction}"
    asked, answered = part.languages
    common = {"source": part.source, "task": part.task, "source_lang": asked, "target_lang": answered}
    translates = part.task == "translation"

    if collection.directions is None:
        documents = _pairs(settings, collection, asked, answered)
    else:
        documents = np.flatnonzero(
            (collection.directions == part.direction) & collection.usable(TURNS) & collection.first(TURNS)
        )

    def read_pairs(numbers: Sequence[int]) -> list[Candidate]:
        chosen = documents[list(numbers)]
        texts = collection.read(chosen.tolist())
        problems = unlike_pairs(
            TextBlock([t[asked] for t in texts]), TextBlock([t[answered] for t in texts]), settings.cleaning
        )
        rows = zip(chosen.tolist(), texts, _clusters(collection, chosen), problems, strict=True)
        return [
            Candidate(
                _pair_record(settings, part, common, collection, document, own),
                list(own.values()),
                clusters=clusters,
                problem=problem,
            )
            for document, own, clusters, problem in rows
        ]

    def read_instructions(numbers: Sequence[int]) -> list[Candidate]:
        chosen = documents[list(numbers)]
        candidates = []
        rows = zip(chosen, collection.read_records(chosen.tolist()), _clusters(collection, chosen), strict=True)
        for document, row, clusters in rows:
            record: dict[str, Any] = {"id": f"{part.source}:{collection.numbers[document]}", **common, **row}
            if translates:
                record["source_text"] = row["input"] or templates.content(row["instruction"])
            candidates.append(Candidate(record, comparable_texts(record, templates), user_turn(record), clusters))
        return candidates

    read = read_pairs if collection.directions is None else read_instructions
    return Pool(name, len(documents), part.count, part.max_share, translates, settings.seed, read)


def _pair_record(
    settings: PreprocessSettings,
    part: SftPart,
    common: dict[str, str],
    collection: Collection,
    document: int,
    texts: dict[str, str],
) -> Record:
    asked, answered = part.languages
    record_id = f"{collection.name}:{collection.numbers[document]}:{part.direction}"
    prompts = settings.prompts[part.direction]
    prompt = prompts[zlib.crc32(f"{settings.seed}:{record_id}".encode()) % len(prompts)]
    return {
        "id": record_id,
        **common,
        "instruction": prompt.replace("{text}", texts[asked]),
        "input": "",
        "output": texts[answered],
        "source_text": texts[asked],
    }


def _pairs(settings: PreprocessSettings, collection: Collection, asked: str, answered: str) -> NDArray[np.int64]:
    """Return the documents that are pairs to learn from, and note in the collection's report what was dropped."""
    usable = collection.usable(asked) & collection.usable(answered)
    new = collection.first(asked) | collection.first(answered)
    documents = np.flatnonzero(usable & new)
    lengths = [collection.columns[code].units[collection.rows[code][documents]] for code in (asked, answered)]
    implausible, (low, high) = implausible_lengths(lengths[0], lengths[1], settings.cleaning.length_ratio)
    dropped = {
        "a text of the pair was dropped": int((~usable).sum()),
        "duplicate of a pair before": int((usable & ~new).sum()),
        "length_ratio: outside the fences": int(implausible.sum()),
    }
    collection.report.setdefault("pairs", {})[f"{asked}-{answered}"] = {
        "read": collection.size,
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "kept": int((~implausible).sum()),
        "length ratios kept": [round(low, 3), round(high, 3)]
        if settings.cleaning.length_ratio and len(documents)
        else "all",
    }
    return documents[~implausible]


def comparable_texts(record: Record, templates: Templates) -> list[str]:
    """Return the texts of a written record by which twins are told, without the words of prompt templates.

    The answer to an instruction counts only from `RUN` units on: short answers ("politics", "yes") are shared by many
    records that have nothing else in common.
    """
    if record["task"] == "lm":
        return [record["text"]]
    if record["task"] == "translation":
        return [record["source_text"], record["output"]]
    turns = [*record.get("history", ()), (user_turn(record), record["output"])]
    answers = [answer for _, answer in turns if len(units(answer)) >= RUN]
    return [*(templates.content(asked) for asked, _ in turns), *answers]


def prompts_of(collections: Sequence[Collection]) -> Iterator[str]:
    """Yield what the user says in every instruction record of every source."""
    for collection in collections:
        if collection.directions is not None:
            for start in range(0, collection.size, _BATCH):
                documents = range(start, min(start + _BATCH, collection.size))
                yield from map(user_turn, collection.read_records(documents))


def check_not_empty(cpt: Pool, sft: list[Pool]) -> None:
    """Raise `UserError` when nothing at all can be drawn for continual pretraining or for fine-tuning."""
    if not cpt.size:
        raise UserError("no text for continual pretraining: every line of the sources was dropped. See `sources`.")
    if not any(pool.size for pool in sft):
        raise UserError(f"no record for fine-tuning in any of: {', '.join(pool.name for pool in sft)}. See `sft`.")
