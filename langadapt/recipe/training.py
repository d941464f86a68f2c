"""Settings of stages 2 and 3: our own keys, and transformers' TrainingArguments under their own names."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import typing
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator
from transformers.training_args import TrainingArguments

from langadapt.recipe.methods import ADAPTERS
from langadapt.recipe.preferences import PreferenceSettings
from langadapt.recipe.settings import load_settings
from langadapt.recipe.translators import TranslatorSettings
from langadapt.recipe.vocabulary import VocabularySettings

_NO_BEST = (
    "Set `early_stopping_patience`: the finished model is then the checkpoint with the least evaluation loss. Without "
    "it the last one is. Stage 4 compares checkpoints by other figures: python 4_evaluate.py."
)
_INEXACT = "A run that goes on would no longer be the same as one that was never interrupted."
_NO_UPLOAD = "Upload the finished folder with `python -m langadapt.upload`."
_OWN_EVALUATION = "Training is what stages 2 and 3 do; they evaluate where `eval_dataset` and `eval_strategy` are set."
_OWN_PRECISION = "An evaluation computes as training does: see `bf16` and `fp16`."
_ABSENT = {
    "save_on_each_node": "All machines share the disk of `output_dir`.",
    "load_best_model_at_end": _NO_BEST,
    "metric_for_best_model": _NO_BEST,
    "greater_is_better": _NO_BEST,
    "parallelism_config": "Large models are spread over the GPUs by `deepspeed` (ZeRO) or `fsdp`.",
    "gradient_checkpointing": "It is now called `activation_checkpointing`.",
    "gradient_checkpointing_kwargs": "It is now called `activation_checkpointing_kwargs`.",
    "local_rank": "The launcher sets it.",
    "save_only_model": f"Without the optimizer's state no checkpoint can be gone on from. {_INEXACT}",
    "ignore_data_skip": _INEXACT,
    "length_column_name": "The lengths that `train_sampling_strategy: group_by_length` goes by are counted.",
    "auto_find_batch_size": f"Choose a batch that fits: --dry_run says what it takes. {_INEXACT}",
    "do_train": _OWN_EVALUATION,
    "do_eval": _OWN_EVALUATION,
    "do_predict": _OWN_EVALUATION,
    "bf16_full_eval": _OWN_PRECISION,
    "fp16_full_eval": _OWN_PRECISION,
    "eval_accumulation_steps": "Only sums leave the GPU in an evaluation.",
    "push_to_hub": _NO_UPLOAD,
    "hub_token": _NO_UPLOAD,
    "hub_private_repo": _NO_UPLOAD,
    "hub_model_id": _NO_UPLOAD,
    "hub_strategy": _NO_UPLOAD,
    "hub_always_push": _NO_UPLOAD,
    "hub_revision": _NO_UPLOAD,
    "logging_nan_inf_filter": "A loss that is no number always stops the run.",
}
_LIMITS: dict[str, dict[str, float]] = {
    "per_device_train_batch_size": {"gt": 0},
    "gradient_accumulation_steps": {"gt": 0},
    "num_train_epochs": {"gt": 0},
    "learning_rate": {"gt": 0},
    "warmup_steps": {"ge": 0},
    "logging_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "weight_decay": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "label_smoothing_factor": {"ge": 0, "lt": 1},
    "neftune_noise_alpha": {"gt": 0},
}
# Of a run beside its recipe, and to be the same.
_BEYOND_THE_RECIPE = ("world_size", "dataset_sha256", "blocks_format", "base_model", "deepspeed_config")

Packing = Literal["isolated", "joined", "none"]
Attention = Literal[
    "auto", "eager", "sdpa", "sdpa_by_document", "flex_attention", "flash_attention_2", "flash_attention_3"
]


class TrainingSettings(PreferenceSettings, TranslatorSettings):
    """Our own keys. `load_training_settings` adds every TrainingArguments key that is not among them."""

    renamed: ClassVar[Mapping[str, str]] = {
        **_ABSENT,
        "warmup_ratio": "Write the ratio into `warmup_steps`: 0.03 is 3 % of all steps, 30 is thirty steps.",
        "overwrite_output_dir": "A run resumes by default; to start anew, choose another `output_dir` or delete it.",
        "evaluation_strategy": "It is now called `eval_strategy`.",
        "save_safetensors": "Weights are always saved as safetensors.",
        "group_by_length": "Write `train_sampling_strategy: group_by_length`.",
        "logging_dir": "TensorBoard's files are in `output_dir`/runs; the variable TENSORBOARD_LOGGING_DIR moves them.",
        "quantization_bit": "Write `finetuning_type: qlora`; it takes 4 bits.",
        "no_cuda": "It is now called `use_cpu`.",
        "tokenizer": "The tokenizer is the one in `model_name_or_path`, or that of `model` for a new one.",
    }

    stage: Literal["pt", "sft", "dpo", "seq2seq"] = Field(
        description="pt: continual pretraining on texts; sft: fine-tuning on answers; dpo: on preferred answers; "
        "seq2seq: fine-tuning of an encoder-decoder model on translations"
    )
    trust_remote_code: bool = Field(False, description="run Python code that the model's folder brings along")
    vocabulary: VocabularySettings | None = Field(None, description="pieces to add to the model's vocabulary first")
    template: str | None = Field(
        None, description="chat template for sft and dpo: chatml, or null for the tokenizer's own"
    )
    dataset: str = Field(description="a file that stage 1 wrote")
    seed: int = Field(
        42, description="of the order of the blocks, dropout, and what a new model or adapter begins with"
    )
    cutoff_len: int = Field(
        description="tokens a sequence: blocks of pt; longer records of sft and pairs of dpo are left out, and of "
        "seq2seq those whose source or target is longer",
        gt=1,
    )
    packing: Packing = Field(
        "isolated",
        description="records share blocks of cutoff_len tokens; isolated, or true: without seeing each other; joined: "
        "seeing those before; none, or false: one record a sequence, padded",
    )
    output_dir: str = Field(description="where the model, its checkpoints and its log go")
    resume_from_checkpoint: bool | str = Field(
        True,
        description="true: from the last complete checkpoint, if any; a folder: from that one; "
        "false: never, and stop if output_dir holds a run already",
    )
    resume_despite: list[str] = Field(
        default_factory=list,
        description="go on from a checkpoint although these differ: keys of the recipe, "
        + ", ".join(_BEYOND_THE_RECIPE),
    )
    max_skipped_steps: int = Field(10, description="end after so many steps in a row without a finite gradient", gt=0)
    eval_dataset: str | None = Field(
        None,
        description="a file of stage 1, not trained on; its loss is taken as eval_strategy and eval_steps say",
    )
    early_stopping_patience: int | None = Field(
        None,
        description="end after so many evaluations in a row without a lower loss; the finished model is then the "
        "checkpoint with the lowest; null: train to the end, and take the last",
        gt=0,
    )
    deepspeed: str | None = Field(None, description="a DeepSpeed JSON (ZeRO stage 0 to 3), or null for none")
    fsdp: bool = Field(False, description="spread weights, gradients and optimizer over the ranks with FSDP2")
    attn_implementation: Attention = Field(
        "auto",
        description="auto: FlashAttention 2 where it runs and is installed, else torch's own, one document at a time",
    )
    bf16: bool = Field(False, description="bfloat16 arithmetic with float32 master weights")
    fp16: bool = Field(False, description="float16 arithmetic, for GPUs without bfloat16")
    use_cpu: bool = Field(False, description="train on the CPU; set where no GPU is visible")
    export_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="type of the finished model's weights; auto: bfloat16 with bf16, else float32"
    )
    report_to: str | list[str] = Field("tensorboard", description="trackers to write to as well; none for none")
    logging_steps: float = Field(10, description="optimizer steps a log line", gt=0)

    @field_validator("packing", mode="before")
    @classmethod
    def _packing_may_be_yes_or_no(cls, value: Any) -> Any:
        return {True: "isolated", False: "none"}[value] if isinstance(value, bool) else value

    @field_validator("fp16")
    @classmethod
    def _one_precision(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("bf16"):
            raise ValueError("bf16 is true as well; choose one")
        return value

    @field_validator("template")
    @classmethod
    def _template_of_sft(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("stage") == "pt":
            raise ValueError("stage is pt, which trains on plain texts; leave it out")
        return value

    @field_validator("resume_despite")
    @classmethod
    def _known_differences(cls, names: list[str]) -> list[str]:
        known = [*cls.model_fields, *_BEYOND_THE_RECIPE]
        for name in set(names) - set(known):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"beside those there are {', '.join(_BEYOND_THE_RECIPE)}"
            raise ValueError(f"{name} is no key of a recipe; {hint}")
        return names

    @field_validator("save_strategy", check_fields=False)
    @classmethod
    def _no_best(cls, value: Any) -> Any:
        if value == "best":
            raise ValueError(_NO_BEST.rstrip("."))
        return value

    @field_validator("max_steps", check_fields=False)
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value < 1 and value != -1:
            raise ValueError("expected a number of steps, or -1 for those of num_train_epochs")
        return value

    @model_validator(mode="after")
    def _agree_with_each_other(self) -> TrainingSettings:
        """Check against keys of TrainingArguments, which are only there when every key is right by itself."""
        strategy = getattr(self, "eval_strategy", "no")
        if (strategy != "no") != (self.eval_dataset is not None):
            missing = "eval_dataset names no file" if self.eval_dataset is None else "eval_strategy is no"
            raise ValueError(f"{missing}: an evaluation takes eval_dataset and, say, eval_strategy: epoch")
        if getattr(self, "eval_steps", None) is not None and strategy != "steps":
            raise ValueError("eval_steps is set: it takes eval_strategy: steps")
        if getattr(self, "eval_on_start", False) and strategy == "no":
            raise ValueError("eval_on_start is true: it takes eval_dataset and, say, eval_strategy: epoch")
        if self.early_stopping_patience is not None:
            self._require_one_choice(strategy)
        if getattr(self, "lr_scheduler_type", None) == "reduce_lr_on_plateau":
            raise ValueError("lr_scheduler_type: reduce_lr_on_plateau cannot be resumed exactly; take another")
        if self.vocabulary is not None:
            self._require_trained_pieces()
        if self.deepspeed is not None and self.fsdp:
            raise ValueError("deepspeed and fsdp both spread the model over the ranks; choose one")
        return self

    def _require_one_choice(self, strategy: str) -> None:
        if strategy == "no":
            raise ValueError("early_stopping_patience is set: it takes eval_dataset and, say, eval_strategy: epoch")
        if self.ema_decay is not None or self.average_last_checkpoints is not None:
            raise ValueError("early_stopping_patience takes one checkpoint, an average takes several; choose one")

    def _require_trained_pieces(self) -> None:
        if self.model is not None:
            raise ValueError("vocabulary extends that of model_name_or_path; a new `model` has its own tokenizer")
        if self.new_rows_from is not None:
            raise ValueError("vocabulary says itself which rows are new; leave out new_rows_from")
        key = "freeze_extra_modules" if self.finetuning_type == "freeze" else "additional_target"
        trained = [*self.additional_target, *self.freeze_extra_modules]
        if self.finetuning_type in ("freeze", *ADAPTERS) and not any(map(_are_embeddings, trained)):
            raise ValueError(
                f"vocabulary adds rows to the embeddings, which finetuning_type: {self.finetuning_type} does not train "
                f"by itself; add {key}: [embed_tokens], and lm_head where the model does not tie it to them"
            )

    @property
    def extends_base(self) -> bool:
        """Whether training starts from a model that is made first: the given one with more vocabulary."""
        return self.vocabulary is not None or bool(self.new_languages)

    @property
    def saved_dtype(self) -> str:
        """The type of the finished model's weights, as torch names it."""
        chosen = "bfloat16" if self.bf16 else "float32"
        return chosen if self.export_dtype == "auto" else self.export_dtype

    def trainer_keys(self) -> dict[str, Any]:
        """Return the values for TrainingArguments: the keys that were set, and the defaults that are ours."""
        names = {field.name for field in dataclasses.fields(TrainingArguments)} - {"resume_from_checkpoint"}
        chosen = self.model_fields_set | set(TrainingSettings.model_fields)
        return {name: getattr(self, name) for name in names & chosen}

    def resolved(self) -> dict[str, Any]:
        """Return the keys that were set and all of our own as plain values: itself a recipe."""
        chosen = self.model_fields_set | set(TrainingSettings.model_fields)
        return self.model_dump(mode="json", include=chosen - self.keys_of_other_methods())


