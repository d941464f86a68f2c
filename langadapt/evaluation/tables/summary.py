"""The comparison in plain text: tables, bars that any terminal shows, and what the figures do and do not say."""

from __future__ import annotations

from itertools import pairwise

from langadapt.evaluation.comparison.figures import Comparison, Figure, Metric
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.figures import figure_tables, p_in_words, with_interval
from langadapt.evaluation.tables.files import as_text
from langadapt.pages import Table

_BAR = 40  # characters
_DETAILS = ("diagnostics", "contamination")  # the others are long; they stand in the tables and the report


def summarize(comparison: Comparison) -> str:
    """Return the whole summary; it ends with a line break."""
    parts = [
        "Evaluation summary",
        table(comparison),
        _section("What differs", findings(comparison)),
        "Bars from zero. --- is the 95 % interval, | the highest floor: what no translation gets.",
        *(_bars(metric) for metric in comparison.shown),
        *(_titled(details) for details in detail_tables(comparison) if details.name in _DETAILS),
        _section("To bear in mind", comparison.cautions),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def table(comparison: Comparison) -> str:
    """Return the figures of every model with their intervals and floors."""
    return "\n\n".join(map(_titled, figure_tables(comparison)))


def findings(comparison: Comparison) -> list[str]:
    """Return a sentence on each pair of neighbours in the ranking of each metric, and on each thing forgotten."""
    return [*filter(None, map(_ranking, comparison.shown)), *_forgotten(comparison)]


def _ranking(metric: Metric) -> str:
    said = []
    for better, worse in pairwise(metric.ranked()):
        p = metric.p_value(better, worse)
        if p is None:
            said.append(f"{better} before {worse}, not tested")
        elif p < 0.05:
            said.append(f"{better} is better than {worse} ({p_in_words(p)})")
        else:
            said.append(f"{better} and {worse} cannot be told apart ({p_in_words(p)})")
    low = [model for model, figure in metric.figures.items() if figure and not _above_floors(metric, figure)]
    if low:
        said.append(f"not above the floor: {', '.join(low)}")
    return f"{metric.key}: {'; '.join(said)}" if said else ""


def _above_floors(metric: Metric, figure: Figure) -> bool:
    """Whether the whole interval lies above what the same texts get without being translations."""
    low = figure.interval.low if figure.interval else figure.value
    # LaBSE compares with the source, so that its copy gets the most there is: no translation lies above that.
    floors = {name for name in figure.floors if (metric.name, name) != ("LaBSE", "copied_source")}
    return all(low > figure.floors[name] for name in floors)


def _forgotten(comparison: Comparison) -> list[str]:
    said = []
    for change in comparison.forgetting:
        metric = change.metric
        size = metric.show(abs(change.difference))
        worse = (change.difference > 0) == metric.lower_is_better
        what = f"{'lost' if worse else 'gained'} {size}"
        if change.p is not None and change.p >= 0.05:
            what = "is not known to have changed"
        tested = ", not tested" if change.p is None else f" ({p_in_words(change.p)})"
        said.append(f"{metric.key}: {change.model} {what} against {change.baseline}{tested}")
    return said


def _bars(metric: Metric) -> str:
    """Return one bar a model, from zero, with its interval as dashes and a | where the highest of its floors is."""
    better = "lower is better" if metric.lower_is_better else "higher is better"
    lines = [f"{metric.key} ({', '.join(filter(None, [metric.count, better]))})"]
    width = max(map(len, metric.figures))
    scale = (_BAR - 1) / metric.highest if metric.highest else 0.0
    for model, figure in metric.figures.items():
        bar = [" "] * _BAR
        if figure is not None:
            end = max(round(figure.value * scale), 0)
            bar[:end] = "#" * end
            if figure.interval:
                low, high = (max(round(value * scale), 0) for value in (figure.interval.low, figure.interval.high))
                bar[low : high + 1] = "-" * (high + 1 - low)
            if figure.floors:
                bar[max(round(max(figure.floors.values()) * scale), 0)] = "|"
        entry = with_interval(figure, metric) if figure else metric.reasons[model]
        asked = f"  {figure.prompt}" if figure and metric.view == "own" else ""
        lines.append(f"  {model.ljust(width)}  {''.join(bar)}  {entry}{asked}")
    return "\n".join(lines)


def _titled(part: Table) -> str:
    return "\n".join([part.title, as_text(part), *part.notes])


def _section(title: str, sentences: list[str]) -> str:
    return "\n".join([title, *(f"- {sentence}" for sentence in sentences)]) if sentences else ""
