"""Settings of stage 1: which sources, how much of each, which prompts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from langadapt.recipe.cleaning import CleaningSettings, DeduplicationSettings
from langadapt.recipe.language import Direction
from langadapt.recipe.mixtures import Mixture, PreferencePart, RecordPart, TextPart
from langadapt.recipe.settings import Settings
from langadapt.recipe.sources import InstructionsSource, PreferencesSource, Source, languages_of

_NAME = r"^[\w.-]+$"


class HeldOutSize(Settings):
    """How much is held out."""

    cpt: int = Field(default=1000, description="held-out texts", gt=0)
    sft: int = Field(default=500, description="held-out fine-tuning records, over all parts in proportion", gt=0)
    dpo: int = Field(default=200, description="held-out preference pairs, over all parts in proportion", gt=0)
    max_share: float = Field(default=0.05, description="never more than this share of what there is", gt=0, lt=1)


class ValidationSize(Settings):
    """How much is held out for evaluation during training; of two keys, one."""

    share: float | None = Field(None, description="this share of the fine-tuning records", gt=0, lt=1)
    count: int | None = Field(None, description="so many, over all parts in proportion", gt=0)

    @model_validator(mode="after")
    def _one_size(self) -> ValidationSize:
        if (self.share is None) == (self.count is None):
            raise ValueError("give either `share` or `count`")
        return self


class Download(Settings):
    """One repository of the Hugging Face hub."""

    repo_id: str = Field(description="organisation/name on the hub")
    repo_type: Literal["dataset", "model"] = Field(description="dataset or model")
    local_dir: str = Field(description="where to put it; {data_dir} stands for the key data_dir")
    revision: str = Field("main", description="branch, tag or commit; the commit it resolved to is recorded")
    patterns: list[str] | None = Field(None, description="file name patterns to fetch (default: all)")

    def folder(self, data_dir: str) -> Path:
        """Return the folder it goes to."""
        return Path(self.local_dir.replace("{data_dir}", data_dir))


class NewTokenizer(Settings):
    """A tokenizer to be trained: byte-level BPE with the ChatML template, for a model that begins from nothing."""

    vocab_size: int = Field(description="everything counted: 256 bytes, merges, three control tokens", ge=300)
    output_dir: str = Field(description="the folder it is written to, for `model.tokenizer` of stage 2")
    sample_bytes: int = Field(
        50_000_000,
        description="at most so much text is learned from, of each part of the mixtures as much as it has of them; "
        "learning takes some 50 bytes of memory a byte",
        gt=0,
    )


class PreprocessSettings(Settings):
    """Everything stage 1 can be told."""

    name: str = Field(description="first part of the file names it writes, e.g. tibetan", pattern=_NAME)
    language: str = Field(description="code of the language being taught (configs/languages)")
    data_dir: str = Field("hf_data", description="the folder that holds the sources")
    tokenizer: str | None = Field(None, description="tokenizer that lengths are counted with: a folder or a hub name")
    new_tokenizer: NewTokenizer | None = Field(
        None, description="instead of `tokenizer`: one to be trained on what is not held out"
    )
    tokenizer_report: list[str] = Field(
        default_factory=list, description="other tokenizers to compare with it in the data report"
    )
    template: str | None = Field(None, description="chat template by name; null: the tokenizer's own")
    output_dir: str = Field(description="where the files go, e.g. hf_data/tibetan_datasets")
    cutoff_len: int = Field(4096, description="longest record in tokens in the *_filtered_* files", gt=0)
    seed: int = Field(42, description="seed of every draw")
    sources: dict[str, Source] = Field(description="name: source", min_length=1)
    max_bad_ratio: float = Field(
        0.001, description="most records of a source that may be unreadable; past it the run stops", ge=0, lt=1
    )
    workers: int | None = Field(None, description="processes that read text; null: one a core", gt=0)
    cleaning: CleaningSettings = Field(CleaningSettings(), description="filters on texts and pairs")
    deduplicate: DeduplicationSettings = Field(DeduplicationSettings(), description="which texts count as one")
    decontaminate: list[str] = Field(
        default_factory=list,
        description="test sets from elsewhere, kept out of training: files below data_dir, or of another stage 1, "
        "text with one sentence a line or any records (.json, .jsonl, .csv, .tsv, .parquet), whose texts all count",
    )
    cpt: Mixture[TextPart] | None = Field(
        description="the texts of continual pretraining; null: none, and its files are empty"
    )
    sft: Mixture[RecordPart] = Field(description="the records of fine-tuning")
    dpo: Mixture[PreferencePart] | None = Field(
        None, description="the preference pairs of preference optimisation; null: none, and no files of them"
    )
    split_long_pairs: bool = Field(
        True, description="cut text pairs longer than cutoff_len into aligned segments where that can be done surely"
    )
    test: HeldOutSize = Field(HeldOutSize(), description="the held-out sets")
    validation: ValidationSize | None = Field(
        None,
        description="fine-tuning records for `eval_dataset` of training, free of twins like it; null: none",
    )
    prompts: dict[Direction, list[str]] = Field(
        default_factory=dict, description="prompts for text pairs by direction; {text} stands for the source text"
    )
    download: list[Download] = Field(default_factory=list, description="what --download fetches")

    @property
    def tokenizer_source(self) -> str:
        """The folder or hub name of the tokenizer that lengths are counted with, be it new or not."""
        return self.new_tokenizer.output_dir if self.new_tokenizer is not None else str(self.tokenizer)

    @property
    def test_set_paths(self) -> list[Path]:
        """The files of `decontaminate`."""
        return [self._test_set_path(Path(name).expanduser()) for name in self.decontaminate]

    def _test_set_path(self, name: Path) -> Path:
        """Return a path in ``data_dir``, or as it is where only that is there: what another stage 1 wrote."""
        inside = Path(self.data_dir).expanduser() / name
        return name if name.exists() and not inside.exists() else inside

    @property
    def conversions(self) -> list[str]:
        """The OpenCC configurations that any source is converted by."""
        return sorted({configuration for source in self.sources.values() for configuration in source.convert.values()})

    @model_validator(mode="after")
    def _agree(self) -> PreprocessSettings:
        problems = [
            f"sources: {name!r} is no name; it may hold letters, digits and the characters _ . -"
            for name in self.sources
            if not re.fullmatch(_NAME, name)
        ]
        problems += [
            *self._problems_of_cpt(),
            *self._problems_of_sft(),
            *self._problems_of_dpo(),
            *self._problems_of_download(),
            *self._problems_of_tokenizer(),
        ]
        named = Counter([self.tokenizer_source, *self.tokenizer_report])
        problems += [
            f"tokenizer_report names {name!r} once more; the recipe's own tokenizer is always in the report"
            for name, n in named.items()
            if n > 1
        ]
        for direction, prompts in self.prompts.items():
            problems += [f"prompts.{direction}: {p!r} lacks {{text}}" for p in prompts if p.count("{text}") != 1]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_cpt(self) -> Iterator[str]:
        seen: set[tuple[str, str]] = set()
        for index, part in enumerate(self.cpt.parts if self.cpt else ()):
            code = part.language or self.language
            if (part.source, code) in seen:
                yield f"cpt.parts.{index} names {part.source!r} in {code!r} once more; see `repeats`"
            seen.add((part.source, code))
            if (source := self.sources.get(part.source)) is None:
                yield self._no_source(f"cpt.parts.{index}", part.source)
            elif isinstance(source, InstructionsSource | PreferencesSource):
                yield (
                    f"cpt.parts.{index}: the layout of {part.source!r} is {source.layout}; texts come from lines, "
                    "fields, pairs"
                )
            elif code not in languages_of(source):
                yield f"cpt.parts.{index}: the source {part.source!r} has no text in {code!r}"

    def _problems_of_sft(self) -> Iterator[str]:
        seen: dict[tuple[str, str], int] = {}
        for index, part in enumerate(self.sft.parts):
            first = seen.setdefault((part.source, part.direction), index)
            if first != index and part.task == self.sft.parts[first].task:
                yield f"sft.parts.{index} is {part.source} {part.task} {part.direction} once more; add up their counts"
            elif first != index:
                yield (
                    f"sft.parts.{index} takes the records of sft.parts.{first}, {part.source} {part.direction}, under "
                    "another task: they would be trained on twice. Keep one, with the counts added up"
                )
            if (source := self.sources.get(part.source)) is None:
                yield self._no_source(f"sft.parts.{index}", part.source)
                continue
            if missing := set(part.languages) - set(languages_of(source)):
                yield f"sft.parts.{index}: the source {part.source!r} has no {', '.join(sorted(missing))}"
            if isinstance(source, PreferencesSource):
                yield f"sft.parts.{index}: {part.source!r} holds preferences, which are not for fine-tuning"
            elif not isinstance(source, InstructionsSource):
                if part.task != "translation":
                    yield f"sft.parts.{index}: text pairs of {part.source!r} give task translation, not {part.task}"
                elif part.languages[0] == part.languages[1]:
                    yield f"sft.parts.{index}: {part.direction} is no translation; name two languages"
                elif not self.prompts.get(part.direction):
                    yield f"sft.parts.{index}: no prompts for {part.direction}; add them under `prompts`"

    def _problems_of_dpo(self) -> Iterator[str]:
        seen: set[tuple[str, str]] = set()
        for index, part in enumerate(self.dpo.parts if self.dpo else ()):
            if (part.source, part.direction) in seen:
                yield f"dpo.parts.{index} is {part.source} {part.direction} once more; add up their counts"
            seen.add((part.source, part.direction))
            if (source := self.sources.get(part.source)) is None:
                yield self._no_source(f"dpo.parts.{index}", part.source)
            elif not isinstance(source, PreferencesSource):
                yield f"dpo.parts.{index}: the layout of {part.source!r} is {source.layout}, not preferences"
            elif missing := set(part.languages) - set(source.languages):
                yield f"dpo.parts.{index}: the source {part.source!r} has no {', '.join(sorted(missing))}"

    def _problems_of_tokenizer(self) -> Iterator[str]:
        if (self.tokenizer is None) == (self.new_tokenizer is None):
            found = "neither is there" if self.tokenizer is None else "both are there"
            yield f"either `tokenizer` names one to count with, or `new_tokenizer` says what to train; {found}"
        if self.new_tokenizer is None:
            return
        if os.path.abspath(self.new_tokenizer.output_dir) == os.path.abspath(self.output_dir):
            yield f"new_tokenizer.output_dir is output_dir, {self.output_dir}; give the tokenizer a folder of its own"
        if self.split_long_pairs:
            yield (
                "new_tokenizer: what is held out must be known before it is trained, so no tokenizer can say yet which "
                "pairs are longer than cutoff_len; set split_long_pairs: false"
            )

    def _problems_of_download(self) -> Iterator[str]:
        homes: dict[str, int] = {}
        for index, item in enumerate(self.download):
            first = homes.setdefault(os.path.abspath(item.folder(self.data_dir)), index)
            if first != index:
                yield (
                    f"download.{index} has the local_dir of download.{first}, {item.local_dir}; each would take the "
                    "other's files for its own. Give each a folder, or fetch one repository at once by its `patterns`"
                )

    def _no_source(self, key: str, name: str) -> str:
        return f"{key}.source is {name!r}, which is not among the sources ({', '.join(self.sources)})"
