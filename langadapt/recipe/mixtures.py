"""Settings of stage 1's mixtures: which sources a training set is drawn from, and how much of each."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import Field, model_validator

from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings


class Part(Settings):
    """One part of a mixture. It says how much it gives, in records or tokens, or shares what the mixture has."""

    source: str = Field(description="name of a source")
    count: int | None = Field(None, description="records to train on", gt=0)
    tokens: int | None = Field(None, description="instead of `count`: tokens to train on", gt=0)
    weight: float | None = Field(
        None, description="instead of both: its share of the mixture's count or tokens, against the other weights", gt=0
    )
    repeats: int = Field(1, description="how often a record may be used, to up-sample a small source", gt=0)
    max_share: float = Field(
        1.0, description="cut this part, never another, to stay within this share of the mixture's records", gt=0, le=1
    )

    @model_validator(mode="after")
    def _one_size(self) -> Part:
        given = [key for key in ("count", "tokens", "weight") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        return self

    @property
    def shares(self) -> bool:
        """Whether the mixture's count or tokens decide how much this part gives."""
        return self.count is None and self.tokens is None


class TextPart(Part):
    """Texts to go on pretraining on."""

    language: str | None = Field(
        None, description="language of the texts; null: the one being taught. Another one is replay against forgetting"
    )


class DirectedPart(Part):
    """Records that are asked in one language and answered in one."""

    direction: Direction = Field(description="language asked in - language answered in, e.g. zh-bo or bo-bo")

    @property
    def languages(self) -> tuple[str, str]:
        """The source and target language codes of the direction."""
        source, _, target = self.direction.partition("-")
        return source, target


class RecordPart(DirectedPart):
    """Questions and answers, or translations, to fine-tune on."""

    task: Literal["instruction", "translation"] = Field(description="what the records are")


class PreferencePart(DirectedPart):
    """Questions, each with an answer that is preferred to another."""

    @property
    def task(self) -> Literal["preference"]:
        """What the records are."""
        return "preference"


PartKind = TypeVar("PartKind", TextPart, RecordPart, PreferencePart)


class Mixture(Settings, Generic[PartKind]):
    """What a training set is drawn from."""

    count: int | None = Field(None, description="records that the parts without a size of their own share", gt=0)
    tokens: int | None = Field(None, description="instead of `count`: tokens that they share", gt=0)
    temperature: float = Field(
        1.0,
        description="parts without a weight share by size ** (1 / temperature): 1 as large as they are, higher more "
        "alike",
        ge=1,
    )
    parts: list[PartKind] = Field(description="what to draw from", min_length=1)

    @model_validator(mode="after")
    def _sizes_are_clear(self) -> Mixture[PartKind]:
        if self.count is not None and self.tokens is not None:
            raise ValueError("count and tokens exclude each other; keep one")
        total = self.count is not None or self.tokens is not None
        sharing = [k for k, part in enumerate(self.parts) if part.shares]
        if sharing and not total:
            raise ValueError(f"parts.{sharing[0]} has no count; give it one, or the mixture a count or tokens to share")
        if total and not sharing:
            raise ValueError("every part has a size of its own, so that no part shares the mixture's count or tokens")
        if self.temperature != 1 and (not sharing or any(self.parts[k].weight is not None for k in sharing)):
            raise ValueError(
                "temperature is for parts that share by their size; leave it out, or the weights and counts"
            )
        if len({self.parts[k].weight is None for k in sharing}) > 1:
            raise ValueError("of the parts that share the mixture's count or tokens, give all a weight or none")
        if all(part.max_share < 1 for part in self.parts):
            raise ValueError("every part has a max_share, and nothing is left that is not capped; leave it out of one")
        if sum(part.max_share for part in self.parts if part.max_share < 1) >= 1:
            raise ValueError("the max_share of the parts add up to 1 or more; nothing is left for the others")
        return self
