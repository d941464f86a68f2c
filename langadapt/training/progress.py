"""What a run says while it goes: a bar, one line a log step, the same as JSON, and the loss curve."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from langadapt.files import read_jsonl, write_text

LOG_FILE = "training_log.jsonl"
CURVE_FILE = "loss_curve.png"


class ProgressLog(TrainerCallback):  # type: ignore[misc]
    """Tells how training goes; for rank 0 only."""

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar and the clock; forget what an earlier start logged beyond the step that is resumed from."""
        kept = [record for record in read_log(self.folder) if record["step"] <= state.global_step]
        write_text(self.folder / LOG_FILE, "".join(json.dumps(record) + "\n" for record in kept))
        self.tokens_seen = kept[-1]["tokens_seen"] if kept else 0
        self.first_step, self.start = state.global_step, time.monotonic()
        self.last_log = self.start
        # disable=None: no bar where standard error is no terminal
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", disable=args.disable_tqdm or None
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Print and append one line."""
        if "loss" not in logs:
            return
        now = time.monotonic()
        self.tokens_seen += logs["num_tokens"]
        record = {
            "step": state.global_step,
            "epoch": state.epoch,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": logs["num_tokens"] / (now - self.last_log),
            "tokens_seen": self.tokens_seen,
        }
        self.last_log = now
        with open(self.folder / LOG_FILE, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        seconds_a_step = (now - self.start) / (state.global_step - self.first_step)
        left = timedelta(seconds=round(seconds_a_step * (state.max_steps - state.global_step)))
        tqdm.write(format_line(record, state.max_steps, left))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the loss curve so far."""
        draw_loss_curve(self.folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar, draw the whole curve."""
        self.bar.close()
        draw_loss_curve(self.folder)


def format_line(record: dict[str, Any], max_steps: int, left: timedelta) -> str:
    """Return one log record as a line for people."""
    norm = "" if record["grad_norm"] is None else f" | grad norm {record['grad_norm']:.2f}"
    return (
        f"step {record['step']}/{max_steps} | epoch {record['epoch']:.2f} | loss {record['loss']:.4f} | "
        f"lr {record['learning_rate']:.2e}{norm} | {record['tokens_per_second']:,.0f} tok/s | left {left}"
    )


def read_log(output_dir: str | Path) -> list[dict[str, Any]]:
    """Return the log records of a run in order; an empty list where there are none."""
    path = Path(output_dir) / LOG_FILE
    if not path.is_file() or path.stat().st_size == 0:
        return []
    return [record for _, record in read_jsonl(path)]


def draw_loss_curve(output_dir: str | Path) -> None:
    """Draw loss_curve.png from the log: the loss by optimizer step and, where it is long, its running mean."""
    from matplotlib.ticker import MaxNLocator

    from langadapt.figures import color_of, new_figure, note, save_figure

    records = read_log(output_dir)
    if not records:
        return
    steps = [record["step"] for record in records]
    losses = [record["loss"] for record in records]
    figure, (ax,) = new_figure()
    window = len(losses) // 50
    if window < 2:
        ax.plot(steps, losses, color=color_of(0), marker="o" if len(losses) <= 50 else None, markersize=4)
    else:
        ax.plot(steps, losses, color=color_of(0), alpha=0.3, linewidth=0.8, label="each log step")
        ax.plot(
            steps[window - 1 :], _running_mean(losses, window), color=color_of(0), label=f"mean of the last {window}"
        )
        ax.legend()
    ax.set_title("Training loss")
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("loss (nats a token)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    note(figure, f"{records[-1]['tokens_seen']:,} tokens seen; each point is the mean since the point before it")
    save_figure(figure, Path(output_dir) / CURVE_FILE)


def _running_mean(values: list[float], window: int) -> list[float]:
    """Return the mean of each ``window`` values in a row; shorter than ``values`` by ``window - 1``."""
    return [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
