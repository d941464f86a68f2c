"""The report of stage 1: every count, every drop and its reason, for a program (JSON) and for a reader (Markdown)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langadapt.corpus.charts import draw_flow, draw_lengths
from langadapt.corpus.download import recorded_commits
from langadapt.corpus.sources import Sources
from langadapt.corpus.templates import Templates
from langadapt.corpus.tokenizer_report import draw_tokenizers, tokenizer_table
from langadapt.corpus.turns import TURNS
from langadapt.files import write_json, write_text
from langadapt.recipe.preprocess import PreprocessSettings

Report = dict[str, Any]
_DRAW_COLUMNS = (
    "part",
    "available",
    "from cut pairs",
    "held out",
    "twins",
    "documents",
    "test sets",
    "unlike pairs",
    "drawn",
    "again",
    "wanted",
    "shortfall",
)


def describe_inputs(settings: PreprocessSettings, sources: Sources, templates: Templates) -> Report:
    """Return the first part of the report: what was read, with which settings, at which commits."""
    return {
        "schema_version": 2,
        "name": settings.name,
        "seed": settings.seed,
        "tokenizer": settings.tokenizer_source,
        "cutoff_len": settings.cutoff_len,
        "sources": {collection.name: collection.report for collection in sources.collections},
        "duplicates": sources.duplicates,
        "downloads": recorded_commits(settings),
        "templates": templates.known,
        "settings": settings.model_dump(mode="json"),
    }


def write_report(folder: Path, report: Report, sources: Sources) -> None:
    """Write ``data_report.json`` and ``.md``, three charts beside them, and ``quarantine.jsonl`` into ``folder``."""
    draw_flow(flow_of(report), folder / "data_flow.png")
    sizes = {label: texts["bytes"] for label, texts in _texts(report).items() if texts["kept"]}
    draw_lengths(sizes, folder / "data_lengths.png")
    draw_tokenizers(report["tokenizers"], folder / "data_tokenizers.png")
    lines = (json.dumps(vars(record), ensure_ascii=False) + "\n" for record in sources.quarantine)
    write_text(folder / "quarantine.jsonl", "".join(lines))
    write_json(folder / "data_report.json", report)
    write_text(folder / "data_report.md", as_markdown(report))


def flow_of(report: Report) -> dict[str, Report]:
    """Return what each step dropped of the texts of every source and language, and of its pairs."""
    flow = {label: _steps(texts) for label, texts in _texts(report).items()}
    for name, source in report["sources"].items():
        before = source.get("dropped", {})
        for label in (label for label in flow if label == name or label.startswith(f"{name} ")):
            flow[label]["read"] += sum(before.values())
            flow[label]["steps"] = [*before.items(), *flow[label]["steps"]]
        flow |= {f"{name} {part}": _steps(counts) for part, counts in source.get("parts", {}).items()}
    return flow


def _texts(report: Report) -> dict[str, Report]:
    return {
        name if code == TURNS else f"{name} {code}": texts
        for name, source in report["sources"].items()
        for code, texts in source["texts"].items()
    }


def _steps(counts: Report) -> Report:
    return {"read": counts["read"], "steps": list(counts["dropped"].items()), "kept": counts["kept"]}


def as_markdown(report: Report) -> str:
    """Return the report as a page to read."""
    lines = [f"# Data report: {report['name']}", ""]
    lines += [f"Seed {report['seed']}, tokenizer `{report['tokenizer']}`, cutoff {report['cutoff_len']:,} tokens.", ""]
    lines += ["What each step dropped: data_flow.png; how long the texts are: data_lengths.png.", "", "## Sources", ""]
    for name, source in report["sources"].items():
        lines += [f"### {name}", "", *_bullets(source), ""]
    lines += [
        "## Draws",
        "",
        f"| {' | '.join(_DRAW_COLUMNS)} |",
        "|---|" + "---:|" * (len(_DRAW_COLUMNS) - 1),
    ]
    for name, draw in report["draws"].items():
        values = [sum(value.values()) if isinstance(value, dict) else value for value in draw.values()][:-1]
        name += " (wanted, shortfall: tokens)" if draw["unit"] == "tokens" else ""
        lines.append(f"| {name} | " + " | ".join(f"{value:,}" for value in values) + " |")
    lines += ["", *(f"- {sentence}" for sentence in shortfalls(report)), ""]
    lines += ["## Tokenizers", "", "On a sample of the texts of each language; drawn in data_tokenizers.png.", ""]
    lines += [tokenizer_table(report["tokenizers"])]
    if "new_tokenizer" in report:
        lines += ["The first was trained by this run:", "", *_bullets(report["new_tokenizer"]), ""]
    lines += ["## Longer than the cutoff", "", *_bullets(report["longer than cutoff_len"]), ""]
    lines += ["## Files", "", "| file | records | bytes | sha256 |", "|---|---:|---:|---|"]
    for name, file in report["files"].items():
        lines.append(f"| {name} | {file['records']:,} | {file['bytes']:,} | {file['sha256'][:16]}… |")
    lines += ["", "## Held-out text in training files", "", *_bullets(report["disjoint"]), ""]
    if report.get("downloads"):
        lines += ["## Downloads", "", *_bullets(report["downloads"]), ""]
    return "\n".join(lines)


def shortfalls(report: Report) -> list[str]:
    """Return a sentence for each part and test set with fewer records than the recipe asks for, with the reason."""
    sentences = [
        f"{name}: there is nothing to draw from" for name, draw in report["draws"].items() if not draw["available"]
    ]
    sentences += [
        f"{name}: {draw['wanted'] - draw['shortfall']:,} of {draw['wanted']:,} {draw['unit']}; all there is was used"
        for name, draw in report["draws"].items()
        if draw["shortfall"] and draw["available"]
    ]
    sentences += [
        f"held-out {name} records: {size['held out']:,} of {size['wanted']:,}, none of them alike, within max_share"
        for name, size in report["held out"].items()
        if size["held out"] < size["wanted"]
    ]
    for file, lost in report["cut to max_share"].items():
        sentences += [
            f"{file}: {count:,} records of {part} cut to stay within max_share" for part, count in lost.items()
        ]
    return sentences


def _bullets(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if key == "bytes":  # drawn, not listed
            continue
        if isinstance(item, dict):
            lines += [f"{indent}- {key}:", *_bullets(item, indent + "  ")] if item else []
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines += [f"{indent}- {key}:", *(f"{indent}  - {_on_one_line(entry)}" for entry in item)]
        elif isinstance(item, list) and key != "length ratios kept":  # examples: line number and text
            lines += [f"{indent}- {key}:", *(f"{indent}  - {number}: `{text}`" for number, text in item)]
        else:
            shown = "unknown" if item is None else f"{item:,}" if isinstance(item, int) else item
            lines.append(f"{indent}- {key}: {shown}")
    return lines


def _on_one_line(entry: dict[str, Any]) -> str:
    parts = []
    for key, value in entry.items():
        shown = _on_one_line(value) if isinstance(value, dict) else " to ".join(f"{number:,}" for number in value)
        parts.append(f"{key} {shown}")
    return ", ".join(parts)
