"""Language profiles: what the pipeline has to know of a language, as data (configs/languages/*.yaml)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from pydantic import BeforeValidator, Field, field_validator

from langadapt.errors import UserError
from langadapt.recipe.settings import Settings, load_settings

Direction = Annotated[str, Field(pattern=r"^[A-Za-z_]+-[A-Za-z_]+$", description="source-target, e.g. zh-bo")]

PROFILES = Path(__file__).resolve().parents[2] / "configs" / "languages"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Language(Settings):
    """One language. Every stage asks the profile; no stage knows a language by name."""

    code: str = Field(description="the code used in records, directions and file names, e.g. bo")
    names: dict[str, str] = Field(description="its name in each prompting language, e.g. {zh: 藏文, en: Tibetan}")
    autonym: str = Field(description="the language's own name for itself, for charts")
    scripts: list[str] = Field(description="Unicode script names its text is written in, e.g. [Tibetan]", min_length=1)
    normalization: Literal["nfc", "tibetan"] = Field(
        "nfc", description="nfc, or tibetan: NFC plus the map of langadapt.text.normalization"
    )
    segmentation: Literal["syllables", "characters", "words"] = Field(
        description="the unit its text is counted in: tsheg syllables, characters, or words"
    )
    sentence_ends: str = Field(description="characters that end a sentence or clause")
    bleu_tokenizer: Literal["syllables", "zh", "ja-mecab", "ko-mecab", "char", "13a", "intl", "flores200"] = Field(
        description="sacrebleu's tokenizer for this language; syllables: tsheg syllables, cut by us, tokenizer none"
    )
    fonts: list[str] = Field(default_factory=list, description="font families that hold its script, best first")
    flores: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="its label in FLORES-200, e.g. bod_Tibt; a list where FLORES+ has another: [zho_Hans, cmn_Hans]",
    )
    ntrex: str | None = Field(None, description="its label in NTREX-128, e.g. bod or zho-CN")
    question_label: str = Field("Q", description="what stands before a question in a prompt, e.g. དྲི་བ")
    answer_label: str = Field("A", description="what stands before its answer, e.g. ལན")

    @field_validator("scripts")
    @classmethod
    def _scripts_exist(cls, names: list[str]) -> list[str]:
        return require_scripts(names)

    def name_in(self, prompt_language: str) -> str:
        """Return what a prompting language calls this one; raise `UserError` where the profile does not say."""
        if prompt_language not in self.names:
            raise UserError(
                f"{PROFILES / self.code}.yaml: `names` has none for prompt_language={prompt_language}. Add it, or "
                f"choose one of {', '.join(self.names)}."
            )
        return self.names[prompt_language]


@cache
def load_language(code: str) -> Language:
    """Return the profile of a language code; raise `UserError` naming the file to write when there is none."""
    path = PROFILES / f"{code}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise UserError(f"no profile for the language {code!r}: write {path} (there are: {known}).")
    profile = load_settings(Language, path)
    if profile.code != code:
        raise UserError(f"{path}: `code` is {profile.code!r}, but the file's name says {code!r}.")
    return profile


def require_scripts(names: list[str]) -> list[str]:
    """Return the names; raise `ValueError` for one that is no Unicode script."""
    for name in names:
        if not _is_script(name):
            raise ValueError(f"{name!r} is no script in Unicode; known are, for example, Tibetan, Latin and Han")
    return names


def _is_script(name: str) -> bool:
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return name.replace("_", "").isalpha()
