"""Settings of the sources of stage 1: where the records are, how they are laid out, in which languages."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

import regex
from pydantic import BeforeValidator, Field, field_validator, model_validator

from langadapt.files.suffixes import CONTAINERS, container_of
from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings


def is_pattern(name: str) -> bool:
    """Say whether a file name stands for all the files that match it."""
    return any(character in name for character in "*?[")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class HubDataset(Settings):
    """A data set in the format of Hugging Face `datasets`."""

    name: str = Field(description="organisation/name on the hub, or a folder below data_dir")
    config: str | None = Field(None, description="configuration of the data set (default: its own)")
    split: str = Field("train", description="split, also part of one: train[:5%]")
    revision: str = Field("main", description="branch, tag or commit on the hub; the commit it resolved to is recorded")


class _Source(Settings):
    limit: int | None = Field(None, description="read the first so many records only, to try a recipe out", gt=0)
    convert: dict[str, str] = Field(
        default_factory=dict, description="language code: OpenCC configuration, e.g. {zh: s2t} for Traditional Chinese"
    )

    @model_validator(mode="after")
    def _conversions_exist(self) -> _Source:
        if not self.convert:
            return self
        from opencc import CONFIGS

        known = sorted(PurePath(name).stem for name in CONFIGS)
        problems = [
            f"convert names {code!r}, which the source does not have ({', '.join(languages_of(self))})"
            for code in self.convert
            if code not in languages_of(self)
        ]
        problems += [
            f"convert.{code} is {name!r}, which OpenCC does not know; known are {', '.join(known)}"
            for code, name in self.convert.items()
            if name not in known
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class _RecordSource(_Source):
    file: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="file below data_dir, or a list of files, or a pattern such as part-*.jsonl.zst: "
        ".txt (column `text`), .tsv, .csv, .json, .jsonl or .parquet, each also as .gz or .zst",
    )
    dataset: HubDataset | None = Field(None, description="instead of `file`: a Hugging Face data set")
    columns: list[str] | None = Field(None, description="names of the columns of a .tsv or .csv without a header line")

    @field_validator("file")
    @classmethod
    def _suffixes_are_known(cls, names: list[str]) -> list[str]:
        for name in names:
            # A pattern may end before the suffix; the files it matches are checked when they are read.
            if container_of(name) is None and not is_pattern(name):
                known = ", ".join(CONTAINERS)
                raise ValueError(f"the suffix of {name!r} is not known; known are {known}, each also as .gz or .zst")
        return names

    @model_validator(mode="after")
    def _one_place(self) -> _RecordSource:
        if bool(self.file) == (self.dataset is not None):
            raise ValueError("a source has either `file` or `dataset`" + (", not both" if self.file else ""))
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> _RecordSource:
        if self.columns is None:
            return self
        if self.dataset or any(container_of(name) not in ("tsv", "csv", None) for name in self.file):
            raise ValueError("`columns` names the columns of .tsv and .csv files; records elsewhere carry their names")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"`columns` names a column twice: {', '.join(self.columns)}")
        return self


class LinesSource(_Source):
    """Plain text with one document a line; with several languages, one file a language."""

    layout: Literal["lines"] = Field(description="lines: one document a line, one file a language")
    files: dict[str, str] = Field(description="language code: file below data_dir, also .gz or .zst", min_length=1)
    align: Literal["auto", "never"] = Field(
        "auto", description="auto: re-align languages whose lines have drifted apart; never: line n belongs to line n"
    )

    @field_validator("files")
    @classmethod
    def _are_plain_text(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files.values():
            if container_of(name) not in ("text", None):
                raise ValueError(f"{name!r} holds records, not one document a line; use `layout: fields`")
        return files


class _PairedSource(_RecordSource):
    document: str | None = Field(
        None,
        description="column that names the document a record is of, e.g. pub_number: of a document held-out records "
        "are of, nothing is trained on; a record without is a document of its own",
    )


class FieldsSource(_PairedSource):
    """Records with a text in each of one or more languages, in a column each: monolingual text, pairs, triplets."""

    layout: Literal["fields"] = Field(description="fields: a text in each of one or more languages, a column each")
    fields: dict[str, str] = Field(description="language code: name of the column that holds its text", min_length=1)

    @model_validator(mode="after")
    def _fields_are_columns(self) -> FieldsSource:
        named = [*self.fields.values(), *filter(None, [self.document])]
        missing = [column for column in named if self.columns and column not in self.columns]
        if missing:
            raise ValueError(f"`fields` and `document` name columns that `columns` does not: {', '.join(missing)}")
        return self


class PairsSource(_PairedSource):
    """Pairs in one direction a record: {source, target, source_lang}; the same pair the other way round counts once."""

    layout: Literal["pairs"] = Field(description="pairs: source, target and source_lang")
    languages: list[str] = Field(description="the two languages, e.g. [en, fr]", min_length=2, max_length=2)

    @field_validator("languages")
    @classmethod
    def _differ(cls, languages: list[str]) -> list[str]:
        if languages[0] == languages[1]:
            raise ValueError("a pair needs two languages")
        return languages


class _TurnSource(_RecordSource):
    languages: list[str] = Field(description="the languages to route between, told apart by script", min_length=1)
    routes: dict[Direction, str] = Field(
        default_factory=dict,
        description="direction: regular expression; a record whose user turn matches goes there, the first match "
        "counts, the rest is routed by script. For languages that share one: {zh-lzh: 文言文|古文}",
    )

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> _TurnSource:
        problems = []
        for direction, pattern in self.routes.items():
            strangers = set(direction.split("-")) - set(self.languages)
            if strangers:
                problems.append(f"routes.{direction}: {', '.join(sorted(strangers))} is not among `languages`")
            try:
                regex.compile(pattern)
            except regex.error as error:
                problems.append(f"routes.{direction}: {pattern!r} is no regular expression ({error})")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class InstructionsSource(_TurnSource):
    """Instructions and conversations: Alpaca, ShareGPT or messages, recognised record by record by their keys."""

    layout: Literal["instructions"] = Field(
        description="instructions: {instruction, input, output}, {conversations} or {messages}"
    )


class PreferencesSource(_TurnSource):
    """A chosen and a rejected answer to the same prompt."""

    layout: Literal["preferences"] = Field(
        description="preferences: {chosen, rejected} as lists of messages, or {prompt, chosen, rejected}"
    )


Source = Annotated[
    LinesSource | FieldsSource | PairsSource | InstructionsSource | PreferencesSource, Field(discriminator="layout")
]


def languages_of(source: _Source) -> list[str]:
    """Return the language codes a source holds."""
    if isinstance(source, LinesSource):
        return list(source.files)
    if isinstance(source, FieldsSource):
        return list(source.fields)
    assert isinstance(source, PairsSource | _TurnSource), source
    return source.languages
