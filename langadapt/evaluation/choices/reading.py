"""Published question sets as `Question` objects, each layout read as its authors wrote it.

mm_eval (MM-Eval, arXiv 2411.09492): a JSON array. In its semantics part the question is a sentence with a blank, ``_``;
in syntax there is none, and the choices are one sentence in several orders; in reasoning there are no choices::

    {"question": "францын нийслэл юу вэ?", "choices": [{"label": "A", "text": "марсель"}, ...], "answerKey": "B"}
    {"question": "...", "answer": "18"}

belebele (arXiv 2308.16884): JSON lines, ``correct_answer_num`` from "1" to "4"::

    {"link", "question_number", "flores_passage", "question", "mc_answer1", ..., "mc_answer4", "correct_answer_num",
     "dialect": "bod_Tibt", "ds"}

ti_mmlu (TLUE, arXiv 2503.12051): a folder with a file of JSON lines a subject. Question and options stand in one text,
the options under A to D or ཀ ཁ ག ང; one record of the published 670 has no text, and is left out. Files derived from it
have a list of choices beside the question; their answer is a letter too, or a choice's position from 0::

    {"loc": "agronomy1", "polished_ti_content": "...?\nA. ...\nB. ...\nC. ...\nD. ...", "answer": "C"}
    {"loc": "agronomy1", "question": "...?", "choices": ["...", ...], "answer": 2}
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from langadapt.errors import UserError
from langadapt.files import read_json_array, read_jsonl, read_lines
from langadapt.files.records import Record
from langadapt.recipe import Language, load_language
from langadapt.recipe.test_sets import ChoiceSet
from langadapt.text import normalize

KEYS = "ABCDEFGHIJ"
TIBETAN_KEYS = "ཀཁགངཅཆཇཉཏཐ"
_END = r"(?:\s?[.．།、:：)）]|་(?=\s))"  # after a key; a tsheg alone goes on to the next syllable of a word
_SUFFIXES = (".json", ".jsonl", ".tsv")


@dataclass(frozen=True)
class Question:
    """One question in the language's normal form.

    ``text`` is empty where the choices are whole sentences. ``choices`` are empty where the answer is written out, and
    the keys themselves (A, B, ...) where the options stand in ``text`` and could not be told from it.
    """

    id: str
    subject: str  # the file's stem where the set is a folder, else empty
    passage: str
    text: str
    choices: tuple[str, ...]
    right: str

    @property
    def by_key(self) -> bool:
        """Whether the choices are keys to options that stand in the text."""
        return bool(self.choices) and self.choices == tuple(KEYS[: len(self.choices)])


class _WrongError(ValueError):
    """What a record lacks; `_read_file` adds the place."""


def read_questions(path: str | Path, choice_set: ChoiceSet) -> tuple[list[Question], int]:
    """Return the questions of a file, or of every file in a folder by name, and how many records hold no question.

    Raises `UserError` naming file, record and key for anything that the layout does not allow, and for a set in which
    some questions have choices and others none: one accuracy over both says nothing.
    """
    path = Path(path)
    language = load_language(choice_set.language)
    if not path.is_dir():
        questions, left_out = _read_file(path, "", choice_set.layout, language)
    else:
        questions, left_out = [], 0
        for file in sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES):
            found, empty = _read_file(file, file.stem, choice_set.layout, language)
            questions += found
            left_out += empty
    if not questions:
        raise UserError(
            f"{path}: no questions in it. Expected {', '.join(_SUFFIXES)} in the layout {choice_set.layout}."
        )
    if 0 < sum(bool(question.choices) for question in questions) < len(questions):
        raise UserError(
            f"{path}: some questions have choices, others only an answer. Make two sets of them in `choice_sets`."
        )
    return questions, left_out


def _read_file(path: Path, subject: str, layout: str, language: Language) -> tuple[list[Question], int]:
    questions, left_out = [], 0
    for number, (place, record) in enumerate(_records(path), start=1):
        try:
            if layout == "ti_mmlu" and not str(record.get("polished_ti_content", True) or "").strip():
                left_out += 1
                continue
            name, passage, text, choices, right = _LAYOUTS[layout](record, language)
            clean = [normalize(part, language.normalization) for part in (passage, text, right, *choices)]
            if not all(clean[2:]) or len(choices) > len(KEYS):
                raise _WrongError(f"an answer is empty, or there are more than {len(KEYS)} choices")
        except _WrongError as wrong:
            raise UserError(f"{place}: {wrong}. The key `layout` says {layout}; see docs/EVALUATION.md.") from None
        identity = "/".join(filter(None, [subject, name or str(number)]))
        questions.append(Question(identity, subject, clean[0], clean[1], tuple(clean[3:]), clean[2]))
    return questions, left_out


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield ``(place for an error, record)`` by the file's suffix."""
    if path.suffix == ".json":
        for number, record in enumerate(read_json_array(path), start=1):
            yield f"{path}, record {number}", record
    elif path.suffix == ".jsonl":
        for number, record in read_jsonl(path):
            yield f"{path}, line {number}", record
    elif path.suffix == ".tsv":
        rows = csv.DictReader((f"{line}\n" for _, line in read_lines(path)), delimiter="\t", strict=True)
        try:
            for number, row in enumerate(rows, start=1):
                yield f"{path}, row {number}", row
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}. Write it as tab-separated text.") from None
    else:
        raise UserError(f"{path}: expected a file that ends in {', '.join(_SUFFIXES)}, or a folder of such.")


