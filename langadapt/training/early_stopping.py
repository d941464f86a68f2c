"""End a run when the evaluation loss no longer falls; the finished model is the checkpoint where it was lowest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from langadapt.files import read_json_object, write_json

EARLY_STOPPING_FILE = "early_stopping.json"  # in every checkpoint: where the loss was lowest up to there


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint wherever the evaluation loss is lower than ever, and ends the run ``patience`` later.

    All ranks have one and decide the same, since they are told the same loss. ``checkpoint`` is the folder that
    training goes on from, or None. ``trainer`` keeps the best checkpoint whatever its limit.
    """

    def __init__(self, trainer: Any, patience: int, checkpoint: Path | None = None) -> None:
        self.trainer, self.patience = trainer, patience
        self.best_step: int | None = None
        self.best_loss, self.worse, self.ended = math.inf, 0, False
        self._begun = False
        if checkpoint is not None:
            self.best_step, self.best_loss, self.worse, self.ended = _read(checkpoint)
        trainer.kept_step = self.best_step

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Count evaluations from here on: that of eval_on_start has no checkpoint, or was counted before a stop."""
        self._begun = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Note the loss. After a step that was skipped nothing is saved, and so nothing noted."""
        if not self._begun or self.trainer.last_step_was_skipped or state.global_step == self.best_step:
            return
        if metrics["eval_loss"] < self.best_loss:
            self.best_step, self.best_loss, self.worse = state.global_step, metrics["eval_loss"], 0
            self.trainer.kept_step = self.best_step
            control.should_save = True
        else:
            self.worse += 1
        if self.worse >= self.patience:
            self.ended = control.should_training_stop = control.should_save = True
        if self.trainer.saved_step == state.global_step:  # before this evaluation, of which its file knows nothing
            self.trainer.saved_step, control.should_save = -1, True

    def save(self, folder: Path) -> None:
        """Write what is known into a checkpoint."""
        loss = self.best_loss if math.isfinite(self.best_loss) else None
        record = {"best_step": self.best_step, "best_loss": loss, "worse": self.worse, "ended": self.ended}
        write_json(folder / EARLY_STOPPING_FILE, record)


def best_step(checkpoint: Path) -> int | None:
    """Return the step of least evaluation loss up to a checkpoint; None before the first evaluation."""
    return _read(checkpoint)[0]


def ended_early(checkpoint: Path) -> bool:
    """Say whether a run was ended at this checkpoint."""
    return _read(checkpoint)[3]


def _read(checkpoint: Path) -> tuple[int | None, float, int, bool]:
    path = checkpoint / EARLY_STOPPING_FILE
    if not path.is_file():  # of a run without early stopping, as resume_despite may allow
        return None, math.inf, 0, False
    record = read_json_object(path)
    loss = math.inf if record["best_loss"] is None else record["best_loss"]
    return record["best_step"], loss, record["worse"], record["ended"]
