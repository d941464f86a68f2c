"""The same items in several languages, from the layouts in which test sets are published and kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langadapt.errors import UserError
from langadapt.files import read_lines
from langadapt.files.containers import read_records
from langadapt.files.records import Record
from langadapt.recipe import load_language
from langadapt.recipe.test_sets import FieldsSet, FloresSet, LinesSet, NtrexSet, TestSet

_SHOWN = 12  # names of files in an error
_WAY_OUT = "Check the path, or fetch the test set."


@dataclass(frozen=True)
class Items:
    """Items in several languages: ``texts[language][k]`` is item ``ids[k]``, as in the file, empty where it has none.

    ``origins`` say where items are from, in sets that tell. ``files`` are those that were read.
    """

    ids: list[str]
    texts: dict[str, list[str]]
    origins: list[str]
    files: list[Path]


def read_items(name: str, test_set: TestSet, languages: Sequence[str]) -> Items:
    """Return the items of the test set that the recipe calls ``name``, in some of its languages.

    Raises `UserError` for a language it does not have, files that are missing or broken, and languages whose numbers
    of items differ.
    """
    match test_set:
        case FloresSet():
            return _read_flores(name, Path(test_set.folder).expanduser(), test_set.split, languages)
        case NtrexSet():
            return _read_ntrex(name, Path(test_set.folder).expanduser(), languages)
        case LinesSet():
            return _read_lines(_chosen(f"test_sets.{name}.files", test_set.files, languages))
        case FieldsSet():
            return _read_fields(name, test_set, test_set.file, languages)


def read_examples(name: str, test_set: TestSet, languages: Sequence[str]) -> Items | str:
    """Return the items that may stand in a prompt, or why there are none. Raises as `read_items` does."""
    match test_set:
        case FloresSet():
            folder, split = Path(test_set.folder).expanduser(), "dev" if test_set.split == "devtest" else "devtest"
            if not (folder / split).is_dir():
                return f"no examples: {folder / split} is not there"
            return _read_flores(name, folder, split, languages)
        case NtrexSet():
            return "no examples: NTREX has no development set"
        case LinesSet():
            if not test_set.examples:
                return f"no examples: test_sets.{name}.examples is empty"
            return _read_lines(_chosen(f"test_sets.{name}.examples", test_set.examples, languages))
        case FieldsSet():
            if test_set.examples is None:
                return f"no examples: test_sets.{name}.examples is empty"
            return _read_fields(name, test_set, test_set.examples, languages)


def _read_flores(name: str, folder: Path, split: str, languages: Sequence[str]) -> Items:
    """FLORES-200 has a line an item in ``devtest/bod_Tibt.devtest``; so had FLORES+ at first, ``devtest.bod_Tibt``.

    FLORES+ now has records with `id` and `text` in ``devtest/bod_Tibt.jsonl`` or ``.parquet``.
    """
    paths = {language: _flores_file(name, folder / split, language) for language in languages}
    as_records = {path.suffix in (".jsonl", ".parquet") for path in paths.values()}
    if len(as_records) > 1:
        raise UserError(
            f"{folder / split}: {', '.join(path.name for path in paths.values())}: some hold lines and some records. "
            "Take all from one release of FLORES."
        )
    if not as_records.pop():
        return _read_lines(paths)
    columns = {language: _flores_records(path) for language, path in paths.items()}
    ids = list(dict.fromkeys(key for column in columns.values() for key in column))
    texts = {language: [column.get(key, "") for key in ids] for language, column in columns.items()}
    return Items(ids, texts, [], list(paths.values()))


def _flores_file(name: str, folder: Path, language: str) -> Path:
    labels = load_language(language).flores
    if not labels:
        raise UserError(_no_label(name, language, "flores"))
    for label in labels:
        for file in (f"{label}.{folder.name}", f"{folder.name}.{label}", f"{label}.jsonl", f"{label}.parquet"):
            if (folder / file).is_file():
                return folder / file
    raise UserError(_no_file(f"test_sets.{name}", folder, language, " or ".join(labels)))


def _flores_records(path: Path) -> dict[str, str]:
    column: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, record in read_records(path, _WAY_OUT, ("id", "text")):
        column[_new_id(path, line, record, "id", lines)] = _text_of(path, line, record, "text")
    return column


def _read_ntrex(name: str, folder: Path, languages: Sequence[str]) -> Items:
    paths = {}
    for language in languages:
        label = load_language(language).ntrex
        if label is None:
            raise UserError(_no_label(name, language, "ntrex"))
        file = "newstest2019-src.eng.txt" if label == "eng" else f"newstest2019-ref.{label}.txt"
        if not (folder / file).is_file():
            raise UserError(_no_file(f"test_sets.{name}", folder, language, file))
        paths[language] = folder / file
    return _read_lines(paths)


def _read_lines(paths: dict[str, Path]) -> Items:
    """Read files of one item a line; ids are the numbers of the lines."""
    texts = {language: [line for _, line in read_lines(path, _WAY_OUT)] for language, path in paths.items()}
    counts = {str(paths[language]): len(lines) for language, lines in texts.items()}
    if len(set(counts.values())) > 1:
        raise UserError(
            "line n of each file must be the same item, but the files differ in length: "
            + ", ".join(f"{path} has {count:,} lines" for path, count in counts.items())
            + ". Mend the files: an item without a text is an empty line."
        )
    count = next(iter(counts.values()))
    return Items([str(number) for number in range(1, count + 1)], texts, [], list(paths.values()))


def _chosen(key: str, files: dict[str, str], languages: Sequence[str]) -> dict[str, Path]:
    _require_languages(key, files, languages)
    return {language: Path(files[language]).expanduser() for language in languages}


def _read_fields(name: str, test_set: FieldsSet, file: str, languages: Sequence[str]) -> Items:
    _require_languages(f"test_sets.{name}.fields", test_set.fields, languages)
    path = Path(file).expanduser()
    columns = [test_set.fields[language] for language in languages]
    others = [column for column in (test_set.id_field, test_set.source_field) if column is not None]
    ids: list[str] = []
    origins: list[str] = []
    texts: dict[str, list[str]] = {language: [] for language in languages}
    lines: dict[str, int] = {}
    for number, (line, record) in enumerate(read_records(path, _WAY_OUT, [*columns, *others]), start=1):
        id_field = test_set.id_field
        ids.append(str(number) if id_field is None else _new_id(path, line, record, id_field, lines))
        if test_set.source_field is not None:
            origins.append(_text_of(path, line, record, test_set.source_field))
        for language, column in zip(languages, columns, strict=True):
            texts[language].append(_text_of(path, line, record, column))
    return Items(ids, texts, origins, [path])


def _text_of(path: Path, line: int, record: Record, column: str) -> str:
    """Return a text of a record, empty where it is null."""
    if column not in record:
        raise UserError(
            f"{path}, line {line}: no column {column!r}; there are {', '.join(map(repr, record))}. Name it as it "
            "stands in the file."
        )
    value = record[column]
    if not (value is None or isinstance(value, str)):
        raise UserError(f"{path}, line {line}: {column!r} is {type(value).__name__}, expected a text.")
    return value or ""


def _new_id(path: Path, line: int, record: Record, column: str, lines: dict[str, int]) -> str:
    """Return the id of a record, and note in ``lines`` where it stands."""
    value = record.get(column)
    key = str(value) if isinstance(value, int) else _text_of(path, line, record, column)
    if not key:
        raise UserError(f"{path}, line {line}: {column!r} is empty. Every item needs an id.")
    if key in lines:
        raise UserError(f"{path}, line {line}: the id {key!r} stands in line {lines[key]} too. Give each its own.")
    lines[key] = line
    return key


def _require_languages(key: str, there: Iterable[str], languages: Sequence[str]) -> None:
    if missing := [language for language in languages if language not in set(there)]:
        raise UserError(
            f"{key}: nothing for {', '.join(missing)}, which the set's texts, directions or neighbours name; there are "
            f"{', '.join(there)}. Add it, or name other languages."
        )


def _no_label(name: str, language: str, key: str) -> str:
    return (
        f"test_sets.{name}: the profile configs/languages/{language}.yaml has no `{key}`, the set's label for the "
        "language. Add it where the set has the language, or leave the language out."
    )


def _no_file(key: str, folder: Path, language: str, wanted: str) -> str:
    if not folder.is_dir():
        return f"{key}: {folder}: no such folder. {_WAY_OUT}"
    names = sorted(path.name for path in folder.iterdir())
    there = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"{key}: {folder} has no file for {language} ({wanted}); there are: {there or 'none'}. Name the folder of the "
        "whole set, or mend the label in the language's profile."
    )
