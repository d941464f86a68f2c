"""Settings of stage 1: which sources, how much of each, which prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from langadapt.recipe.cleaning import CleaningSettings, DeduplicationSettings
from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings
from langadapt.recipe.sources import InstructionsSource, PreferencesSource, Source, languages_of


class CptMixture(Settings):
    """What continual pretraining reads."""

    sources: list[str] = Field(description="names of sources; texts are drawn from all of them alike", min_length=1)
    count: int = Field(description="texts to train on", gt=0)


class SftPart(Settings):
    """One part of the fine-tuning mixture."""

    source: str = Field(description="name of a source")
    task: Literal["instruction", "translation"] = Field(description="what the records are")
    direction: Direction = Field(description="language asked in - language answered in, e.g. zh-bo or bo-bo")
    count: int = Field(description="records to train on", gt=0)
    max_share: float = Field(
        1.0, description="cut this part, never another, to stay within this share of the mixture", gt=0, le=1
    )

    @property
    def languages(self) -> tuple[str, str]:
        """The source and target language codes of the direction."""
        source, _, target = self.direction.partition("-")
        return source, target


class HeldOutSize(Settings):
    """How much is held out."""

    cpt: int = Field(default=1000, description="held-out texts", gt=0)
    sft: int = Field(default=500, description="held-out fine-tuning records, over all parts in proportion", gt=0)
    max_share: float = Field(default=0.05, description="never more than this share of what there is", gt=0, lt=1)


class Download(Settings):
    """One repository of the Hugging Face hub."""

    repo_id: str = Field(description="organisation/name on the hub")
    repo_type: Literal["dataset", "model"] = Field(description="dataset or model")
    local_dir: str = Field(description="where to put it; {data_dir} stands for the key data_dir")
    revision: str = Field("main", description="branch, tag or commit; the commit it resolved to is recorded")
    patterns: list[str] | None = Field(None, description="file name patterns to fetch (default: all)")


class PreprocessSettings(Settings):
    """Everything stage 1 can be told."""

    name: str = Field(description="first part of the file names it writes, e.g. tibetan", pattern=r"^[\w.-]+$")
    language: str = Field(description="code of the language being taught (configs/languages)")
    data_dir: str = Field("hf_data", description="the folder that holds the sources")
    tokenizer: str = Field(description="tokenizer that lengths are counted with: a folder or a hub name")
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
        description="test sets from elsewhere, kept out of training: files below data_dir, text with one sentence a "
        "line or any records (.json, .jsonl, .csv, .tsv, .parquet), whose texts all count",
    )
    cpt: CptMixture = Field(description="the texts of continual pretraining")
    sft: list[SftPart] = Field(description="the parts of the fine-tuning mixture", min_length=1)
    test: HeldOutSize = Field(HeldOutSize(), description="the held-out sets")
    prompts: dict[Direction, list[str]] = Field(
        default_factory=dict, description="prompts for text pairs by direction; {text} stands for the source text"
    )
    download: list[Download] = Field(default_factory=list, description="what --download fetches")

    @property
    def test_set_paths(self) -> list[Path]:
        """The files of `decontaminate`."""
        return [Path(self.data_dir).expanduser() / Path(name).expanduser() for name in self.decontaminate]

    @model_validator(mode="after")
    def _agree(self) -> PreprocessSettings:
        problems = []
        repeated = [name for name, count in Counter(self.cpt.sources).items() if count > 1]
        problems += [f"cpt.sources names {name!r} twice" for name in repeated]
        parts = Counter((part.source, part.task, part.direction) for part in self.sft)
        problems += [f"sft has {' '.join(part)} twice; add up their counts" for part, n in parts.items() if n > 1]
        if sum(part.max_share for part in self.sft if part.max_share < 1) >= 1:
            problems.append("the max_share of the parts of sft add up to 1 or more; nothing is left for the others")
        for name in self.cpt.sources:
            if name not in self.sources:
                problems.append(
                    f"cpt.sources names {name!r}, which is not among the sources ({', '.join(self.sources)})"
                )
            elif isinstance(source := self.sources[name], InstructionsSource | PreferencesSource):
                problems.append(
                    f"cpt.sources names {name!r}, whose layout is {source.layout}; texts come from lines, fields, pairs"
                )
            elif self.language not in languages_of(source):
                problems.append(f"cpt.sources names {name!r}, which has no text in {self.language!r}")
        for index, part in enumerate(self.sft):
            if part.source not in self.sources:
                problems.append(f"sft.{index}.source is {part.source!r}, which is not among the sources")
                continue
            source = self.sources[part.source]
            missing = set(part.languages) - set(languages_of(source))
            if missing:
                problems.append(f"sft.{index}: the source {part.source!r} has no {', '.join(sorted(missing))}")
            if isinstance(source, PreferencesSource):
                problems.append(f"sft.{index}: {part.source!r} holds preferences, which are not for fine-tuning")
            elif not isinstance(source, InstructionsSource):
                if part.task != "translation":
                    problems.append(
                        f"sft.{index}: text pairs of {part.source!r} give task translation, not {part.task}"
                    )
                elif not self.prompts.get(part.direction):
                    problems.append(f"sft.{index}: no prompts for {part.direction}; add them under `prompts`")
        for direction, prompts in self.prompts.items():
            problems += [f"prompts.{direction}: {p!r} lacks {{text}}" for p in prompts if p.count("{text}") != 1]
        if problems:
            raise ValueError("; ".join(problems))
        return self
