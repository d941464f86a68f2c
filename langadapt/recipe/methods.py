"""Settings of what is trained: every weight, an adapter, the embeddings or some layers; and of averaging over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from langadapt.recipe.settings import Settings

FinetuningType = Literal["full", "lora", "qlora", "embeddings", "freeze"]
ADAPTERS = ("lora", "qlora")
# Which methods a key has a meaning for; keys that are not here have one for all.
_METHODS_OF: Mapping[str, tuple[str, ...]] = {
    "lora_rank": ADAPTERS,
    "lora_alpha": ADAPTERS,
    "lora_dropout": ADAPTERS,
    "lora_target": ADAPTERS,
    "use_dora": ADAPTERS,
    "use_rslora": ADAPTERS,
    "additional_target": ADAPTERS,
    "adapter_archive": ADAPTERS,
    "quantization_type": ("qlora",),
    "double_quantization": ("qlora",),
    "embeddings_trained": ("embeddings",),
    "new_rows_from": ("embeddings",),
    "freeze_trainable_layers": ("freeze",),
    "freeze_trainable_modules": ("freeze",),
    "freeze_extra_modules": ("freeze",),
}
# Optimizers that project or rescale gradients across rows, or apply them behind the trainer's back.
_ACROSS_ROWS = ("galore", "apollo", "lomo")


def split_names(value: Any) -> Any:
    """Return a list of names that was given as a text with commas between, or as null for none."""
    if value is None:
        return []
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(split_names)]  # a list, its items with commas between, or null for none


class NewModel(Settings):
    """A model to be made rather than opened."""

    config: dict[str, Any] | str = Field(
        description="what its config.json shall say (model_type, hidden_size, …), or the path of such a file; "
        "vocab_size and the ids of special tokens come from the tokenizer where they are not said"
    )
    tokenizer: str = Field(description="a folder with tokenizer.json, from stage 1 or any model")


class MethodSettings(Settings):
    """The keys of every method. A key of another method than the chosen one is an error that names both."""

    finetuning_type: FinetuningType = Field(
        "full",
        description="full: every parameter; lora: an adapter; qlora: one on a base in 4 bit; embeddings: the rows of "
        "the vocabulary; freeze: some layers",
    )
    model_name_or_path: str | None = Field(None, description="the model to start from: a folder or hub name")
    model: NewModel | None = Field(
        None, description="a new model in its place: {config: …, tokenizer: …}, random by `seed`", validate_default=True
    )
    lora_rank: int = Field(8, description="lora, qlora: rank of the adapter's matrices", gt=0)
    lora_alpha: int | None = Field(
        None, description="lora, qlora: the change is scaled by alpha / rank; null: 2 * lora_rank", gt=0
    )
    lora_dropout: float = Field(0.0, description="lora, qlora: dropout before the adapter", ge=0, lt=1)
    lora_target: Names = Field(
        ["all"], description="lora, qlora: layers to adapt, by name; all: every linear one but the output layer"
    )
    use_dora: bool = Field(False, description="lora, qlora: learn each weight's magnitude apart from its direction")
    use_rslora: bool = Field(False, description="lora, qlora: scale by alpha / sqrt(rank)")
    additional_target: Names = Field(
        [], description="lora, qlora: modules to train whole beside the adapter, e.g. embed_tokens,lm_head"
    )
    adapter_archive: bool = Field(False, description="lora, qlora: also pack the adapter into adapter.zip")
    quantization_type: Literal["nf4", "fp4"] = Field("nf4", description="qlora: how the base stores 4 bits")
    double_quantization: bool = Field(True, description="qlora: quantise the scales of the 4 bits too")
    embeddings_trained: Literal["all", "new"] = Field(
        "all", description="embeddings: all rows of input and output, or only those beyond the old vocabulary"
    )
    new_rows_from: int | None = Field(
        None, description="embeddings: first new row; null: old_size in the model folder's vocabulary.json", ge=0
    )
    freeze_trainable_layers: int = Field(2, description="freeze: n trains the last n layers, -n the first n")
    freeze_trainable_modules: Names = Field(["all"], description="freeze: which modules of those layers, e.g. mlp")
    freeze_extra_modules: Names = Field([], description="freeze: modules outside the layers to train too, e.g. norm")
    ema_decay: float | None = Field(
        None,
        description="the finished model is the moving average of the weights, e.g. 0.999; null: the last",
        gt=0,
        lt=1,
    )
    average_last_checkpoints: int | None = Field(
        None, description="the finished model is the mean of the last k checkpoints; null: the last", gt=1
    )

    @property
    def tokenizer_source(self) -> str:
        """The folder or hub name that the tokenizer is read from."""
        return self.model.tokenizer if self.model is not None else str(self.model_name_or_path)

    @property
    def base_name(self) -> str:
        """What training starts from, in words."""
        return "a new model" if self.model is not None else str(self.model_name_or_path)

    def keys_of_other_methods(self) -> set[str]:
        """Return the keys that have no meaning for the chosen method."""
        return {key for key, methods in _METHODS_OF.items() if self.finetuning_type not in methods}

    @field_validator(*_METHODS_OF)
    @classmethod
    def _belongs_to_the_method(cls, value: Any, info: ValidationInfo) -> Any:
        chosen, methods = info.data.get("finetuning_type"), _METHODS_OF[str(info.field_name)]
        if chosen is not None and chosen not in methods:
            raise ValueError(f"finetuning_type is {chosen}, and this is a key of {' and '.join(methods)}; leave it out")
        return value

    @field_validator("lora_target")
    @classmethod
    def _some_target(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("this would adapt no layer; write all, or names such as q_proj,v_proj")
        if "all" in value and len(value) > 1:
            raise ValueError("all is every linear layer already; write all alone, or only names")
        return value

    @field_validator("model")
    @classmethod
    def _one_model(cls, value: NewModel | None, info: ValidationInfo) -> NewModel | None:
        named = info.data.get("model_name_or_path")
        if "model_name_or_path" in info.data and (value is None) == (named is None):
            found = "both are there" if named else "neither is there"
            raise ValueError(
                f"either `model_name_or_path` names a model to go on from, or `model` says what to make; {found}"
            )
        chosen = info.data.get("finetuning_type", "full")
        if value is not None and chosen != "full":
            raise ValueError(f"finetuning_type is {chosen}, but a new model has no weights to keep; it takes full")
        return value

    @field_validator("freeze_trainable_layers")
    @classmethod
    def _some_layer(cls, value: int) -> int:
        if value == 0:
            raise ValueError("n trains the last n layers, -n the first n; 0 would train none")
        return value

    @field_validator("new_rows_from")
    @classmethod
    def _new_rows_only(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("embeddings_trained") == "all":
            raise ValueError("embeddings_trained is all; it takes embeddings_trained: new")
        return value

    @field_validator("average_last_checkpoints")
    @classmethod
    def _one_average(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("ema_decay") is not None:
            raise ValueError("ema_decay is set as well; choose one")
        return value

    @model_validator(mode="before")
    @classmethod
    def _null_leaves_out(cls, values: Any) -> Any:
        """Let a key of one method be taken back, as ``lora_rank=null``, where a file's defaults hold it."""
        if not isinstance(values, dict):
            return values
        chosen = values.get("finetuning_type", "full")
        idle = {key for key, methods in _METHODS_OF.items() if chosen not in methods and values.get(key, "") is None}
        return {key: value for key, value in values.items() if key not in idle}

    @model_validator(mode="before")
    @classmethod
    def _optimizer_of_qlora(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("finetuning_type") == "qlora" and "optim" in cls.model_fields:
            return {"optim": "paged_adamw_8bit"} | values
        return values

    @model_validator(mode="after")
    def _agree_with_the_trainer(self) -> MethodSettings:
        """Check against keys of TrainingArguments, which are only there when every key is right by itself."""
        kept, averaged = getattr(self, "save_total_limit", None), self.average_last_checkpoints
        if averaged is not None and getattr(self, "save_strategy", None) == "no":
            raise ValueError(f"average_last_checkpoints is {averaged}, but with save_strategy: no there are none")
        if averaged is not None and kept is not None and kept < averaged:
            raise ValueError(f"average_last_checkpoints is {averaged}, but save_total_limit keeps only {kept}")
        if self.embeddings_trained == "new" and getattr(self, "weight_decay", None):
            raise ValueError(
                "weight_decay would move the old rows too, which embeddings_trained: new keeps; leave it out"
            )
        optimizer = str(getattr(getattr(self, "optim", None), "value", ""))
        if self.embeddings_trained == "new" and any(name in optimizer for name in _ACROSS_ROWS):
            raise ValueError(
                f"optim: {optimizer} is not known to leave the old rows alone, which embeddings_trained: new keeps; "
                "take another, such as adamw_torch"
            )
        return self
