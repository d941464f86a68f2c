"""The evaluation section of a model card, with the metadata in which the hub looks for figures."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from langadapt.errors import UserError
from langadapt.evaluation.comparison.side_by_side import SCORES, put_side_by_side
from langadapt.evaluation.results import Evaluation
from langadapt.evaluation.tables.details import detail_tables
from langadapt.evaluation.tables.figures import figure_tables
from langadapt.evaluation.tables.files import as_markdown
from langadapt.files import write_text

_BEGIN = "<!-- evaluation: begin (written by 4_evaluate.py; what stands between these two lines is replaced) -->"
_END = "<!-- evaluation: end -->"


def write_card(folder: str | Path, evaluation: Evaluation) -> Path:
    """Write ``<name>_model_card.md``: metadata (``model-index``) and the section, to be pasted; return its path."""
    path = Path(folder) / f"{evaluation.model_name}_model_card.md"
    results = _hub_results(evaluation)
    metadata = ModelCardData(model_name=evaluation.model_name, eval_results=results) if results else ModelCardData()
    write_text(path, f"---\n{metadata.to_yaml()}\n---\n\n{evaluation_section(evaluation)}")
    return path


def update_card(model_folder: str | Path, evaluation: Evaluation) -> Path:
    """Put the section into the README.md of a model's folder, in the place of an older one; return its path.

    The rest of the card stays as it is, but for white space at its end; where there is no card, one with only the
    section is made. Raises `UserError` for a folder that is not there, and for a card that is not UTF-8 or has other
    marks than one pair or none.
    """
    if not Path(model_folder).is_dir():
        raise UserError(f"{model_folder}: no such folder, so there is no model card to update. Give a model's folder.")
    path = Path(model_folder) / "README.md"
    try:
        card = path.read_bytes().decode("utf-8") if path.is_file() else ""  # as bytes: line ends stay as they are
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    section = evaluation_section(evaluation)
    begins, ends = card.count(_BEGIN), card.count(_END)
    if begins == ends == 0:
        card = f"{card.rstrip()}\n\n{section}" if card else section
    elif begins == ends == 1 and card.index(_BEGIN) < card.index(_END):
        before, _, rest = card.partition(_BEGIN)
        card = before + section.rstrip("\n") + rest.partition(_END)[2]
    else:
        raise UserError(
            f"{path}: {begins} lines begin an evaluation section and {ends} end one; there must be one of each, "
            "in that order, or none. Delete the section by hand and run again."
        )
    write_text(path, card)
    return path


def evaluation_section(evaluation: Evaluation) -> str:
    """Return the section in Markdown: figures with intervals, floors and signatures, and how they came about."""
    comparison = put_side_by_side({evaluation.model_name: evaluation})
    tables = [*figure_tables(comparison), *detail_tables(comparison)]
    shown = "\n".join(as_markdown(table, heading="###") for table in tables) or "Nothing was measured.\n"
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.versions.items())
    files = "".join(f"- `{name}`, SHA-256 `{sha256}`\n" for name, sha256 in evaluation.data.items())
    cautions = "".join(f"- {caution}\n" for caution in comparison.cautions)
    parts = [
        _BEGIN,
        f"## Evaluation\n\n{shown}",
        f"### Conditions\n\nMeasured {evaluation.finished} in {evaluation.dtype} on {evaluation.device}"
        + (f" with {versions}.\n" if versions else ".\n"),
        f"Data:\n\n{files}" if files else "",
        f"To bear in mind:\n\n{cautions}" if cautions else "",
        "Scores count matching text; no speaker of the language has judged what was written.\n",
    ]
    return "\n".join(filter(None, parts)) + f"\n{_END}\n"


def _hub_results(evaluation: Evaluation) -> list[EvalResult]:
    """Return the figures as the hub's model-index has them; what they were measured on goes into the names."""
    found = [
        EvalResult(
            task_type="text-generation", dataset_type=x.test_set, dataset_name=x.test_set, dataset_config=x.language,
            metric_type="bits_per_byte", metric_name=f"bits per byte, {x.language}", metric_value=x.bits_per_byte,
        )
        for x in evaluation.likelihoods
    ]  # fmt: skip
    found += [
        EvalResult(
            task_type="translation", dataset_type=t.test_set, dataset_name=t.test_set, dataset_config=t.direction,
            metric_type=name, metric_name=f"{SCORES[name]} {t.direction}, {t.prompt.name}", metric_value=score.score,
            metric_config=score.signature,
        )
        for t in evaluation.translations
        for name, score in t.scores.items()
    ]  # fmt: skip
    found += [
        EvalResult(
            task_type="multiple-choice", dataset_type=c.test_set, dataset_name=c.test_set, dataset_config=c.language,
            metric_type="accuracy", metric_name=f"accuracy, {c.num_fewshot}-shot, {c.method}", metric_value=c.accuracy,
            metric_config=c.signature,
        )
        for c in evaluation.choices
    ]  # fmt: skip
    return found
