"""A file of instructions, as stage 1 writes them, and what a model is asked for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langadapt.errors import UserError
from langadapt.files import iter_json_array, read_jsonl, require_file
from langadapt.files.records import Record
from langadapt.inference.conversation import Prompting, encode_question, require_room
from langadapt.models import conversation


def read_instructions(source: str | Path) -> tuple[list[Any], list[Record]]:
    """Return the ids and the records of a JSON array, or of one record a line.

    A record has an ``instruction`` and may have ``id``, ``input``, ``system`` and ``history``; without an id it has its
    position for one, from 0. Raises `UserError` for one without an instruction, or with the id of another.
    """
    with open(require_file(source), encoding="utf-8-sig", errors="replace") as handle:
        array = next((line for line in handle if line.strip()), "").lstrip().startswith("[")
    records = list(iter_json_array(source)) if array else [record for _, record in read_jsonl(source)]
    places: dict[Any, int] = {}
    for place, record in enumerate(records):
        where = f"{source}, record {place + 1}"
        if not isinstance(record.get("instruction"), str) or not record["instruction"].strip():
            raise UserError(f"{where}: no text under `instruction`. Each record needs one.")
        for key in ("input", "system"):
            if not isinstance(record.get(key) or "", str):
                raise UserError(f"{where}: `{key}` is no text.")
        if not _is_history(record.get("history") or []):
            raise UserError(f"{where}: `history` is no list of [user, assistant] pairs of texts.")
        name = str(place) if record.get("id") is None else record["id"]
        if not isinstance(name, str | int):
            raise UserError(f"{where}: `id` is {name!r}; give a text or a whole number, or none.")
        if name in places:
            raise UserError(f"{where}: its id {name!r} is that of record {places[name] + 1}. Give each its own.")
        places[name] = place
    return list(places), records


def encode_instructions(
    prompting: Prompting,
    records: Sequence[Record],
    where: Callable[[int], str],
    *,
    system: str | None,
    max_new_tokens: int,
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of each record's prompt, and how many tokens its answer may take.

    ``system`` is the system prompt of records without their own. Raises `UserError` for a record that the model cannot
    be asked, or that leaves no room for an answer, naming it by ``where`` of its place.
    """
    own = {"system": system} if system else {}
    prompts = []
    for place, record in enumerate(records):
        given = record if record.get("system") else {**record, **own}
        try:
            prompts.append(encode_question(prompting, conversation({**given, "output": ""})[:-1]))
            require_room(prompting, prompts[-1])
        except UserError as error:
            raise UserError(f"{where(place)}: {error}") from None
    return prompts, [prompting.limit(ids, max_new_tokens) for ids in prompts]


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in value
    )
