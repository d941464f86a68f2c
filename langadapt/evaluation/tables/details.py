"""What stands behind the figures of a comparison, as tables: diagnostics, parts, contamination, p-values."""

from __future__ import annotations

from itertools import combinations

from langadapt.evaluation.comparison.fewshot import fewshot_rows
from langadapt.evaluation.comparison.figures import Comparison, own_rank
from langadapt.evaluation.results import Translation
from langadapt.evaluation.tables.figures import FLOORS, difference, number, p_cell, place, row
from langadapt.pages import Cell, Table

_COUNTS = ("empty", "cut_off", "looping", "copied", "off_script", "off_language", "broken")


def detail_tables(comparison: Comparison) -> list[Table]:
    """Return the tables that have any row: few-shot study, diagnostics, parts, contamination, p-values."""
    tables = [
        fewshot_table(comparison),
        _diagnostics(comparison),
        _slices(comparison),
        _contamination(comparison),
        _differences(comparison),
    ]
    return [table for table in tables if table.rows]


def fewshot_table(comparison: Comparison) -> Table:
    """Return the figures of the few-shot study; no rows where no model was asked with several numbers of examples."""
    rows = []
    for point in fewshot_rows(comparison.results):
        brackets = "" if point.low is None or point.high is None else f"[{point.low:.2f}, {point.high:.2f}]"
        score = Cell(f"{point.score:.2f}", point.score, brackets)
        names = point.metric, point.model, point.prompt
        floor, n = number(point.shuffled, "{:.2f}"), number(point.n, "{:,}")
        rows.append(row(place(point.test_set, point.direction), *names, score, floor, n, point.comparable))
    head = ["test", "metric", "model", "prompt", "score", FLOORS["shuffled"], "n", "comparable"]
    notes = ["In brackets 95 % intervals. Chat: the model's own chat format, without examples."]
    return Table("fewshot", "Scores by the number of examples in the prompt", head, rows, notes)


def _diagnostics(comparison: Comparison) -> Table:
    rows = []
    for model, t in _asked(comparison):
        counts = [number(getattr(t.diagnostics, name), "{:,}") for name in _COUNTS]
        ratio = number(t.diagnostics.length_ratio, "{:.2f}")
        rows.append(
            row(place(t.test_set, t.direction), model, t.prompt.describe(), number(t.n, "{:,}"), *counts, ratio)
        )
    head = ["test", "model", "prompt", "n", *(name.replace("_", " ") for name in _COUNTS), "length ratio"]
    notes = [
        "Cut off: stopped by the length limit. Looping: ends in a repeated passage. Copied: the source, or most of it. "
        "Off script, off language: not the target's. Broken: U+FFFD, lone surrogates, marks without a letter. Length "
        "ratio: hypothesis to reference, in the target's units."
    ]
    return Table("diagnostics", "What is wrong with the hypotheses, in numbers of records", head, rows, notes)


def _slices(comparison: Comparison) -> Table:
    rows = [
        row(
            place(t.test_set, t.direction),
            model,
            t.prompt.name,
            part.by,
            part.name,
            number(part.n, "{:,}"),
            *(number(part.scores.get(name), "{:.2f}") for name in ("bleu", "chrf")),
        )
        for model, t in _asked(comparison)
        for part in t.slices
    ]
    head = ["test", "model", "prompt", "by", "part", "n", "BLEU", "chrF"]
    return Table("slices", "Parts of the test sets", head, rows, ["Length is the reference's, in the target's units."])


def _contamination(comparison: Comparison) -> Table:
    rows = []
    for model, t in _asked(comparison):
        if found := t.contamination:
            counts = [number(found.ngram, "{}"), number(found.contaminated, "{:,}"), number(found.clean, "{:,}")]
            scores = [
                number(value, "{:.2f}")
                for name in ("bleu", "chrf")
                for value in (t.scores[name].score if name in t.scores else None, found.scores.get(name))
            ]
            rows.append(row(place(t.test_set, t.direction), model, t.prompt.name, *counts, *scores))
    head = ["test", "model", "prompt", "n-gram", "found", "clean", "BLEU all", "BLEU clean", "chrF all", "chrF clean"]
    notes = [
        "Found: test items whose n-grams stand in the training files. Clean: the others, and the scores on them alone."
    ]
    return Table("contamination", "Contamination", head, rows, notes)


def _differences(comparison: Comparison) -> Table:
    rows = []
    for metric in comparison.metrics:
        for better, worse in combinations(metric.ranked(), 2):
            p, first, second = metric.p_value(better, worse), metric.figures[better], metric.figures[worse]
            if p is not None and first and second:
                rows.append(row(metric.key, better, worse, difference(metric, first.value - second.value), p_cell(p)))
    notes = ["Paired bootstrap over documents or records, two-sided; not corrected for the number of pairs."]
    head = ["metric", "better", "than", "difference", "p"]
    return Table("differences", "Differences between models", head, rows, notes)


def _asked(comparison: Comparison) -> list[tuple[str, Translation]]:
    """Return translations model by model, few-shot prompts in order of their examples and then chat.

    Those of other items than the columns of figures are left out, as there.
    """
    compared = {(m.test_set, m.of, f.items_sha256) for m in comparison.metrics for f in m.figures.values() if f}
    return [
        (model, translation)
        for model, result in comparison.results.items()
        for translation in sorted(result.translations, key=lambda t: own_rank(t.prompt))
        if (translation.test_set, translation.direction, translation.items_sha256) in compared
    ]
