"""What an evaluation says, as value objects, and the files of a model that hold them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from langadapt.errors import UserError
from langadapt.files import read_json_file, read_jsonl, write_json, write_text

SCHEMA_VERSION = 2
_SUFFIX = "_evaluation.json"
_AGAIN = "Evaluate the model again."


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


Item = TypeVar("Item", bound=_Value)


class Interval(_Value):
    """A 95 % confidence interval, by bootstrap over documents or items."""

    low: FiniteFloat
    high: FiniteFloat


class Likelihood(_Value):
    """How well a model predicts held-out text of one language. Token perplexity compares within one tokenization."""

    test_set: str
    language: str
    bits_per_byte: FiniteFloat
    interval: Interval | None  # of bits per byte, over documents; None for a single one
    bits_per_character: FiniteFloat
    bits_per_unit: FiniteFloat
    unit: Literal["syllables", "characters", "words"]  # what the language's profile counts
    token_perplexity: FiniteFloat
    bytes: int
    characters: int
    units: int
    tokens: int
    documents: int
    max_length: int  # tokens a window
    stride: int  # tokens from one window to the next; max_length where they are disjoint
    items_sha256: str
    tokenization_sha256: str


class Document(_Value):
    """One document of a `Likelihood`: a line of ``<name>_documents.jsonl``."""

    test_set: str
    language: str
    id: str
    bits: FiniteFloat
    bytes: int
    characters: int
    units: int
    tokens: int


class Score(_Value):
    """A corpus metric with its interval.

    ``floors`` hold what no translation gets: ``shuffled`` (the same hypotheses against other items' references),
    ``copied_source`` and, where the set has one, ``neighbour`` (a neighbour language's texts as hypotheses).
    """

    score: FiniteFloat
    signature: str
    interval: Interval | None  # None for a single item
    floors: dict[str, FiniteFloat]


class Prompt(_Value):
    """How the model was asked: the format, the examples shown (per record), and the first prompt, letter for letter."""

    format: Literal["chat", "few_shot", "translation"]
    asked: int  # examples asked for, 0 but for few_shot
    examples: dict[int, int]  # number of examples -> records that got so many
    first: str

    @property
    def name(self) -> str:
        """``4-shot``, ``chat``, or ``translation`` of a translator: what was asked for, the same for all models."""
        return f"{self.asked}-shot" if self.format == "few_shot" else self.format

    def describe(self) -> str:
        """Say what was done in two words: as `name` does, but ``2-4-shot`` where not all examples fitted."""
        if self.format != "few_shot":
            return self.format
        fewest, most = min(self.examples), max(self.examples)
        return f"{most}-shot" if fewest == most else f"{fewest}-{most}-shot"


class Diagnostics(_Value):
    """What scores hide, in hypotheses of ``n``. ``length_ratio`` is hypothesis to reference, in the target's units."""

    empty: int
    cut_off: int  # stopped by the length limit, not by the model
    looping: int  # ends in a repeated passage
    copied: int  # the source, or most of it
    off_script: int  # mostly in another script than the target's
    off_language: int | None  # by a language identifier; None without one
    broken: int  # U+FFFD, lone surrogates, marks without a letter
    length_ratio: FiniteFloat | None


class Slice(_Value):
    """Scores of a part of the items: by ``length`` of the reference, or by ``source``."""

    by: Literal["length", "source"]
    name: str
    n: int
    scores: dict[str, FiniteFloat]


class Contamination(_Value):
    """Which test items the training files hold, by n-grams of units, and the scores of the others."""

    ngram: int
    threshold: FiniteFloat  # share of an item's n-grams that were found, from which it counts
    contaminated: int
    clean: int
    scores: dict[str, FiniteFloat]  # over the clean items; empty where none is


class Translation(_Value):
    """One direction of one test set under one prompt: ``n`` records, empty and cut-off hypotheses included.

    ``scores`` are ``bleu``, ``chrf`` and ``chrf++``, with ``comet`` and ``labse`` where their models are given.
    """

    test_set: str
    direction: str
    prompt: Prompt
    n: int
    scores: dict[str, Score]
    diagnostics: Diagnostics
    slices: list[Slice]
    contamination: Contamination | None
    items_sha256: str


class Choices(_Value):
    """Accuracy on a set of questions, with Wilson's intervals; ``normalised`` divides log-likelihoods by bytes."""

    test_set: str
    language: str
    method: Literal["likelihood", "generation"]
    num_fewshot: int
    n: int
    accuracy: FiniteFloat
    interval: Interval | None
    normalised: FiniteFloat | None  # None where choices are matched, not scored
    normalised_interval: Interval | None
    chance: FiniteFloat | None  # mean of one over the number of choices; None for answers without choices
    unmatched: int  # generation: nothing in the answer could be matched
    items_sha256: str
    signature: str


class Evaluation(_Value):
    """Everything measured on one model in one run. ``missing`` says what was not, or not as asked, and why."""

    schema_version: int = SCHEMA_VERSION
    model_name: str
    model_path: str
    likelihoods: list[Likelihood]
    translations: list[Translation]
    choices: list[Choices]
    missing: dict[str, str]
    data: dict[str, str]  # file -> SHA-256
    settings: dict[str, Any]
    plan: dict[str, Any]  # how it was generated: engine, beams, batches, strict
    dtype: str
    device: str
    finished: str  # ISO 8601, UTC
    seconds: FiniteFloat
    versions: dict[str, str]


class Prediction(_Value):
    """One hypothesis, as generated: a line of ``<name>_predictions.jsonl``."""

    test_set: str
    id: str
    direction: str
    prompt_name: str  # Prompt.name
    source: str
    reference: str
    hypothesis: str
    prompt: str  # letter for letter
    examples: int
    stop_reason: str
    tokens: int
    origin: str | None = None  # where the item is from, for scores by source
    neighbour: str | None = None  # the same item in a language of the same script


class Answer(_Value):
    """One question: a line of ``<name>_answers.jsonl``."""

    test_set: str
    id: str
    question: str
    choices: list[str]
    right: str  # the right choice, or the text to match
    chosen: str | None  # by plain likelihood, or what was matched
    chosen_normalised: str | None
    log_likelihoods: list[float]
    written: str | None  # what was generated
    prompt: str


@dataclass(frozen=True)
class Measured:
    """All that one run measured: the figures, and the items that they are of."""

    evaluation: Evaluation
    documents: list[Document]
    predictions: list[Prediction]
    answers: list[Answer]


def write_results(folder: str | Path, measured: Measured) -> list[Path]:
    """Write the files of a model, each atomically; return their paths.

    Figures of an earlier run go first and the new ones come last, so that a kill never leaves some of other items.
    """
    model = measured.evaluation.model_name
    result = Path(folder) / f"{model}{_SUFFIX}"
    result.unlink(missing_ok=True)
    items: dict[str, Sequence[BaseModel]] = {
        "documents": measured.documents,
        "predictions": measured.predictions,
        "answers": measured.answers,
    }
    paths = [write_items(folder, model, kind, values) for kind, values in items.items()]
    write_json(result, measured.evaluation.model_dump(mode="json"))
    return [result, *paths]


def write_items(folder: str | Path, model: str, kind: str, values: Sequence[BaseModel]) -> Path:
    """Write ``<model>_<kind>.jsonl``, one item a line; return its path."""
    path = Path(folder) / f"{model}_{kind}.jsonl"
    write_text(path, "".join(json.dumps(value.model_dump(), ensure_ascii=False) + "\n" for value in values))
    return path


def read_documents(folder: str | Path, model: str) -> list[Document]:
    """Return the documents of a model; raises `UserError` for a file that is not there or not whole."""
    return _read_items(Path(folder) / f"{model}_documents.jsonl", Document)


def read_predictions(folder: str | Path, model: str) -> list[Prediction]:
    """Return the hypotheses of a model; raises `UserError` for a file that is not there or not whole."""
    return _read_items(Path(folder) / f"{model}_predictions.jsonl", Prediction)


def read_answers(folder: str | Path, model: str) -> list[Answer]:
    """Return the answers of a model; raises `UserError` for a file that is not there or not whole."""
    return _read_items(Path(folder) / f"{model}_answers.jsonl", Answer)


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


def _read_items(path: Path, kind: type[Item]) -> list[Item]:
    items: list[Item] = []
    if path.is_file() and not path.stat().st_size:
        return items  # nothing of the kind was measured
    for number, record in read_jsonl(path, _AGAIN):
        try:
            items.append(kind.model_validate(record))
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {_first_problem(error)}. {_AGAIN}") from None
    return items


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"`{key}`: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _read(path: Path) -> Evaluation:
    value = read_json_file(path, _AGAIN)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version is {version!r}, this program writes and reads {SCHEMA_VERSION}. {_AGAIN}"
        )
    try:
        return Evaluation.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}. {_AGAIN}") from None
