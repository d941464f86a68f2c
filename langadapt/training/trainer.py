"""transformers' Trainer with five things added: isolation, a loss without all logits, token counts, a stop at NaN, and
whole checkpoints."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from langadapt.errors import UserError
from langadapt.files import give_default_permissions, write_json
from langadapt.recipe.training import TrainingSettings
from langadapt.training.checkpoints import RUN_FILE, Run
from langadapt.training.loss import ChunkedLoss, loss_obstacle


def training_arguments(settings: TrainingSettings, **changes: Any) -> TrainingArguments:
    """Return the TrainingArguments of a recipe; raises `UserError` for what transformers finds contradictory."""
    ours = {"logging_nan_inf_filter": False, "ddp_find_unused_parameters": False}
    keys = ours | settings.trainer_keys() | changes
    # `AdaptationTrainer` deletes old checkpoints itself, once the new one is whole.
    keys["save_total_limit"] = None
    try:
        return TrainingArguments(**keys)
    except ValueError as error:
        raise UserError(f"settings: {error}") from None


class AdaptationTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose batches come from `langadapt.training.packing.Collator`."""

    def __init__(self, *, run: Run, **options: Any) -> None:
        generates_with_cache = options["model"].config.use_cache
        super().__init__(**options)
        # Trainer would switch the cache off in the saved config too, for everyone who generates with the model.
        self.model.config.use_cache = generates_with_cache
        self.run = run
        self._num_tokens = torch.zeros(1, dtype=torch.long, device=self.args.device)
        self.loss_obstacle = loss_obstacle(self.model)
        self._loss_context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.loss_obstacle is None:
            self._loss_context = ChunkedLoss(self.model, self.args.label_smoothing_factor)
            self.label_smoother = None  # Trainer's own wants the logits

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the mean loss a token over all ranks and accumulated batches, as Trainer does; count the tokens."""
        self._num_tokens += inputs.pop("num_tokens").sum()
        # With a cache, transformers no longer isolates packed documents.
        with self._loss_context:
            return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding ``num_tokens``: the real tokens, of all ranks, since the last log."""
        if "loss" in logs:
            self._require_finite(logs["loss"])
            logs["num_tokens"] = int(self.accelerator.gather(self._num_tokens).sum())
            self._num_tokens.zero_()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._require_finite(float(self.accelerator.gather(self._tr_loss.reshape(1)).sum()))
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            checkpoint = folder / f"checkpoint-{self.state.global_step}"
            give_default_permissions(checkpoint)
            write_json(checkpoint / RUN_FILE, self.run)
            rotate_checkpoints(str(folder), self.run["settings"]["save_total_limit"])

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of missing weights, but not of tied ones: those are stored once."""
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {self.state.global_step}: training diverged and was stopped. Lower "
                "learning_rate, raise warmup_steps, or use bf16 in place of fp16; then start again from the last "
                f"checkpoint in {self.args.output_dir}, or anew in another output_dir."
            )
