"""Settings of test sets from elsewhere: where their files are, how they are laid out, and what is measured on them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings

OWN = "held_out"  # the name of the test set that stage 1 made


class _AlignedSet(Settings):
    """The same items in one or more languages: from it come texts, and translations in any direction."""

    texts: list[str] = Field(
        default_factory=list,
        description="languages whose likelihood is measured; one that is not trained on shows what was forgotten",
    )
    directions: list[Direction] = Field(default_factory=list, description="translation directions, e.g. [zh-bo, bo-zh]")
    neighbours: dict[str, str] = Field(
        default_factory=dict,
        description="target language: another of the same script, e.g. {bo: dz}; its texts, taken for translations, "
        "are a floor",
    )

    @model_validator(mode="after")
    def _something_is_measured(self) -> Self:
        if not self.texts and not self.directions:
            raise ValueError("nothing is measured on it: name `texts`, `directions`, or both")
        for key, values in (("texts", self.texts), ("directions", self.directions)):
            if len({*values}) < len(values):
                raise ValueError(f"`{key}` names one twice: {', '.join(values)}")
        return self


class FloresSet(_AlignedSet):
    """FLORES-200 or FLORES+: a folder with a folder a split, in it a file a language."""

    layout: Literal["flores"] = Field(description="flores: the folder of FLORES-200 or FLORES+")
    folder: str = Field(description="holds dev/ and devtest/")
    split: Literal["dev", "devtest"] = Field("devtest", description="what is scored; examples come from the other")


class NtrexSet(_AlignedSet):
    """NTREX-128: newstest2019-src.eng.txt and a newstest2019-ref file a language."""

    layout: Literal["ntrex"] = Field(description="ntrex: the folder NTREX-128")
    folder: str = Field(description="holds newstest2019-src.eng.txt and newstest2019-ref.<language>.txt")


class LinesSet(_AlignedSet):
    """Plain text, one item a line, a file a language."""

    layout: Literal["lines"] = Field(description="lines: one item a line, a file a language")
    files: dict[str, str] = Field(description="language: file; line n of one is line n of the others", min_length=1)
    examples: dict[str, str] = Field(default_factory=dict, description="the same, for the examples in a prompt")


class FieldsSet(_AlignedSet):
    """Records with a text in each language: .tsv, .csv, .json or .jsonl."""

    layout: Literal["fields"] = Field(description="fields: .tsv, .csv, .json or .jsonl, a column a language")
    file: str = Field(description="the records that are scored")
    fields: dict[str, str] = Field(description="language: name of its column", min_length=1)
    id_field: str | None = Field(None, description="column of the item's id; null: items are numbered")
    source_field: str | None = Field(None, description="column that says where an item is from, for scores by source")
    examples: str | None = Field(None, description="a file of the same columns, for the examples in a prompt")


TestSet = Annotated[FloresSet | NtrexSet | LinesSet | FieldsSet, Field(discriminator="layout")]


class ChoiceSet(Settings):
    """Questions with one right answer among several, or with an answer to be matched."""

    layout: Literal["mm_eval", "belebele", "ti_mmlu"] = Field(
        description="mm_eval: {question, choices, answerKey}; belebele: {flores_passage, question, mc_answer1..4, "
        "correct_answer_num}; ti_mmlu: questions with options A to D and an answer"
    )
    file: str = Field(description="a .json, .jsonl or .tsv file, or a folder of them")
    language: str = Field(description="the language of questions and answers: a profile in configs/languages")
    num_fewshot: int = Field(0, ge=0, description="questions with their answers shown first, from `examples`")
    examples: str | None = Field(None, description="a file or folder of the same layout, for the examples")
    method: Literal["auto", "likelihood", "generation"] = Field(
        "auto",
        description="likelihood: the most likely choice; generation: what is written is matched; auto: likelihood "
        "where there are choices",
    )

    @model_validator(mode="after")
    def _examples_are_there(self) -> Self:
        if self.num_fewshot and self.examples is None:
            raise ValueError("num_fewshot needs `examples`: questions must not stand among those that are scored")
        return self
