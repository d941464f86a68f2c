"""Settings of the pieces that are added to a model's vocabulary before it is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from langadapt.recipe.language import require_scripts
from langadapt.recipe.settings import Settings


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
    def _scripts_are_not_latin(cls, names: list[str]) -> list[str]:
        if "Latin" in names:
            raise ValueError("new pieces in Latin script would change how English and code are cut; name other scripts")
        return require_scripts(names)
