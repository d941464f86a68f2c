"""What a comparison says, as tables: likelihood, translation in both views, choices, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from langadapt.evaluation.comparison.figures import Comparison, Figure, Metric, View
from langadapt.evaluation.results import Interval
from langadapt.pages import Cell, Table

FLOORS = {
    "shuffled": "floor: references shuffled",
    "copied_source": "floor: source copied",
    "neighbour": "floor: neighbour language",
}
_INTERVALS = "In brackets 95 % intervals."


def figure_tables(comparison: Comparison) -> list[Table]:
    """Return the tables that have any row: bars, likelihood, translation in each view, choices, forgetting."""
    tables = [
        _bars(comparison),
        _likelihoods(comparison),
        _translations(comparison, "shared"),
        _translations(comparison, "own"),
        _choices(comparison),
        _forgetting(comparison),
    ]
    return [table for table in tables if table.rows]


def _bars(comparison: Comparison) -> Table:
    rows = []
    for verdict in comparison.verdicts:
        bar, value = verdict.bar, verdict.value
        figure = NONE if value is None else Cell(f"{value:,.3f}", value)
        asked = f"{bar.measure} {bar.wanted}"
        rows.append(row(place(bar.test_set, bar.of), asked, verdict.model, figure, verdict.outcome, verdict.why))
    notes = ["The figure is judged, not its interval."]
    if any(verdict.bar.measure == "perplexity" for verdict in comparison.verdicts):
        notes.append("Perplexity is by token of each model's own tokenizer: of fewer, longer tokens it is higher.")
    return Table("bars", "Bars", ["test", "bar", "model", "figure", "outcome", "measured"], rows, notes)


def _likelihoods(comparison: Comparison) -> Table:
    rows, units = [], []
    for metric in comparison.metrics:
        if metric.kind != "likelihood":
            continue
        mark = "" if comparison.same_tokenization(metric) else "*"
        for model in metric.figures:
            entries = [NONE] * 4
            if likelihood := comparison.likelihood(model, metric):
                units.append(f"{likelihood.unit} ({metric.of})")
                perplexity = likelihood.token_perplexity
                entries = [
                    number(likelihood.bits_per_character, "{:.3f}"),
                    number(likelihood.bits_per_unit, "{:.2f}"),
                    Cell(f"{perplexity:,.2f}{mark}", perplexity),
                    number(likelihood.documents, "{:,}"),
                ]
            rows.append(row(place(metric.test_set, metric.of), model, _figure(metric, model), *entries))
    head = ["text", "model", "bits per byte", "per character", "per unit", "token perplexity", "documents"]
    notes = [
        f"Lower is better. {_INTERVALS} Units: {', '.join(dict.fromkeys(units))}.",
        "Token perplexity compares only between models that cut the text into the same tokens; others have a *.",
    ]
    return Table("likelihood", "Likelihood of held-out text", head, rows, notes)


def _translations(comparison: Comparison, view: View) -> Table:
    metrics = [metric for metric in comparison.metrics if metric.view == view]
    names = list(dict.fromkeys(metric.name for metric in metrics))
    rows = []
    for (test_set, direction), group in groupby(metrics, key=lambda metric: (metric.test_set, metric.of)):
        by_name = {metric.name: metric for metric in group}
        test = place(test_set, direction)
        for model in comparison.results:
            figures = [metric.figures[model] for metric in by_name.values()]
            prompt = next((figure.prompt for figure in figures if figure), "")
            entries = [_figure(by_name[name], model) if name in by_name else NONE for name in names]
            rows.append(row(test, model, prompt, *entries))
        for floor, title in FLOORS.items():
            entries = [_floor(by_name[name], floor) if name in by_name else NONE for name in names]
            if any(not entry.missing for entry in entries):
                rows.append(row(test, title, "", *entries))
    titles = {
        "shared": "Translation, all models under one shared few-shot prompt",
        "own": "Translation, each model under its own prompt: chat where it has one, else with most examples; of a "
        "translator the source alone",
    }
    notes = [
        f"Higher is better. {_INTERVALS}",
        "Floors: what the score gives to texts that are no translations; of all models the highest.",
        _search(comparison),
        *_signatures(metrics),
    ]
    return Table(f"translation_{view}", titles[view], ["test", "model", "prompt", *names], rows, notes)


def _search(comparison: Comparison) -> str:
    """Return how the models that translated chose their words: ``Greedy search.``, or each model's own way."""
    beams = {
        name: result.plan.get("num_beams", 1) for name, result in comparison.results.items() if result.translations
    }
    ways = {name: f"{count} beams" if count > 1 else "greedy" for name, count in beams.items()}
    if len({*ways.values()}) == 1:
        return f"Search, of all models: {next(iter(ways.values()))}."
    return f"Search: {', '.join(f'{name} {way}' for name, way in ways.items())}."