def load_training_settings(config: str | Path | None, overrides: Sequence[str] = ()) -> TrainingSettings:
    """Read and check a training recipe; raises `UserError` listing every problem. Loads no model."""
    return load_settings(SETTINGS, config, overrides)


def _are_embeddings(module: str) -> bool:
    """Say whether a module is the input embeddings, by the names that the library's models give them."""
    return "embed" in module or module.endswith("wte")


def _trainer_fields() -> dict[str, Any]:
    """Return a pydantic field for each TrainingArguments key that is not ours and makes sense here."""
    hints = typing.get_type_hints(TrainingArguments)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(TrainingArguments):
        if field.name in TrainingSettings.model_fields or field.name in _ABSENT:
            continue
        help_text = str(field.metadata.get("help", "")).replace("%%", "%")
        options: dict[str, Any] = {"description": help_text, "validate_default": True, **_LIMITS.get(field.name, {})}
        if field.default_factory is not dataclasses.MISSING:
            options["default_factory"] = field.default_factory
        else:
            options["default"] = field.default
        fields[field.name] = (_strict_type(hints[field.name], field.metadata.get("choices")), Field(**options))
    return fields


def _strict_type(hint: Any, choices: Any) -> Any:
    """Narrow ``SomeEnum | str`` to the enum, and a string with choices to those, so that misspelt values are errors."""
    parts = typing.get_args(hint) or (hint,)
    if choices is not None:
        literal: Any = Literal.__getitem__(tuple(choices))
        return literal | None if type(None) in parts else literal
    if any(isinstance(part, type) and issubclass(part, enum.Enum) for part in parts):
        return reduce(or_, [part for part in parts if part is not str])
    return hint


SETTINGS = cast(
    type[TrainingSettings],
    create_model("Training", __base__=TrainingSettings, **_trainer_fields()),
)
