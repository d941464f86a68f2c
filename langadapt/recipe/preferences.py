"""Settings of direct preference optimisation: which loss, how far from the reference, and what it excludes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from langadapt.recipe.methods import MethodSettings, split_names

# TRL's DPOTrainer names them so.
PreferenceLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
LOSSES: tuple[PreferenceLoss, ...] = get_args(PreferenceLoss)
_SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
_KEYS = (
    "beta",
    "loss_type",
    "loss_weights",
    "label_smoothing",
    "precompute_ref_log_probs",
    "precompute_ref_batch_size",
)
_DEFAULTS = {"learning_rate": 1e-6, "packing": "none"}
# What has no meaning for pairs, or is not to be had with TRL's trainer: each with the value that leaves it out.
_EXCLUDED = {
    "packing": ("none", "a pair is two sequences, padded"),
    "label_smoothing_factor": (0.0, "that of preferences is label_smoothing"),
    "lora_dropout": (0.0, "policy and reference are compared without dropout"),
    "neftune_noise_alpha": (None, "policy and reference are compared without noise"),
    "use_liger_kernel": (False, "the loss has its own kernel"),
    "fsdp": (False, "take deepspeed with ZeRO stage 2"),
    "vocabulary": (None, "new pieces are learned before, with stage: pt or sft"),
    "model": (None, "preferences are of a model that answers; name it in model_name_or_path"),
}


class PreferenceSettings(MethodSettings):
    """The keys of ``stage: dpo``. Where another stage was chosen, each of them is an error."""

    beta: float = Field(
        0.1, description="dpo: how dear it is to leave the reference; higher keeps closer. For ipo its tau", gt=0
    )
    loss_type: Annotated[list[PreferenceLoss], BeforeValidator(split_names)] = Field(
        ["sigmoid"], description=f"dpo: one loss or several, added up: {', '.join(LOSSES)}", min_length=1
    )
    loss_weights: list[float] | None = Field(None, description="dpo: a weight for each loss; null: 1 each")
    label_smoothing: float = Field(
        0.0,
        description=f"dpo: share of pairs taken to be the wrong way round, for {', '.join(_SMOOTHED)}",
        ge=0,
        lt=0.5,
    )
    precompute_ref_log_probs: bool = Field(
        True, description="dpo: measure the reference once, before training; false: in every step, beside the model"
    )
    precompute_ref_batch_size: int | None = Field(
        None, description="dpo: pairs at a time for that; null: as in training", gt=0
    )

    def preference_keys(self) -> dict[str, Any]:
        """Return the values for TRL's DPOConfig, beside those of TrainingArguments."""
        return {key: getattr(self, key) for key in _KEYS}

    def describe_loss(self) -> str:
        """Return in words what is minimised, and against which reference."""
        weights = self.loss_weights or [1.0] * len(self.loss_type)
        losses = [
            name if len(weights) == 1 else f"{weight:g} x {name}"
            for weight, name in zip(weights, self.loss_type, strict=True)
        ]
        reference = "measured once" if self.precompute_ref_log_probs else "asked in every step"
        return f"{' + '.join(losses)}, beta {self.beta:g}; reference: {self.base_name}, {reference}"

    def keys_of_other_methods(self) -> set[str]:
        """Return the keys that have no meaning for the chosen method and stage."""
        other = set() if getattr(self, "stage", None) == "dpo" else set(_KEYS)
        return super().keys_of_other_methods() | other

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_dpo(cls, values: Any) -> Any:
        return _DEFAULTS | values if isinstance(values, dict) and values.get("stage") == "dpo" else values

    @model_validator(mode="after")
    def _belong_to_the_stage(self) -> PreferenceSettings:
        stage = getattr(self, "stage", None)
        found = self._problems_of_dpo() if stage == "dpo" else self._keys_of_dpo(stage)
        if problems := "; ".join(found):
            raise ValueError(problems)
        return self

    def _keys_of_dpo(self, stage: Any) -> Iterator[str]:
        if given := [key for key in _KEYS if key in self.model_fields_set]:
            yield f"stage is {stage}, and {', '.join(given)} belong to dpo; leave them out"

    def _problems_of_dpo(self) -> Iterator[str]:
        for key, (without, reason) in _EXCLUDED.items():
            if (value := getattr(self, key, without)) != without:
                yield f"stage is dpo, and {key} is {value}: {reason}"
        if getattr(self, "attn_implementation", None) == "sdpa_by_document":
            yield "attn_implementation: sdpa_by_document is for packed documents; take auto or sdpa"
        if len(set(self.loss_type)) < len(self.loss_type):
            yield f"loss_type names a loss twice: {', '.join(self.loss_type)}; see loss_weights"
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            yield f"{len(self.loss_weights)} loss_weights for {len(self.loss_type)} losses in loss_type"
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            yield "loss_type: exo_pair needs a label_smoothing above 0, such as 0.001"
        if self.label_smoothing and not set(self.loss_type) & set(_SMOOTHED):
            yield f"label_smoothing is for {', '.join(_SMOOTHED)}, and loss_type is {', '.join(self.loss_type)}"
        if self.precompute_ref_batch_size is not None and not self.precompute_ref_log_probs:
            yield "precompute_ref_batch_size is set, but precompute_ref_log_probs is false"
