"""Settings of stage 6: which model to talk to, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings


class Sampling(Settings):
    """How a model answers; what /set may change during a conversation."""

    max_new_tokens: int = Field(512, description="longest answer in tokens", gt=0)
    temperature: float = Field(0.0, description="0: always the likeliest token (greedy); above: sampling", ge=0, le=10)
    top_p: float = Field(
        1.0, description="sample from the likeliest tokens that hold this much probability", gt=0, le=1
    )
    top_k: int = Field(0, description="sample from this many likeliest tokens; 0: from all", ge=0)
    repetition_penalty: float = Field(1.0, description="above 1 makes tokens seen already less likely", gt=0)
    seed: int | None = Field(None, description="seed of the sampling; null: another in every run", ge=0)
    direction: Direction | None = Field(
        None,
        description="translate from which language into which, e.g. zh-bo: text given to a translator, and what a file "
        "and /compare ask of every model; null: the direction that a translator was trained in, if it is one",
    )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class InferenceSettings(Sampling):
    """Everything stage 6 can be told."""

    model_path: Annotated[list[str], BeforeValidator(_listed)] = Field(
        description="the model, or a list of models: folders, checkpoint-N folders, adapters or hub names; name=path "
        "gives one a name",
        min_length=1,
    )
    models_in_memory: int | None = Field(
        None, description="how many models are kept loaded; null: as many as the memory holds", gt=0
    )
    device: str = Field("auto", description="auto: the first GPU, else the CPU; or cpu, cuda, cuda:N")
    device_map: str | None = Field(
        None, description="auto, balanced or sequential: spread a model over all GPUs, then the CPU; null: one device"
    )
    quantization: Literal["4bit"] | None = Field(
        None, description="4bit: round the weights to NF4 (bitsandbytes) as they are loaded; null: as dtype says"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on the CPU"
    )
    prompt_format: Literal["auto", "chat", "text"] = Field(
        "auto", description="chat: the chat template; text: plain text to continue; auto: what the model was trained on"
    )
    system: str | None = Field(None, description="system prompt of a conversation; null: what the chat template says")
    translation_template: str = Field(
        "请将以下{source}翻译成{target}：{text}",
        description="what /translate asks: {text}, and the languages' names as {source} and {target}",
    )
    translation_templates: dict[str, str] = Field(
        default_factory=dict,
        description="templates for single directions in its place, e.g. {en-bo: 'Translate into {target}: {text}'}",
    )
    language_tokens: dict[str, str] = Field(
        default_factory=dict,
        description="of a translator: tokens of languages whose profile does not tell them, e.g. {bo: my_MM}",
    )
    prompt_language: str = Field("zh", description="the language that /translate names languages in, e.g. zh or en")
    web_port: int = Field(
        7860,
        description="where --web listens, on this machine alone: http://127.0.0.1:PORT; 0: any free port",
        ge=0,
        lt=65536,
    )
    num_beams: int = Field(1, description="of a translated file: 1: greedy; more: beam search", ge=1)
    segment_tokens: int | None = Field(
        None,
        description="of a translated file: sentences of a line are translated together up to so many tokens; null: 128 "
        "by a translator, 512 by a chat model, and no more than they take",
        gt=0,
    )
    field: str | None = Field(
        None,
        description="of a translated file of records: the column or key to translate; null: the source language's "
        "code, source_text, source or text, whichever is there first",
    )
    wrapped: bool = Field(
        False, description="of a translated file of text: lines of a paragraph belong together, as in e-mails"
    )
    trust_remote_code: bool = Field(False, description="run Python code from the model folder; only for code you read")

    @field_validator("device_map")
    @classmethod
    def _known_map(cls, value: str | None) -> str | None:
        if value not in (None, "auto", "balanced", "balanced_low_0", "sequential"):
            raise ValueError("expected auto, balanced, balanced_low_0 or sequential; for one device use `device`")
        return value

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> InferenceSettings:
        if problems := check_templates(self.translation_template, self.translation_templates):
            raise ValueError("; ".join(problems))
        return self


def check_templates(template: str, by_direction: Mapping[str, str]) -> list[str]:
    """Return what is wrong with ``translation_template`` and ``translation_templates``, by key."""
    templates = {"translation_template": template}
    templates |= {f"translation_templates.{name}": text for name, text in by_direction.items()}
    return [f"{key}: {problem}" for key, text in templates.items() if (problem := _template_problem(text))]


def _template_problem(template: str) -> str | None:
    try:
        filled = template.format(source="", target="", text="\0")
    except (KeyError, IndexError, ValueError):
        return "only {source}, {target} and {text} may stand in it; write other braces twice"
    return None if "\0" in filled else "{text} is missing, which stands for the text to translate"
