"""Settings of the bars that models have to clear: a figure of stage 4, and the value it must be above or below."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings
from langadapt.recipe.test_sets import OWN

_OF_LANGUAGE = ("perplexity", "bits_per_byte", "accuracy")


class Bar(Settings):
    """One bar. It judges a figure, never an interval, and no run ends for want of clearing it."""

    models: list[str] = Field(description="whom it is for, by `model_name`", min_length=1)
    measure: Literal["perplexity", "bits_per_byte", "accuracy", "bleu", "chrf", "chrf++", "comet", "labse"] = Field(
        description="perplexity is by token of the model's own tokenizer; bleu, chrf and chrf++ are from 0 to 100, "
        "accuracy, comet and labse of the order of 1"
    )
    language: str | None = Field(None, description="of perplexity, bits_per_byte and accuracy: whose text")
    direction: Direction | None = Field(None, description="of the scores of translations: e.g. en-zh_hant")
    test_set: str = Field(OWN, description="name of a test set or choice set; held_out: what stage 1 held out")
    above: float | None = Field(None, description="cleared by a figure above this", allow_inf_nan=False)
    below: float | None = Field(
        None, description="instead of `above`: cleared by a figure below this", allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = []
        wanted, other = ("language", "direction") if self.measure in _OF_LANGUAGE else ("direction", "language")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            problems.append(f"{self.measure} is of a {wanted}: give `{wanted}`, and no `{other}`")
        if (self.above is None) == (self.below is None):
            problems.append("a bar has either `above` or `below`" + (", not both" if self.above is not None else ""))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def of(self) -> str:
        """The language or direction."""
        return str(self.language or self.direction)

    @property
    def wanted(self) -> str:
        """What it asks for, in words: ``below 15``."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    def clears(self, value: float) -> bool:
        """Say whether a figure clears it; one that is equal does not."""
        return value > self.above if self.above is not None else value < float(self.below or 0)
