"""Training runs for the tests: a recipe of eight steps, run in this process or by the shells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN

from langadapt.recipe.training import load_training_settings
from langadapt.training import __main__ as stage
from langadapt.training import launch
from langadapt.training.progress import read_log
from langadapt.training.stopping import STOP_SIGNALS

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH]


def recipe(stage_name: str, model: Path, data: Path, output: Path, **changes: Any) -> Path:
    """Write a recipe of eight steps with checkpoints at 4 and 8."""
    keys = {
        "stage": stage_name,
        "model_name_or_path": str(model),
        "dataset": str(data / ("cpt.json" if stage_name == "pt" else "sft.json")),
        "output_dir": str(output),
        "cutoff_len": 64,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "max_steps": 8,
        "save_steps": 4,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(keys | changes))
    return path


def train(config: Path, *overrides: str) -> Path:
    """Launch a run whose only rank is this process; return the output folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_start", lambda config, overrides, *_: run_rank(config, *overrides))
        launch_here(config, patch, *overrides)
    return Path(load_training_settings(config, overrides).output_dir)


def run_rank(config: Path, *overrides: str) -> None:
    """Train in this process, on data that the launcher has prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["langadapt.training", str(config), *overrides])
        stage.main()


def launch_here(config: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """Run the launcher in this process: for what it says before it would start another."""
    for variable in ("DS_ACCELERATOR", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    monkeypatch.setattr(sys, "argv", ["langadapt.training.launch", str(config), *overrides])
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        launch.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def losses(output: Path) -> list[tuple[int, float]]:
    """The logged training losses by step."""
    return [(record["step"], record["loss"]) for record in read_log(output) if "loss" in record]


def shell(script: str, *arguments: str | Path, ranks: int = 1, cwd: Path = REPOSITORY) -> subprocess.Popen[str]:
    """Start one of the shells as a user would, with this Python."""
    environment = os.environ | {"PYTHON": sys.executable, "NPROC_PER_NODE": str(ranks), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(REPOSITORY / script), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def bytes_saved(model: torch.nn.Module, **batch: Any) -> int:
    """Take a forward pass; return the bytes that it keeps for its backward pass, but for weights and buffers."""
    kept: dict[int, int] = {}
    tensors = []  # alive, or another would get its address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch, use_cache=False)
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())
