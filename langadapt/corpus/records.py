"""From documents of a source to records that may be drawn: texts, instructions, and pairs in prompts, long ones cut."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from langadapt.corpus.alignment.segments import split_pair
from langadapt.corpus.cleaning import unlike_pairs
from langadapt.corpus.collection import Collection, Documents
from langadapt.corpus.lengths import Cutoff
from langadapt.corpus.templates import Templates
from langadapt.corpus.turns import answers_of
from langadapt.corpus.twins import RUN
from langadapt.files.records import Record
from langadapt.models import user_turn
from langadapt.recipe import load_language
from langadapt.recipe.mixtures import PreferencePart, RecordPart
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.text import units
from langadapt.text.blocks import TextBlock

_BATCH = 128  # records
_FILL = 0.95  # of the cutoff: segments of a document differ a little in tokens a byte


@dataclass(frozen=True)
class Candidate:
    """A record that may be drawn, and every text by which twins are told."""

    record: Record
    texts: list[str]  # its own and their translations, without the words of prompt templates
    quoting: tuple[str, ...] = ()  # more of the record that held-out text may be quoted in
    clusters: tuple[int, ...] = ()  # of equal and near texts, all its languages
    problem: str | None = None  # why it is not to be used after all
    segment: int = 0  # number of the segment from 0, of a document that was cut


def read_texts(collection: Collection, documents: Documents, code: str) -> list[Candidate]:
    """Return the texts of some documents in one language."""
    rows = zip(
        collection.ids(documents),
        collection.read(documents),
        collection.all_clusters(documents),
        collection.labels(documents),
        strict=True,
    )
    return [
        Candidate(
            {
                "id": f"{id_}:{code}" if len(collection.columns) > 1 else id_,
                "source": collection.name,
                "task": "lm",
                "language": code,
                **labels,
                "text": texts[code],
            },
            list(texts.values()),
            clusters=clusters,
        )
        for id_, texts, clusters, labels in rows
    ]


def read_instructions(
    collection: Collection, documents: Documents, part: RecordPart, templates: Templates
) -> list[Candidate]:
    """Return some records of a source of instructions."""
    rows = zip(
        collection.ids(documents), collection.read_records(documents), collection.all_clusters(documents), strict=True
    )
    candidates = []
    for id_, row, clusters in rows:
        record = {"id": id_, **_labels(part), **row}
        if part.task == "translation":
            record["source_text"] = row["input"] or templates.content(row["instruction"])
        candidates.append(Candidate(record, comparable_texts(record, templates), quoting_texts(record), clusters))
    return candidates


def read_preferences(
    collection: Collection, documents: Documents, part: PreferencePart, templates: Templates
) -> list[Candidate]:
    """Return some records of a source of preferences."""
    rows = zip(
        collection.ids(documents), collection.read_records(documents), collection.all_clusters(documents), strict=True
    )
    candidates = []
    for id_, row, clusters in rows:
        before: Record = {key: row[key] for key in ("instruction", "input", "system", "history") if key in row}
        record: Record = {"id": id_, **_labels(part), **before, "chosen": row["output"], "rejected": row["rejected"]}
        candidates.append(Candidate(record, comparable_texts(record, templates), quoting_texts(record), clusters))
    return candidates


class PairReader:
    """Reads documents of text pairs as translations to learn; those longer than the cutoff in aligned segments."""

    def __init__(
        self,
        settings: PreprocessSettings,
        part: RecordPart,
        collection: Collection,
        cutoff: Cutoff,
    ) -> None:
        self._settings, self._part, self._collection, self._cutoff = settings, part, collection, cutoff
        self._asked, self._answered = part.languages
        self._languages = load_language(self._asked), load_language(self._answered)
        self._segments: dict[str, list[tuple[slice, slice]]] = {}  # by document; none for one that cannot be cut

    def read(self, documents: Documents) -> list[Candidate]:
        """Return some documents as candidates, one each or one a segment, in order."""
        collection = self._collection
        ids = [f"{id_}:{self._part.direction}" for id_ in collection.ids(documents)]
        texts = collection.read(documents)
        rows = zip(ids, texts, collection.all_clusters(documents), collection.labels(documents), strict=True)
        candidates = [
            Candidate(
                self._record(id_, own[self._asked], own[self._answered], labels), list(own.values()), clusters=clusters
            )
            for id_, own, clusters, labels in rows
        ]
        if self._settings.split_long_pairs:
            lengths = self._cutoff.excess([candidate.record for candidate in candidates])
            pieces = (
                self._cut(candidate, tokens) if tokens else [candidate]
                for candidate, tokens in zip(candidates, lengths, strict=True)
            )
            candidates = [candidate for some in pieces for candidate in some]
        return self._judged(candidates)

    def _cut(self, candidate: Candidate, tokens: int) -> list[Candidate]:
        """Return the segments of a document that takes so many tokens; the whole where it cannot surely be cut."""
        source, target = candidate.record["source_text"], candidate.record["output"]
        if candidate.record["id"] not in self._segments:  # documents are read up to three times
            longest = int((len(source.encode()) + len(target.encode())) * self._cutoff.cutoff / tokens * _FILL)
            pairs = split_pair(source, target, *self._languages, longest)
            sides = _slices(source, [pair[0] for pair in pairs]), _slices(target, [pair[1] for pair in pairs])
            self._segments[candidate.record["id"]] = list(zip(*sides, strict=True))
        labels = {key: candidate.record[key] for key in ("document",) if key in candidate.record}
        segments = [(source[here], target[there]) for here, there in self._segments[candidate.record["id"]]]
        return [
            replace(
                candidate,
                record=self._record(f"{candidate.record['id']}/{number}", *segment, labels),
                texts=list(segment),
                segment=number - 1,
            )
            for number, segment in enumerate(segments, start=1)
        ] or [candidate]

    def _judged(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        source, target = (TextBlock([c.record[key] for c in candidates]) for key in ("source_text", "output"))
        problems = unlike_pairs(source, target, self._settings.cleaning)
        return [replace(candidate, problem=problem) for candidate, problem in zip(candidates, problems, strict=True)]

    def _record(self, record_id: str, source: str, target: str, labels: Mapping[str, str]) -> Record:
        prompts = self._settings.prompts[self._part.direction]
        prompt = prompts[zlib.crc32(f"{self._settings.seed}:{record_id}".encode()) % len(prompts)]
        return {
            "id": record_id,
            **_labels(self._part),
            **labels,
            "instruction": prompt.replace("{text}", source),
            "input": "",
            "output": target,
            "source_text": source,
        }


def _slices(text: str, pieces: Sequence[str]) -> list[slice]:
    """Return where consecutive pieces of a text are in it."""
    found, end = [], 0
    for piece in pieces:
        start = text.index(piece, end)
        end = start + len(piece)
        found.append(slice(start, end))
    return found


def _labels(part: RecordPart | PreferencePart) -> dict[str, str]:
    asked, answered = part.languages
    return {"source": part.source, "task": part.task, "source_lang": asked, "target_lang": answered}


def comparable_texts(record: Record, templates: Templates) -> list[str]:
    """Return the texts of a written record by which twins are told, without the words of prompt templates.

    The answer to an instruction counts only from `RUN` units on: short answers ("politics", "yes") are shared by many
    records that have nothing else in common.
    """
    if record["task"] == "lm":
        return [record["text"]]
    if record["task"] == "translation":
        return [record["source_text"], record["output"]]
    before: list[Any] = record.get("history", [])
    questions = [*(asked for asked, _ in before), user_turn(record)]
    answers = [*(answer for _, answer in before), *answers_of(record)]
    return [*map(templates.content, questions), *(answer for answer in answers if len(units(answer)) >= RUN)]


def document_of(record: Record) -> tuple[str, str] | None:
    """Return the source of a written record and the document there that it is of, if the source names documents."""
    return (record["source"], record["document"]) if "document" in record else None


def quoting_texts(record: Record) -> tuple[str, ...]:
    """Return what else of a written record may quote held-out text: a prompt around its content, and the system's.

    They tell no twins of their own: many records share them. A text pair stands in a prompt of the recipe's.
    """
    prompt = user_turn(record) if record["task"] in ("instruction", "preference") else ""
    return tuple(text for text in (prompt, record.get("system")) if text)


def prompts_of(collections: Sequence[Collection]) -> Iterator[str]:
    """Yield what the user says in every instruction record of every source."""
    for collection in collections:
        if collection.directions is not None:
            for start in range(0, collection.size, _BATCH):
                documents = np.arange(start, min(start + _BATCH, collection.size))
                yield from map(user_turn, collection.read_records(documents))