# What a reader returns: the record's id or "", the passage, the question, the choices, the right answer.
_Parts = tuple[str, str, str, list[str], str]


def _mm_eval(record: Record, language: Language) -> _Parts:
    if "choices" not in record:
        return "", "", _text(record, "question"), [], _text(record, "answer")
    question = _text(record, "question") if "question" in record else ""
    choices: dict[str, str] = {}
    if not isinstance(record["choices"], list):
        raise _WrongError("`choices` is no list")
    for choice in record["choices"]:
        if not isinstance(choice, dict):
            raise _WrongError("`choices` holds something else than {label, text}")
        choices[_text(choice, "label")] = _text(choice, "text")
    key = _text(record, "answerKey")
    if len(choices) != len(record["choices"]) or len(choices) < 2:
        raise _WrongError("`choices` needs two or more labels, each once")
    if key not in choices:
        raise _WrongError(f"`answerKey` is {key!r}, the labels are {', '.join(choices)}")
    return "", "", question, list(choices.values()), choices[key]


def _belebele(record: Record, language: Language) -> _Parts:
    dialect = record.get("dialect")
    if dialect is not None and language.flores and dialect not in language.flores:
        raise _WrongError(f"`dialect` is {dialect}, but {language.code} is {' or '.join(language.flores)}")
    choices = [_text(record, f"mc_answer{number}") for number in range(1, 5)]
    right = _text(record, "correct_answer_num")
    if right not in ("1", "2", "3", "4"):
        raise _WrongError(f"`correct_answer_num` is {right!r}, expected 1 to 4")
    return "", _text(record, "flores_passage"), _text(record, "question"), choices, choices[int(right) - 1]


def _ti_mmlu(record: Record, language: Language) -> _Parts:
    if "polished_ti_content" in record:
        text, choices = split_options(_text(record, "polished_ti_content"))
    else:
        text, choices = _text(record, "question"), record.get("choices", [])
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
            raise _WrongError("`choices` is no list of two or more texts")
    answer = _text(record, "answer").upper()
    position = int(answer) if answer.isdecimal() else max(KEYS.find(answer), TIBETAN_KEYS.find(answer))
    if len(answer) != 1 or not 0 <= position < len(choices):
        raise _WrongError(f"`answer` is {answer!r}, expected one of the {len(choices)} choices")
    return _text(record, "loc") if "loc" in record else "", "", text, choices, choices[position]


_LAYOUTS: dict[str, Callable[[Record, Language], _Parts]] = {
    "mm_eval": _mm_eval,
    "belebele": _belebele,
    "ti_mmlu": _ti_mmlu,
}


def _text(record: Record, key: str) -> str:
    value: Any = record.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _WrongError(f"no text under the key `{key}`")
    return value.strip()


def split_options(text: str) -> tuple[str, list[str]]:
    """Return a question and its options, told apart by keys in order: A to D, or ཀ to ང, at line starts or in a line.

    Where there is no such run of keys the text is returned whole, and the keys A to D for the options.
    """
    for before in (r"^\s*", r"(?<!\S)"):  # in a line a key may be a word of the question; so line starts come first
        for keys in (KEYS, TIBETAN_KEYS):
            marks = list(regex.finditer(rf"{before}[(（]?([{keys}]){_END}\s*", text, regex.MULTILINE))
            found = "".join(mark[1] for mark in marks)
            ends = [mark.start() for mark in marks[1:]] + [len(text)]
            options = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=False)]
            if len(found) > 1 and keys.startswith(found) and all(options) and text[: marks[0].start()].strip():
                return text[: marks[0].start()].strip(), options
    return text, list(KEYS[:4])
