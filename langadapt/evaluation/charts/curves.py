"""Training curves of the models that were compared, from the logs beside them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter

from langadapt.evaluation.charts.panels import nothing, shortened
from langadapt.evaluation.comparison.figures import Comparison
from langadapt.figures import MISSING, color_of, new_figure, note

_LOG = "training_log.jsonl"
_PANELS = {
    "loss": "Loss (nats a token)",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens a second, each process",
}
_SMOOTH = 200  # points, from which a running mean is drawn over them


def curves_chart(comparison: Comparison) -> Canvas:
    """Loss, learning rate and speed against the tokens seen, a line a model; evaluation losses as dots."""
    logs = {model: read_training_log(result.model_path) for model, result in comparison.results.items()}
    without = [shortened(model) for model, log in logs.items() if not log]
    if len(without) == len(logs):
        return nothing(f"no {_LOG} beside any of the models")
    figure, axes = new_figure(1, 3, width=14, height=4.8)
    for ax, (key, title) in zip(axes, _PANELS.items(), strict=True):
        for position, (model, log) in enumerate(logs.items()):
            _line(ax, log, key, color_of(position), shortened(model))
        ax.set_title(title)
        ax.set_xlabel("tokens seen")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.locator_params(axis="x", nbins=5)
    for model in without:
        axes[0].plot([], [], color=MISSING, linewidth=4, label=f"{model}: no log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=9)
    said = (
        "Losses of different stages are of different tokens (all of a text, or answers alone) and do not compare; nor "
        "do those of different tokenizers. Circles: loss on held-out data. Each line starts where its own run did."
    )
    note(figure, textwrap.fill(said, 170))
    return figure


def read_training_log(model_path: str) -> list[dict[str, Any]]:
    """Return the records of the run that made a model, empty where it left none that can be read.

    The log lies in the model's folder, or above it where the model is a checkpoint or an adapter of the run. A last
    line without its end was cut short by a kill and is left out.
    """
    folder = Path(model_path)
    for path in (folder / _LOG, folder.parent / _LOG):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").split("\n")[:-1]
                return [record for record in map(json.loads, lines) if isinstance(record, dict)]
            except ValueError:
                return []
    return []


def _line(ax: Axes, log: list[dict[str, Any]], key: str, color: str, name: str) -> None:
    records = [record for record in log if record.get(key) is not None and record.get("tokens_seen") is not None]
    tokens, values = [r["tokens_seen"] for r in records], [r[key] for r in records]
    if not values:
        return
    smooth = key == "loss" and len(values) >= _SMOOTH
    ax.plot(tokens, values, color=color, alpha=0.3 if smooth else 1.0, linewidth=0.8 if smooth else 1.5,
            label=None if smooth else name, marker="." if len(values) < 3 else None)  # fmt: skip
    if smooth:
        window = len(values) // 50
        sums = [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
        ax.plot(tokens[window - 1 :], sums, color=color, label=f"{name}, mean of {window} log steps")
    if key == "loss":
        seen_at = {record["step"]: record["tokens_seen"] for record in records}
        held_out = [
            (seen_at[r["step"]], r["eval_loss"])
            for r in log
            if r.get("eval_loss") is not None and r.get("step") in seen_at
        ]
        if held_out:
            ax.plot(*zip(*held_out, strict=True), "o", color=color, fillstyle="none", markersize=5)
