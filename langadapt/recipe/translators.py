"""Settings of encoder-decoder translators: which directions they learn, and how their vocabulary names languages."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from langadapt.recipe.language import load_language
from langadapt.recipe.methods import MethodSettings
from langadapt.recipe.settings import Settings


class NewLanguage(Settings):
    """A language token that a model's vocabulary lacks."""

    token: str = Field(description="written as the model writes others: bo_CN, __bo__, dzo_Tibt", min_length=1)
    like: str = Field(description="a related language, whose token's row of the embeddings the new one begins with")


class TranslatorSettings(MethodSettings):
    """The keys of ``stage: seq2seq``. Languages are named by the codes of their profiles."""

    source_languages: list[str] | None = Field(
        None,
        description="seq2seq: train on translation out of these languages only, e.g. [en]; null: out of all",
        min_length=1,
    )
    language_tokens: dict[str, str] = Field(
        default_factory=dict,
        description="seq2seq: language tokens that the profiles do not lead to, e.g. {zh: zho_Hant}",
    )
    new_languages: dict[str, NewLanguage] = Field(
        default_factory=dict,
        description="seq2seq: language tokens to add, e.g. {bo: {token: bo_CN, like: zh}}",
    )

    @field_validator("source_languages", "language_tokens", "new_languages")
    @classmethod
    def _have_profiles(cls, value: Any) -> Any:
        for code in value or ():
            load_language(code)
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_pair_a_sequence(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("stage") == "seq2seq":
            return {"packing": "none"} | values
        return values

    @model_validator(mode="after")
    def _agree_with_the_stage(self) -> TranslatorSettings:
        """Check against keys of the settings that these are part of."""
        keys = self.model_dump(include={"stage", "packing", "template", "vocabulary", "neftune_noise_alpha"})
        stage = keys.get("stage")
        if stage != "seq2seq":
            for name in ("source_languages", "language_tokens", "new_languages"):
                if getattr(self, name):
                    raise ValueError(f"stage is {stage}, and {name} is a key of seq2seq; leave it out")
            return self
        if keys["packing"] != "none":
            raise ValueError(
                f"packing is {keys['packing']}: stage: seq2seq takes packing: none, an encoder reads one text at a time"
            )
        for name in ("template", "vocabulary", "neftune_noise_alpha"):
            if keys.get(name) is not None:
                raise ValueError(f"{name} is set, which stage: seq2seq has no use for; leave it out")
        if self.model is not None:
            raise ValueError("stage: seq2seq goes on from a translator: name it in model_name_or_path, not in `model`")
        if both := sorted(self.language_tokens.keys() & self.new_languages.keys()):
            raise ValueError(f"{both[0]} stands in language_tokens and in new_languages: its token is there, or is not")
        return self
