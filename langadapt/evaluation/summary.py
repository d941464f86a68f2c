"""The comparison in plain text: a table, bars that any terminal shows, and what has to be said about the figures."""

from __future__ import annotations

from collections.abc import Sequence

from langadapt.evaluation.comparison import Comparison, Metric

_BAR = 40  # characters


def summarize(comparison: Comparison) -> str:
    """Return the whole summary; it ends with a line break."""
    parts = [
        "Evaluation summary",
        table(comparison),
        "In brackets: the floor, what the same hypotheses get when the references are shuffled among them.",
        *(_bars(comparison, metric) for metric in comparison.metrics),
        _hypotheses(comparison),
        _signatures(comparison),
    ]
    if comparison.cautions:
        parts.append("To bear in mind\n" + "\n".join(f"- {caution}" for caution in comparison.cautions))
    return "\n\n".join(filter(None, parts)) + "\n"


def table(comparison: Comparison) -> str:
    """Return the figures of every model, one model a line."""
    mark = "" if comparison.same_tokenization else "*"
    rows = [["model", *(metric.key for metric in comparison.metrics), f"token perplexity{mark}"]]
    for model in comparison.results:
        entries = [_entry(metric, model) for metric in comparison.metrics]
        perplexity = comparison.token_perplexity(model)
        rows.append([model, *entries, entries[0] if perplexity is None else f"{perplexity:,.2f}"])
    note = "\n* tokenized differently: compare token perplexity only between models of one tokenizer" if mark else ""
    return _aligned(rows) + note


def _entry(metric: Metric, model: str) -> str:
    figure = metric.figures[model]
    if figure is None:
        return metric.reasons[model]
    floor = "" if figure.floor is None else f" ({metric.show(figure.floor)})"
    return metric.show(figure.value) + floor


def _bars(comparison: Comparison, metric: Metric) -> str:
    """Return one bar a model, from zero, with a | where the floor is."""
    better = "lower is better" if metric.lower_is_better else "higher is better, | is the floor"
    lines = [f"{metric.key} ({', '.join(filter(None, [metric.count, better]))})"]
    width = max(map(len, comparison.results))
    for model, figure in metric.figures.items():
        bar = ""
        if figure is not None:
            scale = _BAR / metric.highest if metric.highest else 0.0
            bar = ("#" * round(figure.value * scale)).ljust(_BAR)
            if figure.floor is not None:
                position = min(round(figure.floor * scale), _BAR - 1)
                bar = f"{bar[:position]}|{bar[position + 1 :]}"
        lines.append(f"  {model.ljust(width)}  {bar.ljust(_BAR)}  {_entry(metric, model)}")
    return "\n".join(lines)


def _hypotheses(comparison: Comparison) -> str:
    rows = [["model", "direction", "records", "prompt", "empty", "cut off"]]
    for model, result in comparison.results.items():
        for direction, t in result.translation.items():
            if t is not None:
                rows.append([model, direction, str(t.n), t.prompt.describe(), str(t.empty), str(t.cut_off)])
    if len(rows) == 1:
        return ""
    return "Hypotheses (cut off: stopped by the length limit, not by the model)\n" + _aligned(rows)


def _signatures(comparison: Comparison) -> str:
    lines = [
        f"  {metric.key}: {figure.signature}"
        for metric in comparison.metrics
        for figure in list(filter(None, metric.figures.values()))[:1]
        if figure.signature
    ]
    return "\n".join(["Signatures (sacrebleu)", *lines]) if lines else ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
