"""What an evaluation says, as value objects, and the files that hold it: `<name>_evaluation.json` and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from langadapt.errors import UserError
from langadapt.files import read_json_file, write_json, write_text

SCHEMA_VERSION = 1
_SUFFIX = "_evaluation.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Score(_Value):
    """A metric on its 0 to 100 scale. ``floor`` is what the same hypotheses get against other items' references."""

    score: FiniteFloat
    signature: str
    floor: FiniteFloat | None  # None where there is no other item


class Likelihood(_Value):
    """How well a model predicts held-out text. Token perplexity compares only where the tokenization is the same."""

    bits_per_byte: FiniteFloat
    token_perplexity: FiniteFloat
    bytes: int
    tokens: int
    documents: int
    max_length: int  # tokens a window
    items_sha256: str
    tokenization_sha256: str


class Prompt(_Value):
    """How the model was asked: the format, the examples shown (per record), and the first prompt, letter for letter."""

    format: Literal["chat", "few_shot"]
    examples: dict[int, int]  # number of examples -> records that got so many
    first: str

    def describe(self) -> str:
        """Say in two words how the model was asked: ``chat``, ``4-shot``, ``2-4-shot``."""
        if self.format == "chat":
            return "chat"
        fewest, most = min(self.examples), max(self.examples)
        return f"{most}-shot" if fewest == most else f"{fewest}-{most}-shot"


class Translation(_Value):
    """One direction: scores over ``n`` records, empty and cut-off hypotheses included."""

    n: int
    bleu: Score
    chrf: Score
    empty: int
    cut_off: int  # stopped by the length limit, not by the model
    prompt: Prompt
    items_sha256: str


class Evaluation(_Value):
    """Everything measured on one model in one run. ``missing`` says what was not, or not as asked, and why."""

    schema_version: int = SCHEMA_VERSION
    model_name: str
    model_path: str
    perplexity: Likelihood | None
    translation: dict[str, Translation | None]
    missing: dict[str, str]
    data: dict[str, str]  # file -> SHA-256
    settings: dict[str, Any]
    dtype: str
    device: str
    finished: str  # ISO 8601, UTC
    seconds: FiniteFloat
    versions: dict[str, str]


class Prediction(_Value):
    """One hypothesis, as generated."""

    id: str
    direction: str
    source: str
    reference: str
    hypothesis: str
    prompt_format: str
    stop_reason: str
    tokens: int


def write_results(folder: str | Path, evaluation: Evaluation, predictions: Sequence[Prediction]) -> tuple[Path, Path]:
    """Write both files of a model, each atomically, the predictions first; return their paths."""
    result = Path(folder) / f"{evaluation.model_name}{_SUFFIX}"
    hypotheses = Path(folder) / f"{evaluation.model_name}_predictions.jsonl"
    lines = [json.dumps(prediction.model_dump(), ensure_ascii=False) + "\n" for prediction in predictions]
    write_text(hypotheses, "".join(lines))
    write_json(result, evaluation.model_dump(mode="json"))
    return result, hypotheses


def read_results(folder: str | Path) -> tuple[dict[str, Evaluation], list[str]]:
    """Return the readable results of a folder by model name, oldest first, and one line about each other file.

    A model goes by its file's name, so that a copied file is another model and not the same one twice.
    """
    results: dict[str, Evaluation] = {}
    problems: list[str] = []
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}"), key=lambda path: (path.stat().st_mtime, path.name)):
        try:
            results[path.name.removesuffix(_SUFFIX)] = _read(path)
        except UserError as error:
            problems.append(str(error))
    return results, problems


def _read(path: Path) -> Evaluation:
    again = "Evaluate the model again."
    value = read_json_file(path, again)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version!r}, this program writes and reads {SCHEMA_VERSION}. {again}"
        )
    try:
        return Evaluation.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: `{key}`: {first['msg'][:1].lower()}{first['msg'][1:]}. {again}") from None
