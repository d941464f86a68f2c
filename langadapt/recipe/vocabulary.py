"""Settings of the pieces that are added to a model's vocabulary before it is trained."""

from __future__ import annotations

from typing import Literal

import regex
from pydantic import Field, field_validator

from langadapt.recipe.language import require_scripts
from langadapt.recipe.settings import Settings

_OF_ENGLISH_AND_CODE = 'aA0 .,"\u0301'  # and an accent, which text of any script may hold


class VocabularySettings(Settings):
    """Which pieces to add, and how their rows of the embeddings begin."""

    new_tokens: int = Field(description="pieces to add to the tokenizer, e.g. 4000", gt=0)
    scripts: list[str] = Field(
        description="Unicode scripts of the new pieces, e.g. [Tibetan]; text in others is cut as before", min_length=1
    )
    texts: str | None = Field(
        None, description="JSON array of records with `text` or `output` to learn the pieces from; null: the dataset"
    )
    min_frequency: int = Field(10, description="a piece occurs at least this often in the texts", gt=0)
    initialisation: Literal["mean", "distillation"] = Field(
        "mean",
        description="mean: of the rows of the old tokens; distillation: fitted so that the model does with the piece "
        "what it did with the old tokens",
    )

    @field_validator("scripts")
    @classmethod
    def _scripts_are_not_those_of_english(cls, names: list[str]) -> list[str]:
        for name in require_scripts(names):
            if regex.search(rf"\p{{Script={name}}}", _OF_ENGLISH_AND_CODE):
                raise ValueError(f"new pieces in {name} would change how English and code are cut; name other scripts")
        return names
