"""What a run says while it goes: a bar, one line a log step, the same as JSON, and the loss curve."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from langadapt.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_FILE = "training_log.jsonl"
CURVE_FILE = "loss_curve.png"
_LOGGED = (
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "mfu",
    "peak_memory_gib",
    "padding",
    "skipped_steps",
)
_REWARDS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
_OF_PAIRS = (*_REWARDS, "logps/chosen", "logps/rejected")


def announce(number: int, text: str) -> None:
    """Say which of a run's six steps begins, or what came of it: check, encode, load, plan, train, write."""
    print(f"[{number}/6] {text}", flush=True)


class ProgressLog(TrainerCallback):  # type: ignore[misc]
    """Tells how training goes, in steps of so many ``items``; for rank 0 only."""

    def __init__(self, output_dir: str | Path, items: str = "blocks") -> None:
        self.folder, self.items = Path(output_dir), items

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **_: Any) -> None:
        """Say the plan; start the bar and the clock; forget what was logged beyond the step that is resumed from."""
        sizes = (args.train_batch_size, args.gradient_accumulation_steps, args.world_size)
        announce(
            4,
            f"plan: {state.max_steps:,} steps, {math.ceil(len(train_dataloader) / sizes[1]):,} an epoch; "
            f"{math.prod(sizes)} {self.items} a step: {sizes[0]} x {sizes[1]} accumulated x {sizes[2]} ranks",
        )
        announce(5, f"training from step {state.global_step}")
        kept = [record for record in read_log(self.folder) if record["step"] <= state.global_step]
        write_text(self.folder / LOG_FILE, "".join(json.dumps(record) + "\n" for record in kept))
        self.tokens_seen = max((record.get("tokens_seen", 0) for record in kept), default=0)
        self.first_step, self.start = state.global_step, time.monotonic()
        # disable=None: no bar where standard error is no terminal
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", disable=args.disable_tqdm or None
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Print and append one line: of training, or of an evaluation."""
        if "eval_loss" in logs:
            names = ("epoch", "eval_loss", "eval_tokens", "eval_pairs", *(f"eval_{name}" for name in _OF_PAIRS))
            record = {key: _finite(logs[key]) for key in names if key in logs}
            line = f"step {state.global_step}/{state.max_steps} | evaluation loss {logs['eval_loss']:.4f}"
            line = " | ".join([line, *_rewards(record, "eval_")])
        elif "loss" in logs:
            self.tokens_seen += logs["num_tokens"]
            record = {
                **{key: _finite(logs.get(key)) for key in _LOGGED},
                "tokens_seen": self.tokens_seen,
                **{key: _finite(logs[key]) for key in _OF_PAIRS if key in logs},
            }
            seconds_a_step = (time.monotonic() - self.start) / (state.global_step - self.first_step)
            left = timedelta(seconds=round(seconds_a_step * (state.max_steps - state.global_step)))
            line = format_line(record, state.global_step, state.max_steps, args.device.type, left)
        else:
            return
        with open(self.folder / LOG_FILE, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": state.global_step, **record}, allow_nan=False) + "\n")
        tqdm.write(line)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the loss curve so far."""
        draw_loss_curve(self.folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar, draw the whole curve."""
        self.bar.close()
        draw_loss_curve(self.folder)


def format_line(record: dict[str, Any], step: int, max_steps: int, device: str, left: timedelta) -> str:
    """Return one log record of training as a line for people."""
    parts = [
        f"step {step}/{max_steps}",
        f"epoch {record['epoch']:.2f}",
        "loss not finite" if record["loss"] is None else f"loss {record['loss']:.4f}",
        f"lr {record['learning_rate']:.2e}",
    ]
    parts += _rewards(record)
    if record["grad_norm"] is not None:
        parts.append(f"grad norm {record['grad_norm']:.2f}")
    parts.append(f"{record['tokens_per_second']:,.0f} tok/s/{'GPU' if device == 'cuda' else 'rank'}")
    if record["mfu"] is not None:
        parts.append(f"MFU {record['mfu']:.0%}")
    parts.append(f"{record['peak_memory_gib']:.1f} GiB")
    if record["padding"] >= 0.005:
        parts.append(f"padding {record['padding']:.0%}")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} steps skipped")
    return " | ".join([*parts, f"left {left}"])


def _rewards(record: dict[str, Any], prefix: str = "") -> list[str]:
    """Return how often the chosen answer has the higher reward, and by how much on average, of a log of preferences."""
    accuracy, margin = (record.get(f"{prefix}{name}") for name in _REWARDS[:2])
    return [] if accuracy is None or margin is None else [f"chosen preferred {accuracy:.0%}", f"margin {margin:+.3f}"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def read_log(output_dir: str | Path) -> list[dict[str, Any]]:
    """Return the log records of a run in order; an empty list where there are none.

    A last line without its line end is one that a kill or a full disk cut short; it is left out.
    """
    path = Path(output_dir) / LOG_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def draw_loss_curve(output_dir: str | Path) -> None:
    """Draw loss_curve.png from the log: the loss by optimizer step and, where it is long, its running mean.

    For preferences, beside it, how far the rewards of chosen answers are above those of rejected ones, and how often.
    """
    from langadapt.figures import new_figure, note, save_figure

    log = read_log(output_dir)
    records = [record for record in log if record.get("loss") is not None]
    if not records:
        return
    panels = [("loss", "Training loss", "loss (nats a token)")]
    if "rewards/margins" in records[-1]:
        panels = [
            ("loss", "Training loss", "loss"),
            ("rewards/margins", "Reward margin", "chosen - rejected"),
            ("rewards/accuracies", "Chosen preferred", "share of pairs"),
        ]
    figure, axes = new_figure(columns=len(panels), width=8.0 if len(panels) == 1 else 12.0)
    for ax, (key, title, unit) in zip(axes, panels, strict=True):
        _draw_panel(ax, log, key)
        ax.set_title(title)
        ax.set_ylabel(unit)
    note(figure, f"{records[-1]['tokens_seen']:,} tokens seen; each point is the mean since the point before it")
    save_figure(figure, Path(output_dir) / CURVE_FILE)


def _draw_panel(ax: Axes, log: list[dict[str, Any]], key: str) -> None:
    """Draw what was logged under ``key`` in training, and under ``eval_<key>`` in evaluations."""
    from matplotlib.ticker import MaxNLocator

    from langadapt.figures import color_of

    points = [(record["step"], record[key]) for record in log if record.get(key) is not None]
    evaluations = [(record["step"], record[f"eval_{key}"]) for record in log if record.get(f"eval_{key}") is not None]
    steps, values = [list(column) for column in zip(*points, strict=True)] or [[], []]
    window = len(values) // 50
    if window < 2:
        ax.plot(
            steps, values, color=color_of(0), marker="o" if len(values) <= 50 else None, markersize=4, label="training"
        )
    else:
        ax.plot(steps, values, color=color_of(0), alpha=0.3, linewidth=0.8, label="training, each log step")
        ax.plot(
            steps[window - 1 :],
            _running_mean(values, window),
            color=color_of(0),
            label=f"training, mean of the last {window}",
        )
    if evaluations:
        ax.plot(*zip(*evaluations, strict=True), color=color_of(1), marker="o", markersize=4, label="evaluation")
    if window >= 2 or evaluations:
        ax.legend()
    ax.set_xlabel("optimizer step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _running_mean(values: list[float], window: int) -> list[float]:
    """Return the mean of each ``window`` values in a row; shorter than ``values`` by ``window - 1``."""
    return [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
