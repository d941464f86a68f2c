"""What transformers is told of a run: the TrainingArguments of a recipe, of the kind that its stage's trainer takes."""

from __future__ import annotations

from typing import Any

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from langadapt.errors import UserError
from langadapt.recipe.training import TrainingSettings


def training_arguments(settings: TrainingSettings, **changes: Any) -> TrainingArguments:
    """Return the TrainingArguments of a recipe; raises `UserError` for what transformers finds contradictory."""
    ours = {"logging_nan_inf_filter": False, "ddp_find_unused_parameters": False}
    keys = ours | settings.trainer_keys() | changes
    if keys.get("use_liger_kernel"):  # the loss takes Liger's kernel itself
        keys["liger_kernel_config"] = {"fused_linear_cross_entropy": False, "cross_entropy": False}
    # `AdaptationTrainer` deletes old checkpoints itself, once the new one is whole.
    keys["save_total_limit"] = None
    if keys.get("use_cpu") and "optim" in keys:
        # Paging moves an optimizer's state between a GPU and the CPU's memory, where it is already.
        keys["optim"] = str(keys["optim"].value).removeprefix("paged_")
    kind: type[TrainingArguments] = Seq2SeqTrainingArguments if settings.stage == "seq2seq" else TrainingArguments
    if settings.stage == "dpo":
        from trl import DPOConfig

        kind = DPOConfig
        # Its defaults are others. Pairs that are too long are left out before, so that nothing is cut.
        keys |= settings.preference_keys() | {"max_length": None, "gradient_checkpointing": None}
    try:
        return kind(**keys)
    except ValueError as error:
        raise UserError(f"settings: {error}") from None
