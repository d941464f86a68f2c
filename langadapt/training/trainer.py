"""transformers' Trainer with what a week of training needs added.

- Packed documents stay apart, and the loss never holds all logits.
- A step whose loss or gradient is no finite number is skipped on all ranks, and counted.
- Asked to stop, all ranks save at the same step, in the middle of an evaluation too.
- Checkpoints are whole or not there (`langadapt.training.saving`), and hold what the next log line needs.
- The evaluation loss is a mean over tokens, not over batches.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models import IGNORE
from langadapt.training.checkpoints import Run, steps_of
from langadapt.training.costs import checkpoint_size
from langadapt.training.loss import ChunkedLoss, loss_obstacle
from langadapt.training.metering import Meter
from langadapt.training.sampling import LengthGroupedSampler
from langadapt.training.saving import STAGING, folder_size, publish, remove_checkpoint, require_space


class AdaptationTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose batches come from `langadapt.training.packing.Collator`.

    ``asked_to_stop`` is set, on any rank, to save at the next step and end; ``stopped`` then says that the run is not
    at its end. ``max_skipped_steps`` steps that are skipped in a row end it with a `UserError`.
    """

    def __init__(
        self, *, run: Run, asked_to_stop: threading.Event | None = None, max_skipped_steps: int = 10, **options: Any
    ) -> None:
        generates_with_cache = options["model"].config.use_cache
        super().__init__(**options)
        # Trainer would switch the cache off in the saved config too, for everyone who generates with the model.
        self.model.config.use_cache = generates_with_cache
        self.run = run
        # Called by rank 0 with the folder of each checkpoint before it counts, to write more into it.
        self.companions: list[Callable[[Path], None]] = []
        self.stopped = False
        self._asked_to_stop = asked_to_stop or threading.Event()
        self._max_skipped_steps = max_skipped_steps
        self._skipped, self._skipped_in_a_row = 0, 0
        self._taken_since_log, self._skipped_since_log = 0, 0
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        self._meter = Meter(self.model, self.args.device, dtype)
        self._loss_is_finite = torch.tensor(True, device=self.args.device)
        self._loss_before_step: torch.Tensor | None = None
        self._evaluation_was_cut = False
        self.saved_step, self.save_is_due = -1, False
        self.kept_step: int | None = None  # a checkpoint that save_total_limit does not count
        self.add_callback(_StopTogether(self))

        self._training_loss: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self._evaluation_loss: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self.loss_obstacle = self._choose_loss()

    # Batches

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)  # type: ignore[no-any-return]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        together = self.args.train_batch_size * self.args.world_size
        return LengthGroupedSampler(
            self._lengths(self.train_dataset), together, seed, lambda: int(self.state.epoch or 0)
        )

    def _lengths(self, examples: Any) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = examples.lengths
        return lengths

    # Loss and gradients

    def _choose_loss(self) -> str | None:
        """Set how the loss is taken; return why it has to hold the logits of all tokens, None where it has not."""
        obstacle = loss_obstacle(self.model)
        if obstacle is None:
            self._training_loss = ChunkedLoss(self.model, self.args.label_smoothing_factor)
            self._evaluation_loss = ChunkedLoss(self.model)
            self.label_smoother = None  # Trainer's own wants the logits
        return obstacle

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the mean loss a token over all ranks and accumulated batches, as Trainer does; count the tokens."""
        self._meter.count(inputs)
        # With a cache, transformers no longer isolates packed documents.
        with self._training_loss:
            return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Return the number of learned tokens that a step's loss is divided by; 1 where it has none, which costs 0."""
        count = super()._get_num_items_in_batch(batch_samples, device)
        return count if count is None else torch.as_tensor(count, device=device).clamp(min=1)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take the gradients of one batch, as Trainer does; remember the logged loss as it was before the step."""
        if self._loss_before_step is None:
            self._loss_before_step = self._tr_loss.clone()
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._loss_is_finite = self._loss_is_finite & torch.isfinite(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once before every optimizer step, on all ranks; DeepSpeed has taken, or skipped, its step by then."""
        norm = super()._get_grad_norm(model, grad_norm)
        finite = bool(self._loss_is_finite) and (norm is None or math.isfinite(norm))
        if self.is_deepspeed_enabled:
            finite = finite and not self.accelerator.optimizer_step_was_skipped
        if self._on_any_rank(not finite):
            self._skipped += 1
            self._skipped_in_a_row += 1
            self._skipped_since_log += 1
            self._tr_loss.copy_(self._loss_before_step)
            norm = None
            if not self.is_deepspeed_enabled:
                model.zero_grad(set_to_none=True)  # an optimizer leaves parameters without gradient as they are
        else:
            self._skipped_in_a_row = 0
            self._taken_since_log += 1
        self._loss_is_finite.fill_(True)
        self._loss_before_step = None
        if self._skipped_in_a_row >= self._max_skipped_steps:
            raise UserError(
                f"the loss or its gradient was no finite number in {self._skipped_in_a_row} steps in a row, up to step "
                f"{self.state.global_step + 1}: training diverged and was stopped. Lower learning_rate, raise "
                "warmup_steps, or use bf16 in place of fp16; then start again from the last checkpoint in "
                f"{self.args.output_dir} (resume_despite=[learning_rate]), or anew in another output_dir."
            )
        return norm

    @property
    def last_step_was_skipped(self) -> bool:
        """Whether the weights are still those of the step before."""
        return self._skipped_in_a_row > 0

    # Stopping

    def stop_if_asked(self) -> bool:
        """Make all ranks save and end if any of them was asked to; return whether one was. Called by all at once.

        After a skipped step nothing would be saved, so that it takes another.
        """
        if self._skipped_in_a_row:
            return False
        if not self.stopped and self._on_any_rank(self._asked_to_stop.is_set()):
            self.stopped = True
        if self.stopped:
            self.control.should_save = self.control.should_training_stop = True
        return self.stopped

    def _on_any_rank(self, value: bool) -> bool:
        if self.args.world_size == 1:
            return value
        flag = torch.tensor([value], dtype=torch.int32, device=self.args.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    # Evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log and return ``eval_loss``: nats a learned token of ``eval_dataset``, each token of it counted once.

        Returns nothing when asked to stop meanwhile.
        """
        self.model_wrapped.eval()
        with self._meter.paused():
            metrics = self._measure_evaluation()
        self._evaluation_was_cut = metrics is None
        if metrics is not None:
            self.log(dict(metrics))
        self.model_wrapped.train()
        if metrics is None:
            return {}
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure_evaluation(self) -> dict[str, float] | None:
        """Return the loss over all ranks and the learned tokens that it is a mean of; None when asked to stop."""
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        data = self.eval_dataset
        order = np.argsort(self._lengths(data), kind="stable").tolist()  # so little is padded
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for start in range(0, len(data), size * ranks):
            if self.stop_if_asked():
                return None
            first = start + rank * size
            examples = [data[index] for index in order[first : first + size]]
            # Sharded models need all ranks in every forward: one that is out of examples repeats the first, unlearned.
            examples = examples or [{**data[0], "labels": data[0]["labels"] * 0 + IGNORE}]
            batch = self._prepare_inputs(self.data_collator(examples))
            del batch["num_tokens"]
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, learned = self._summed_loss(batch)
            total += torch.stack([loss.double(), learned])
        if ranks > 1:
            distributed.all_reduce(total)
        return {"eval_loss": float(total[0] / total[1]), "eval_tokens": int(total[1])}

    def _summed_loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nats and learned tokens of a batch."""
        with self._evaluation_loss:
            loss = self.model_wrapped(**batch, use_cache=False, num_items_in_batch=1).loss
        return loss, (batch["labels"][:, 1:] != IGNORE).sum()

    # Logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding what was measured on all ranks since the last log; the loss is that of the steps not skipped."""
        if "loss" in logs:
            steps = self._taken_since_log + self._skipped_since_log
            logs["loss"] = logs["loss"] * steps / self._taken_since_log if self._taken_since_log else math.nan
            measured = self._meter.read(self.accelerator.gather) | {"skipped_steps": self._skipped}
            logs |= {name: value for name, value in measured.items() if value is not None}
            self._taken_since_log, self._skipped_since_log = 0, 0
        super().log(logs, start_time)

    # Checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial)) / STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, step = Path(self.args.output_dir), self.state.global_step
        # A step that was skipped may have been so because the weights are broken: do not follow good ones with them.
        self.save_is_due = self._skipped_in_a_row > 0
        if self.save_is_due or (step == self.saved_step and not self._evaluation_was_cut):
            return
        self._require_space(folder)
        with self._meter.paused():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                for write in self.companions:
                    write(folder / STAGING / f"checkpoint-{step}")
                publish(folder / f"checkpoint-{step}", self.run, step)
                limit = self.run["settings"]["save_total_limit"]
                counted = [step for step in steps_of(folder) if step != self.kept_step]
                for old in counted[:-limit] if limit else []:
                    remove_checkpoint(folder / f"checkpoint-{old}")
            self.accelerator.wait_for_everyone()
        self.saved_step = step

    def _require_space(self, folder: Path) -> None:
        """Raise `UserError` on every rank when the next checkpoint will not fit; all are of one size."""
        error: list[UserError | None] = [None]
        if self.args.should_save:
            older = steps_of(folder)
            needed = folder_size(folder / f"checkpoint-{older[-1]}") if older else self._first_size()
            try:
                require_space(folder, needed, self.state.global_step)
            except UserError as found:
                error = [found]
        if self.args.world_size > 1:
            distributed.broadcast_object_list(error)
        if error[0] is not None:
            raise error[0]

    def _first_size(self) -> int:
        """Return about how many bytes the first checkpoint takes; of an optimizer that tells, what its states take."""
        size: int = checkpoint_size(self.model, self.is_deepspeed_enabled)
        if self.is_deepspeed_enabled:
            return size
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        actual: int = sum(state.numel() * state.element_size() for state in states if isinstance(state, torch.Tensor))
        trained: int = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return size - 8 * trained + actual

    def _save_rng_state(self, output_dir: str) -> None:
        """Save, beside the random state of this rank, what it has counted since the last log."""
        super()._save_rng_state(output_dir)
        text = json.dumps(self._counted())
        (Path(output_dir) / self._counters_file).write_text(text, encoding="utf-8")

    def _counted(self) -> dict[str, Any]:
        """Return what this rank has counted since the last log, for `_go_on_counting`."""
        return {
            "loss": float(self._tr_loss).hex(),
            "meter": self._meter.state(),
            "skipped": [self._skipped, self._skipped_in_a_row, self._skipped_since_log],
            "taken_since_log": self._taken_since_log,
            "logged_step": self._globalstep_last_logged,
            "evaluation_was_cut": self._evaluation_was_cut,
        }

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / self._counters_file
        if path.is_file():  # else another number of ranks wrote it
            counters = read_json_object(path)
            self._go_on_counting(counters)
            if counters["evaluation_was_cut"]:
                self.evaluate()

    def _go_on_counting(self, counters: dict[str, Any]) -> None:
        self._tr_loss.fill_(float.fromhex(counters["loss"]))
        self._meter.load(counters["meter"])
        self._skipped, self._skipped_in_a_row, self._skipped_since_log = counters["skipped"]
        self._taken_since_log = counters["taken_since_log"]
        self._globalstep_last_logged = counters["logged_step"]

    @property
    def _counters_file(self) -> str:
        return f"counters_{self.args.process_index}_of_{self.args.world_size}.json"

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of missing weights, but not of tied ones: those are stored once."""
        tied = self.model.all_tied_weights_keys
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)


class _StopTogether(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: AdaptationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint brings its own intervals along

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = control.should_save or self.trainer.save_is_due
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps too, where logging_steps does not divide them
        self.trainer.stop_if_asked()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.stopped and float(state.epoch).is_integer():
            self.trainer.saved_step = -1  # what is logged at the end of an epoch is logged: save once more behind it
            control.should_save = True
        elif self.trainer.stopped:  # the epoch is not at its end; that comes when the run goes on
            control.should_log = control.should_evaluate = control.should_save = False
