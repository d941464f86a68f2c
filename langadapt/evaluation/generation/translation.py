"""Translation of held-out records: every hypothesis is written down as it is generated, and none is made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from langadapt import __version__
from langadapt.evaluation.generation.engine import Engine
from langadapt.evaluation.generation.prompts import PromptFormat, Question, ask, ask_translator, pick_examples
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.evaluation.results import Prediction, Prompt
from langadapt.evaluation.test_sets import TranslationSet, sha256_of_items
from langadapt.files.partial import PartialFile
from langadapt.files.records import Record
from langadapt.inference.generation import Generation
from langadapt.inference.resuming import generate_missing, model_files
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.evaluation import EvaluationSettings


def open_predictions(
    settings: EvaluationSettings, engine: Engine, tests: Sequence[TranslationSet], ranks: Ranks
) -> PartialFile:
    """Return the file ``<name>_predictions.partial.jsonl`` in ``output_dir``, with what an earlier run left in it.

    What it holds counts only for the same model, test sets and settings that a hypothesis depends on.
    """
    assert settings.model_path is not None, "settings without a model only compare"
    fingerprint: dict[str, Any] = {
        "langadapt": __version__,
        "model": {settings.model_path: model_files(settings.model_path)},
        "test_sets": {f"{test.name} {test.direction}": _sha256(test) for test in tests},
        **{key: engine.plan[key] for key in ("engine", "dtype", "num_beams", "strict")},
        **{
            key: getattr(settings, key)
            for key in ("prompt_language", "fewshot_max_units", "seed", "length_ratio", "language_tokens")
        },
    }
    path = Path(settings.output_dir) / f"{settings.model_name}_predictions.partial.jsonl"
    return PartialFile(path, fingerprint, ranks)


def translate(
    engine: Engine,
    test: TranslationSet,
    prompt_format: PromptFormat,
    shots: int,
    settings: EvaluationSettings,
    predictions: PartialFile,
) -> tuple[list[Prediction], Prompt]:
    """Return one hypothesis for each record of a test set, in their order, and how it was asked for.

    Only what ``predictions`` does not hold yet is generated. Of several processes each takes its share, and all return
    everything. Raises `UserError` as `ask_all` does.
    """
    questions = ask_all(engine.tokenizer, engine.window, test, prompt_format, shots, settings)
    generate, stop_ids = engine.generate, engine.stop_ids(chat=prompt_format == "chat")
    if isinstance(engine.tokenizer, TranslationTokenizer):
        begun = engine.tokenizer.forced_bos_id(test.direction.partition("-")[2])
        generate = partial(generate, forced_bos_id=begun)
    prompt = Prompt(
        format=prompt_format,
        asked=shots,
        examples=dict(Counter(question.examples for question in questions)),
        first=questions[0].text,
    )
    title = f"{test.name} {test.direction} {prompt.name}"
    values = generate_missing(
        generate,
        predictions,
        [f"{title} {place}" for place in range(len(questions))],
        [question.ids for question in questions],
        [question.max_new_tokens for question in questions],
        lambda place, answer: _prediction(test, prompt, test.records[place], questions[place], answer).model_dump(),
        stop_ids=stop_ids,
        stop_text="\n" if prompt_format == "few_shot" else None,
        title=title,
        counts=engine.counts,
    )
    return [Prediction.model_validate(value) for value in values], prompt


def ask_all(
    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer,
    window: int | None,
    test: TranslationSet,
    prompt_format: PromptFormat,
    shots: int,
    settings: EvaluationSettings,
) -> list[Question]:
    """Return the question for each record of a test set.

    Raises `UserError` for a record that does not fit into ``window``, the model's longest sequence.
    """
    if isinstance(tokenizer, TranslationTokenizer):
        return [
            ask_translator(tokenizer, record, length_ratio=settings.length_ratio, window=window)
            for record in test.records
        ]
    shown = pick_examples(test.examples, count=shots, max_units=settings.fewshot_max_units, seed=settings.seed)
    return [
        ask(
            tokenizer,
            record,
            prompt_format,
            examples=shown,
            prompt_language=settings.prompt_language,
            length_ratio=settings.length_ratio,
            window=window,
        )
        for record in test.records
    ]


def _prediction(
    test: TranslationSet, prompt: Prompt, record: Record, question: Question, generation: Generation
) -> Prediction:
    return Prediction(
        test_set=test.name,
        id=record["id"],
        direction=test.direction,
        prompt_name=prompt.name,
        source=record["source_text"],
        reference=record["output"],
        hypothesis=generation.text.strip(),
        prompt=question.text,
        examples=question.examples,
        stop_reason=generation.stop_reason,
        tokens=len(generation.ids),
        origin=record.get("source"),
        neighbour=record.get("neighbour"),
    )


def _sha256(test: TranslationSet) -> str:
    """Return a hash of the records in their order, by which they are told apart, and of what examples come from."""
    return sha256_of_items([[place, record] for place, record in enumerate([*test.records, *test.examples])])
