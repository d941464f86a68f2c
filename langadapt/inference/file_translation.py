"""A translated file: lines, records or whole documents, in the layout of the original.

A line is cut into segments of whole sentences, as many as a model takes at once, and its translation is put together
of theirs; blank lines, indentation and what holds neither letter nor digit stay as they are. Each segment is
translated once, however often it occurs.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.files import probe_folder, read_lines, sha256_of, write_json_array, write_text
from langadapt.files.containers import read_records
from langadapt.files.partial import Alone, PartialFile
from langadapt.files.records import Record
from langadapt.files.suffixes import COMPRESSED, container_of
from langadapt.inference.conversation import (
    Conversation,
    Responder,
    encode_question,
    encode_source,
    require_room,
    translation_request,
)
from langadapt.inference.generation import generate_batched
from langadapt.inference.lineup import Lineup
from langadapt.inference.resuming import generate_missing, model_files
from langadapt.models import encode_text
from langadapt.recipe import load_language
from langadapt.recipe.inference import InferenceSettings
from langadapt.recipe.language import Language
from langadapt.text import cut_to_fit, normalize, units

_ADDED = "translation"  # the column or key that records get
# Tokens of a segment, where the recipe names none: translators are trained on sentences, chat models on paragraphs.
_SEGMENT = {"translator": 128, "chat": 512}
# What a translation depends on, beside the model and the file.
_KEYS = ["max_new_tokens", "dtype", "quantization", "system", "num_beams", "segment_tokens", "field", "wrapped"]
_KEYS += ["language_tokens", "translation_template", "translation_templates", "prompt_language"]
_PARAGRAPH = re.compile(r"(?<=\S)[ \t]*\n[ \t]*(?=\S)")  # a line break inside a paragraph


@dataclass(frozen=True)
class _Line:
    """A line of a text: what stands before it, and its segments in their order."""

    indent: str
    segments: list[str]


def translate_file(lineup: Lineup, settings: InferenceSettings, source: str, output: str) -> dict[str, Any]:
    """Translate a file, write it to ``output``, and return what was done, with the seconds that it took.

    A ``source`` .json, .jsonl, .tsv or .csv holds records, and they get their translation under ``translation``, of
    the text under the setting ``field``; any other file is text. ``output`` has the form of ``source``. Until all is
    finished, what is stands in a .partial.jsonl beside it.

    Returned are ``texts``, the different ``segments``, how many were there from an earlier run (``resumed``), how many
    translations are ``empty`` or ``cut off``, and ``seconds``. Raises `UserError` for several models, one that only
    continues text, sampling, an ``output`` that is ``source`` or of another form, and text that cannot be read.
    """
    start = time.monotonic()
    container = _check(lineup, settings, source, output)
    probe_folder(Path(output).parent)
    name = lineup.names[0]
    responder = lineup.get(name)
    if responder.kind == "plain text":
        raise UserError(f"{name} continues plain text; a file is translated by a translator or a chat model.")
    direction = responder.direction(settings.direction)
    records, texts = _read(source, container, settings.field, direction[0])
    layouts = [_layout(responder, settings, text, direction) for text in texts]
    segments = list(dict.fromkeys(part for lines in layouts for line in lines for part in line.segments if units(part)))
    prompts = [_prompt(responder, settings, segment, direction) for segment in segments]
    fingerprint = {
        "langadapt": __version__,
        "model": {lineup.path(name): model_files(lineup.path(name))},
        "input": sha256_of(source),
        "direction": direction,
        **{key: getattr(settings, key) for key in _KEYS},
    }
    counts: Counter[str] = Counter()
    begun = responder.translator.forced_bos_id(direction[1]) if responder.translator else None
    generate = partial(
        generate_batched, responder.model, responder.reader, num_beams=settings.num_beams, forced_bos_id=begun
    )
    with PartialFile(Path(output).with_suffix(".partial.jsonl"), fingerprint, Alone()) as unfinished:
        answers = generate_missing(
            generate,
            unfinished,
            list(map(str, range(len(segments)))),
            prompts,
            [responder.limit(prompt, settings.max_new_tokens) for prompt in prompts],
            lambda place, answer: {"output": " ".join(answer.text.split("\n")), "stop_reason": answer.stop_reason},
            stop_ids=responder.stop_ids,
            title="-".join(direction),
            counts=counts,
        )
        made = {segment: answer["output"].strip() for segment, answer in zip(segments, answers, strict=True)}
        between = _between(load_language(direction[1]))
        _write(output, container, records, [_together(lines, made, between) for lines in layouts])
        unfinished.remove()
    return {
        "texts": len(texts),
        "segments": len(segments),
        "resumed": counts["resumed"],
        "empty": sum(not text for text in made.values()),
        "cut off": sum(answer["stop_reason"] == "length" for answer in answers),
        "seconds": round(time.monotonic() - start, 1),
    }


def _check(lineup: Lineup, settings: InferenceSettings, source: str, output: str) -> str:
    """Return the form of both files: text, json, jsonl, tsv or csv."""
    if len(lineup.names) > 1:
        raise UserError("a file is translated by one model. Give a single --model_path.")
    if settings.temperature > 0 or settings.repetition_penalty != 1:
        raise UserError("a file is translated without sampling. Set temperature=0 and repetition_penalty=1.")
    if Path(source).resolve() == Path(output).resolve():
        raise UserError(f"{output}: the translation would replace the original. Choose another --output.")
    forms = [container_of(path) or "text" for path in (source, output)]
    if forms[0] != forms[1] or "parquet" in forms or Path(output).suffix in COMPRESSED:
        raise UserError(
            f"{output}: a translated file has the form of the original, {source}: text, .json, .jsonl, .tsv or .csv, "
            "and is not packed. Give --output such a suffix."
        )
    return forms[0]


def _read(source: str, container: str, field: str | None, language: str) -> tuple[list[Record], list[str]]:
    """Return the records of a file and the text of each; of a file of text no records, and its whole text."""
    if container == "text":
        return [], ["\n".join(line for _, line in read_lines(source))]
    records, texts = [], []
    for line, record in read_records(Path(source), "Check the path.", [field] if field else []):
        place = f"{source}, line {line}"
        field = field or next((key for key in (language, "source_text", "source", "text") if key in record), None)
        if field is None or field not in record:
            keys = ", ".join(map(repr, record))
            raise UserError(
                f"{place}: no text to translate under {field or 'a known name'}; there are {keys}. Set field=NAME."
            )
        if not isinstance(record[field], str):
            raise UserError(f"{place}: `{field}` is no text.")
        if _ADDED in record:
            raise UserError(f"{place}: has `{_ADDED}` already, which would be replaced. Rename it.")
        records.append(record)
        texts.append(record[field])
    if not records:
        raise UserError(f"{source} holds no records, so there is nothing to translate.")
    return records, texts


def _layout(responder: Responder, settings: InferenceSettings, text: str, direction: tuple[str, str]) -> list[_Line]:
    """Return the lines of a text, cut into segments; with ``wrapped`` those of a paragraph as one."""
    language = load_language(direction[0])
    if settings.wrapped:
        text = _PARAGRAPH.sub(_between(language), text)
    spaced = language.segmentation == "words"
    lines = []
    for line in text.split("\n"):
        body = normalize(line, language.normalization)  # a line at a time, as it strips white space
        parts = cut_to_fit(body, _fits(responder, settings, direction), language.sentence_ends, spaced) if body else []
        lines.append(_Line(line[: len(line) - len(line.lstrip())] if body else "", [part.strip() for part in parts]))
    return lines


def _fits(responder: Responder, settings: InferenceSettings, direction: tuple[str, str]) -> Callable[[str], bool]:
    longest = settings.segment_tokens or _SEGMENT[responder.kind]
    if responder.context_length is not None:  # of a chat model's, template and translation need their part
        longest = min(longest, responder.context_length // (1 if responder.translator else 4))

    def fits(text: str) -> bool:
        if responder.translator:
            return len(responder.translator.encode_source([text], *direction)[0]) <= longest
        return len(encode_text(responder.tokenizer, text)) <= longest

    return fits


def _prompt(responder: Responder, settings: InferenceSettings, text: str, direction: tuple[str, str]) -> list[int]:
    if responder.translator:
        return encode_source(responder, text, *direction)
    request = translation_request(responder, settings, *direction, text)
    ids = encode_question(responder, Conversation(settings.system).messages(request))
    require_room(responder, ids)
    return ids


def _between(language: Language) -> str:
    """Return what stands between two sentences: nothing where characters are set solid."""
    return "" if language.segmentation == "characters" else " "


def _together(lines: Sequence[_Line], made: dict[str, str], between: str) -> str:
    """Return the translation of a text, of those of its segments; a segment without a translation is as it was."""
    return "\n".join(line.indent + between.join(made.get(part, part) for part in line.segments) for line in lines)


def _write(output: str, container: str, records: Sequence[Record], translations: Sequence[str]) -> None:
    if container == "text":
        write_text(output, f"{translations[0]}\n")
        return
    translated = [record | {_ADDED: text} for record, text in zip(records, translations, strict=True)]
    if container == "json":
        write_json_array(output, translated)
    elif container == "jsonl":
        write_text(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in translated))
    else:
        rows = [list(translated[0]), *(list(record.values()) for record in translated)]
        if container == "tsv":  # where neither tab nor line break can stand in a cell
            text = "".join("\t".join(" ".join(cell.split("\t")) for cell in row) + "\n" for row in rows)
        else:
            handle = io.StringIO()
            csv.writer(handle, lineterminator="\n").writerows(rows)
            text = handle.getvalue()
        write_text(output, text)
