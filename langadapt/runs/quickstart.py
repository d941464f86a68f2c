"""The last command of the quickstart: show what came out, and say whether each stage did what it is for.

make quickstart          all of it; or, of results that are there: python -m langadapt.runs.quickstart
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from langadapt.errors import run_command
from langadapt.files import read_json_file

RESULTS = Path("evaluation_results/quickstart")
MODELS = ("base", "cpt", "sft")
LANGUAGES = ("bo", "zh", "en")
MARGIN = 10.0  # chrF points, far more than two draws of a hundred test sentences differ by
TALK = "python 6_test_inference.py --config configs/quickstart/inference.yaml"


def main() -> None:
    console = Console(highlight=False)
    results = {name: read_json_file(RESULTS / f"{name}_evaluation.json") for name in MODELS}
    console.print(results_table(results))
    for sentence in verdicts(results):
        console.print(sentence)
    console.print(f"Charts: {RESULTS}, weight_analysis/quickstart.")
    console.print(f"Every translation, side by side: {RESULTS}/report.html. Talk to the model:")
    console.print(f"\n[bold]$ {TALK}[/bold]", soft_wrap=True)


def results_table(results: dict[str, Any]) -> Table:
    """Return the table of base, CPT and SFT; every score of translation with its floor in brackets."""
    directions = sorted({made["direction"] for result in results.values() for made in result["translations"]})
    metrics = (("bleu", "BLEU"), ("chrf", "chrF"))
    columns = [f"bits/\nbyte\n{language}" for language in LANGUAGES]  # in three lines, for 80 columns
    table = Table("", *columns, *(f"{name} {direction}" for direction in directions for _, name in metrics))
    for name, result in results.items():
        scores = [_score(translation_of(result, d), metric) for d in directions for metric, _ in metrics]
        table.add_row(name, *(f"{bits_per_byte(result, language):.3f}" for language in LANGUAGES), *scores)
    table.caption = (
        "held-out text; zh and en: what the base model knew; in brackets the floor: the same metric with references "
        "shuffled; base and cpt were asked with examples, sft in its chat format"
    )
    return table


def verdicts(results: dict[str, Any]) -> list[str]:
    """Say whether each stage did what it is for: CPT lowers bits per byte, SFT raises chrF.

    SFT has to be `MARGIN` points above both CPT and its own floor.
    """
    base, cpt, sft = (results[name] for name in MODELS)
    before, after = bits_per_byte(base, "bo"), bits_per_byte(cpt, "bo")
    sentences = [
        f"CPT {'beats' if after < before else 'does NOT beat'} base in bits per byte: {before:.3f} to {after:.3f}."
    ]
    for made in sorted(cpt["translations"], key=lambda made: made["direction"]):
        scores = translation_of(sft, made["direction"])["scores"]["chrf"]
        earlier, later, floor = made["scores"]["chrf"]["score"], scores["score"], _floor(scores) or 0.0
        beats = later - max(earlier, floor) >= MARGIN
        sentences.append(
            f"SFT {'beats' if beats else 'does NOT clearly beat'} CPT in chrF, {made['direction']}: "
            f"{earlier:.1f} to {later:.1f}, floor {floor:.1f}."
        )
    return sentences


def bits_per_byte(result: dict[str, Any], language: str) -> float:
    """Return the figure of one language's held-out text."""
    return float(next(each["bits_per_byte"] for each in result["likelihoods"] if each["language"] == language))


def translation_of(result: dict[str, Any], direction: str) -> dict[str, Any]:
    """Return a direction's result under the model's own prompt: chat, where it was asked so."""
    made = [each for each in result["translations"] if each["direction"] == direction]
    return min(made, key=lambda each: each["prompt"]["format"] != "chat")


def _score(made: dict[str, Any], metric: str) -> str:
    floor = _floor(made["scores"][metric])
    return f"{made['scores'][metric]['score']:.1f} ({'n/a' if floor is None else f'{floor:.1f}'})"


def _floor(score: dict[str, Any]) -> float | None:
    floor: float | None = score["floors"].get("shuffled")
    return floor


if __name__ == "__main__":
    run_command(main)
