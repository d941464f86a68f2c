"""Settings of stage 1's filters: each is a threshold, and its name is the one under which the report counts it."""

from __future__ import annotations

from pydantic import Field

from langadapt.recipe.settings import Settings


class CleaningSettings(Settings):
    """Filters on every text (the first six) and on the pairs that translations are drawn from (the last three)."""

    script_share: float = Field(
        default=0.05, description="least share of a text's letters that are in its language's scripts", ge=0, le=1
    )
    min_units: int = Field(default=1, description="fewest units (syllables, characters or words) of a text", ge=0)
    max_units: int | None = Field(default=None, description="most units of a text; null: any number", gt=0)
    max_damaged: float = Field(
        default=0.01,
        description="highest share of characters that are U+FFFD, control characters or mojibake",
        ge=0,
        le=1,
    )
    max_markup: float = Field(
        default=1.0, description="highest share of characters that are markup, such as <>{}[]|=", ge=0
    )
    max_repetition: float = Field(
        default=1.0, description="highest share of runs of five units that stood in the text before", ge=0, le=1
    )
    length_ratio: float | None = Field(
        default=None,
        description="pairs whose length ratio is more than so many interquartile ranges outside the quartiles of their "
        "source are dropped; null: none",
        gt=0,
    )
    min_shared_numbers: float = Field(
        default=0.0,
        description="least share of a pair's numbers, of the side with fewer, that the other side has",
        ge=0,
        le=1,
    )
    max_copied: float = Field(
        default=1.0, description="highest share of a pair's distinct units that stand on both sides", ge=0, le=1
    )

    @property
    def measures_texts(self) -> bool:
        """Whether any filter has to look into the texts."""
        single = (self.script_share, self.min_units) != (0, 0) or self.max_units is not None
        shares = min(self.max_damaged, self.max_markup, self.max_repetition) < 1
        return single or shares or self.length_ratio is not None


class DeduplicationSettings(Settings):
    """Which texts count as one. Of each cluster of them one is kept."""

    exact: bool = Field(default=True, description="texts with the same units, whatever their punctuation and case")
    near: float | None = Field(
        default=None,
        description="and texts whose runs of `shingle` units have this Jaccard similarity; null: not",
        gt=0.5,
        le=1,
    )
    shingle: int = Field(default=5, description="units in the runs that are compared", gt=0)

    @property
    def measures_texts(self) -> bool:
        """Whether anything is to be found at all."""
        return self.exact or self.near is not None