def _choices(comparison: Comparison) -> Table:
    metrics = [metric for metric in comparison.metrics if metric.kind == "choices"]
    rows = []
    for metric in metrics:
        for model, figure in metric.figures.items():
            chance = number(figure.floors.get("chance") if figure else None, "{:.3f}")
            asked = metric.prompt, metric.name, model
            count = figure.count if figure else ""
            rows.append(row(place(metric.test_set, metric.of), *asked, _figure(metric, model), chance, count))
    notes = [f"Higher is better. {_INTERVALS} Chance is what guessing gets.", *_signatures(metrics)]
    head = ["test", "asked", "metric", "model", "share right", "chance", "items"]
    return Table("choices", "Choices", head, rows, notes)


def _forgetting(comparison: Comparison) -> Table:
    rows = []
    for change in comparison.forgetting:
        metric = change.metric
        values = [figure.value for m in (change.baseline, change.model) if (figure := metric.figures[m])]
        shown = [Cell(metric.show(value), value) for value in values]
        rows.append(
            row(
                metric.key,
                change.model,
                *shown,
                difference(metric, change.difference, change.interval),
                p_cell(change.p),
            )
        )
    baseline = next((change.baseline for change in comparison.forgetting), "")
    notes = [
        f"Against {baseline}, on languages other than the one that is trained. What was lost: bits per byte that rise, "
        "chrF that falls. In brackets the 95 % interval of the difference, over documents."
    ]
    return Table("forgetting", "Forgetting", ["metric", "model", baseline, "after", "difference", "p"], rows, notes)


def p_in_words(p: float) -> str:
    """Return a p-value in words: ``p = 0.031``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def with_interval(figure: Figure, metric: Metric) -> str:
    """Return a value and its interval: ``45.20 [44.10, 46.30]``."""
    return f"{metric.show(figure.value)} {_brackets(figure.interval, metric.show)}".rstrip()


def row(*entries: Cell | str) -> list[Cell]:
    """Return cells, made of words where they are none yet."""
    return [Cell(entry) if isinstance(entry, str) else entry for entry in entries]


def place(test_set: str, of: str) -> str:
    """Return a test set with a language or direction."""
    return f"{test_set} {of}"


def number(value: float | None, form: str) -> Cell:
    """Return a number in a format, or the mark of a missing one."""
    return NONE if value is None else Cell(form.format(value), float(value))


def difference(metric: Metric, value: float, interval: Interval | None = None) -> Cell:
    """Return a difference between two figures, with its sign."""
    return Cell(f"{'+' if value > 0 else ''}{metric.show(value)}", value, _brackets(interval, metric.show))


def p_cell(p: float | None) -> Cell:
    """Return a p-value, or the mark of a missing one."""
    return NONE if p is None else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


NONE = Cell("n/a", missing=True)


def _figure(metric: Metric, model: str) -> Cell:
    figure = metric.figures[model]
    if figure is None:
        return Cell(metric.reasons[model], missing=True)
    interval = _brackets(figure.interval, metric.show)
    return Cell(metric.show(figure.value), figure.value, interval, bold=model == metric.leader())


def _floor(metric: Metric, name: str) -> Cell:
    values = [figure.floors[name] for figure in metric.figures.values() if figure and name in figure.floors]
    return Cell(metric.show(max(values)), max(values)) if values else NONE


def _brackets(interval: Interval | None, show: Callable[[float], str]) -> str:
    return f"[{show(interval.low)}, {show(interval.high)}]" if interval else ""


def _signatures(metrics: Sequence[Metric]) -> list[str]:
    """Return a line for each signature: the scores, and the directions or test sets that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        name = metric.name if metric.kind == "translation" else metric.test_set
        found.setdefault((name, metric.signature), []).append(metric.of)
    return [
        f"{name} {', '.join(dict.fromkeys(of))}: {signature}" for (name, signature), of in found.items() if signature
    ]
