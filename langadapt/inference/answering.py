"""Answers to a file of questions, as a file; a run that was killed goes on where it was."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.files import probe_folder, read_lines, sha256_of, write_json_array, write_text
from langadapt.files.partial import Alone, PartialFile
from langadapt.files.records import Record
from langadapt.inference.conversation import Responder
from langadapt.inference.generation import Generation, generate_batched
from langadapt.inference.instructions import encode_instructions, read_instructions
from langadapt.inference.lineup import Lineup
from langadapt.inference.resuming import generate_missing, model_files
from langadapt.inference.streaming import stream_answer
from langadapt.recipe.inference import InferenceSettings, Sampling

_RECORDS = (".json", ".jsonl")
# What an answer depends on, beside the model and the question.
_KEYS = (*Sampling.model_fields, "dtype", "quantization", "prompt_format", "system")


def answer_file(lineup: Lineup, settings: InferenceSettings, source: str, output: str) -> dict[str, Any]:
    """Answer every question of ``source``, write the answers to ``output``, and return how many there were.

    A ``source`` .json or .jsonl holds records with an ``instruction`` (`read_instructions`), any other file a question
    a line. An ``output`` .json or .jsonl gets ``{id, output, stop_reason, tokens}``, any other file a line for each
    question: a blank one for a blank one, and a space for each line break in an answer. Until all is finished, what is
    stands in a .partial.jsonl beside ``output``.

    Without sampling and repetition penalty the questions are answered in batches, else one by one. Raises `UserError`
    for several models, an ``output`` that is ``source``, and a question that the model cannot be asked, by its place.
    """
    if len(lineup.names) > 1:
        raise UserError("--input is answered by one model. Give a single --model_path.")
    if Path(source).resolve() == Path(output).resolve():
        raise UserError(f"{output}: the answers would replace the questions. Choose another --output.")
    probe_folder(Path(output).parent)
    ids, records = read_instructions(source) if source.endswith(_RECORDS) else _read_questions(source)
    path = lineup.path(lineup.names[0])
    responder = lineup.get(lineup.names[0])
    asked = [place for place, record in enumerate(records) if record["instruction"].strip()]
    prompts, limits = encode_instructions(
        responder,
        [records[place] for place in asked],
        lambda number: _where(source, ids[asked[number]]),
        system=settings.system,
        max_new_tokens=settings.max_new_tokens,
    )
    fingerprint = {
        "langadapt": __version__,
        "model": {path: model_files(path)},
        "input": sha256_of(source),
        **{key: getattr(settings, key) for key in _KEYS},
    }
    with PartialFile(Path(output).with_suffix(".partial.jsonl"), fingerprint, Alone()) as unfinished:
        greedy = settings.temperature == 0 and settings.repetition_penalty == 1
        answers = generate_missing(
            partial(generate_batched, responder.model, responder.tokenizer)
            if greedy
            else partial(_one_by_one, responder, settings),
            unfinished,
            list(map(str, asked)),
            prompts,
            limits,
            lambda place, answer: {
                "output": answer.text.strip(),
                "stop_reason": answer.stop_reason,
                "tokens": len(answer.ids),
            },
            stop_ids=responder.stop_ids,
            title="answers",
        )
        _write(output, ids, dict(zip(asked, answers, strict=True)))
        unfinished.remove()
    return {"answers": len(answers), "cut off": sum(answer["stop_reason"] == "length" for answer in answers)}


def _read_questions(source: str) -> tuple[list[Any], list[Record]]:
    """Return the lines of a text file as records, with their numbers for ids."""
    lines = list(read_lines(source))
    return [number for number, _ in lines], [{"instruction": line} for _, line in lines]


def _where(source: str, name: Any) -> str:
    return f"{source}, the record {name!r}" if source.endswith(_RECORDS) else f"{source}, line {name}"


def _one_by_one(
    responder: Responder,
    settings: InferenceSettings,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: Sequence[int],
    stop_text: str | None = None,
) -> Iterator[tuple[int, Generation]]:
    for index, (prompt, limit) in enumerate(zip(prompts, max_new_tokens, strict=True)):
        if settings.seed is not None:  # of the question's own, so that a run that is gone on with draws as one in a go
            torch.manual_seed(settings.seed + zlib.crc32(str(list(prompt)).encode()))
        sampling = settings.model_copy(update={"max_new_tokens": limit})
        answer = stream_answer(
            responder.model,
            responder.tokenizer,
            prompt,
            stop_ids=stop_ids,
            sampling=sampling,
            emit=lambda piece: None,
        )
        assert answer.stop_reason != "interrupted", "nothing asks it to stop"
        yield index, Generation(answer.text, answer.ids, answer.stop_reason)


def _write(output: str, ids: Sequence[Any], answers: dict[int, dict[str, Any]]) -> None:
    if output.endswith(_RECORDS):
        empty = {"output": "", "stop_reason": "not asked", "tokens": 0}
        records = [{"id": name, **answers.get(place, empty)} for place, name in enumerate(ids)]
        if output.endswith(".json"):
            write_json_array(output, records)
        else:
            write_text(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    else:
        lines = (
            " ".join(answers[place]["output"].splitlines()) if place in answers else "" for place in range(len(ids))
        )
        write_text(output, "".join(f"{line}\n" for line in lines))
