"""Averages of weights over training steps, which often do better than the last ones.

Of an adapter, its two matrices are averaged each by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from langadapt.errors import UserError

AVERAGE_FILE = "moving_average.safetensors"


class MovingAverage(TrainerCallback):  # type: ignore[misc]
    """The exponential moving average of a model's trained weights, in float32; for rank 0 only.

    After step t (from 1) the average moves towards the weights by ``1 - min(decay, (1 + t) / (10 + t))``: of what it
    began with, little is left after a few hundred steps, as in TensorFlow's ``ExponentialMovingAverage`` with
    ``num_updates``.

    ``checkpoint`` is the folder that training goes on from, whose average is taken over, or None.
    """

    def __init__(self, model: Any, decay: float, checkpoint: Path | None = None) -> None:
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.decay = decay
        self.checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin with the weights as they are, or with the average of the checkpoint."""
        if self.checkpoint is None:
            self.average = {name: weight.detach().float().clone() for name, weight in self.weights.items()}
        else:
            stored = read_moving_average(self.checkpoint)
            self.average = {name: stored[name].to(weight.device) for name, weight in self.weights.items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take in the weights of this step."""
        step = state.global_step
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight.detach().float(), share)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        save_file({name: tensor.cpu() for name, tensor in self.average.items()}, folder / AVERAGE_FILE)


def read_moving_average(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the moving average that a checkpoint holds, by parameter name; raises `UserError` if it holds none."""
    path = checkpoint / AVERAGE_FILE
    if not path.is_file():
        raise UserError(f"{path}: not there, but ema_decay is set. Leave it out, or start anew in another output_dir.")
    average: dict[str, torch.Tensor] = load_file(path)
    return average


def put_average(model: Any, average: dict[str, torch.Tensor]) -> None:
    """Give the model's parameters the values of ``average``, rounded to their own type."""
    for name, tensor in average.items():
        model.get_parameter(name).data.copy_(tensor)


def average_checkpoints(checkpoints: Sequence[Path], folder: Path) -> None:
    """Write into ``folder`` the model or adapter whose weights are the mean of the checkpoints' own.

    Means are taken in float32, one tensor at a time; a file's worth of them is held at once. What is no floating-point
    tensor is the last checkpoint's.
    """
    last = checkpoints[-1]
    folder.mkdir(parents=True, exist_ok=True)
    for path in last.iterdir():
        if path.suffix == ".json" or path.name.startswith("tokenizer"):
            shutil.copy(path, folder)
    for path in sorted(last.glob("*model*.safetensors")):
        files: list[Any] = [safe_open(checkpoint / path.name, framework="pt") for checkpoint in checkpoints]
        means = {name: _mean([file.get_tensor(name) for file in files]) for name in files[-1].keys()}  # noqa: SIM118
        save_file(means, folder / path.name, metadata={"format": "pt"})


def _mean(tensors: list[torch.Tensor]) -> torch.Tensor:
    if not tensors[-1].is_floating_point():
        return tensors[-1]
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor in tensors:
        total += tensor
    return total / len(tensors)
