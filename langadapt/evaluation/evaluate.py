"""One model through all measurements."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.evaluation.choices import measure_choices, read_choice_set
from langadapt.evaluation.generation.engine import (
    open_model,
    open_tokenizer,
    require_engine,
    transformers_engine,
    vllm_engine,
)
from langadapt.evaluation.generation.prompts import choose_prompts
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.evaluation.generation.translation import ask_all, open_predictions, translate
from langadapt.evaluation.likelihood import measure_likelihood
from langadapt.evaluation.results import (
    Answer,
    Choices,
    Document,
    Evaluation,
    Likelihood,
    Measured,
    Prediction,
    Translation,
    write_results,
)
from langadapt.evaluation.scores.adequacy import Adequacy, Comet, Labse
from langadapt.evaluation.scores.contamination import FoundItems, find_items
from langadapt.evaluation.scores.diagnostics import load_identifier
from langadapt.evaluation.scores.scoring import score_translation
from langadapt.evaluation.test_sets import TestSets, TranslationSet, read_test_sets, what_a_translator_can
from langadapt.files import check_vouched, require_file, sha256_of
from langadapt.metrics import make_metric
from langadapt.models import find_model
from langadapt.models.likelihood import longest_sequence
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.test_sets import ChoiceSet


def evaluate_model(settings: EvaluationSettings, way_out: str, ranks: Ranks) -> tuple[Evaluation, list[Path]]:
    """Measure the model that ``settings`` name, and return its figures and the files that the first process wrote.

    Of several processes each measures a part; only the first has the translations' scores. ``way_out`` is said of a
    file of stage 1 that is not there. Raises `UserError` for that, for a folder that is no model, and for settings that
    the model cannot meet.
    """
    assert settings.model_path is not None, "settings without a model only compare"
    assert settings.model_name is not None, "the settings give both or neither"
    start = time.monotonic()
    find_model(settings.model_path)
    require_engine(settings, ranks)
    test = read_test_sets(settings, way_out)
    missing = dict(test.missing)
    for each in test.translations:
        make_metric("bleu", load_language(each.direction.partition("-")[2]))  # refused here and not after an hour
    adequacy: list[Adequacy] = [
        *([Labse(settings.labse_model)] if settings.labse_model else []),
        *([Comet(settings.comet_model)] if settings.comet_model else []),
    ]
    identifier = load_identifier(settings.language_identifier) if settings.language_identifier else None
    training = [Path(settings.dataset_dir) / name for name in settings.training_files]
    files = test.files | {str(path): check_vouched(require_file(path, way_out)) for path in training}
    for choice_set in settings.choice_sets.values():
        read_choice_set(choice_set, settings)  # what is wrong with a file is said before a model is loaded
        files |= _hashes(choice_set)
    found = _look_for(test, training, settings.contamination_ngram) if training and ranks.rank == 0 else None

    tokenizer = open_tokenizer(settings)
    model = open_model(settings, ranks)
    if isinstance(tokenizer, TranslationTokenizer):
        test = what_a_translator_can(tokenizer, test, settings.choice_sets)
        missing |= test.missing
    dtype, device = str(model.dtype).removeprefix("torch."), model.device
    prompts = choose_prompts(tokenizer, model.generation_config, settings)
    for translation_set in test.translations:
        for prompt_format, shots in prompts:  # a record that does not fit is said before hours of measuring
            ask_all(tokenizer, longest_sequence(model), translation_set, prompt_format, shots, settings)
    likelihoods: list[Likelihood] = []
    documents: list[Document] = []
    choices: list[Choices] = []
    answers: list[Answer] = []
    if not isinstance(tokenizer, TranslationTokenizer):
        likelihoods, documents = _measure_texts(model, tokenizer, test, settings, ranks)
        choices, answers = _measure_questions(model, tokenizer, settings, ranks, missing)
    if settings.engine == "vllm" and not isinstance(tokenizer, TranslationTokenizer):  # which takes all of the GPU
        del model
        torch.cuda.empty_cache()
        engine = vllm_engine(tokenizer, settings)
    else:
        engine = transformers_engine(model, tokenizer, settings)

    translations: list[Translation] = []
    predictions: list[Prediction] = []
    with open_predictions(settings, engine, test.translations, ranks) as partial:
        for translation_set in test.translations:
            for prompt_format, shots in prompts:
                made, prompt = translate(engine, translation_set, prompt_format, shots, settings, partial)
                predictions += made
                where = f"translation.{translation_set.name}.{translation_set.direction}"
                if prompt.describe() != prompt.name:
                    missing[f"{where}.{prompt.name}"] = (
                        f"asked as {prompt.describe()}: no more examples, or no more room"
                    )
                if ranks.rank == 0:
                    translations.append(
                        score_translation(
                            made,
                            prompt,
                            resamples=settings.resamples,
                            contamination=found,
                            adequacy=_fitting(adequacy, translation_set, where, missing),
                            identifier=identifier,
                        )
                    )
    plan = engine.describe(ranks)

    evaluation = Evaluation(
        model_name=settings.model_name,
        model_path=settings.model_path,
        likelihoods=likelihoods,
        translations=translations,
        choices=choices,
        missing=missing,
        data=files,
        settings=settings.model_dump(mode="json"),
        plan=plan,
        dtype=dtype,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1),
        versions={
            "langadapt": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers", "sacrebleu")},
        },
    )
    paths = []
    if ranks.rank == 0:
        paths = write_results(settings.output_dir, Measured(evaluation, documents, predictions, answers))
    partial.remove()
    return evaluation, paths


def _look_for(test: TestSets, files: Sequence[Path], ngram: int) -> FoundItems:
    """Return which sources and references the training files hold."""
    texts = [
        record[side] for each in test.translations for record in each.records for side in ("source_text", "output")
    ]
    return find_items(texts, files, ngram)


def _measure_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    test: TestSets,
    settings: EvaluationSettings,
    ranks: Ranks,
) -> tuple[list[Likelihood], list[Document]]:
    """Return the likelihood of every set of texts, and of each text; of several processes each takes some sets."""
    mine = [
        measure_likelihood(
            model,
            tokenizer,
            texts,
            max_length=settings.max_length,
            stride=settings.stride,
            token_budget=settings.token_budget,
            resamples=settings.resamples,
        )
        for texts in test.texts[ranks.rank :: ranks.count]
    ]
    measured = ranks.gather(mine)
    return [likelihood for likelihood, _ in measured], [document for _, documents in measured for document in documents]


def _measure_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvaluationSettings,
    ranks: Ranks,
    missing: dict[str, str],
) -> tuple[list[Choices], list[Answer]]:
    """Return the accuracy on every set of questions, and each answer; of several processes each takes some sets.

    What cannot be asked of this model, such as a passage longer than it can take, goes into ``missing``.
    """
    mine: list[tuple[str, tuple[Choices, list[Answer]] | str]] = []
    for name in list(settings.choice_sets)[ranks.rank :: ranks.count]:
        try:
            mine.append((name, measure_choices(model, tokenizer, name, settings.choice_sets[name], settings)))
        except UserError as error:
            mine.append((name, str(error)))
    choices, answers = [], []
    for name, measured in ranks.gather(mine):
        if isinstance(measured, str):
            missing[f"choices.{name}"] = measured
        else:
            choices.append(measured[0])
            answers += measured[1]
    return choices, answers


def _hashes(choice_set: ChoiceSet) -> dict[str, str]:
    """Return the SHA-256 of every file of a set of questions and of its examples."""
    paths = [Path(path) for path in (choice_set.file, choice_set.examples) if path is not None]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {str(file): sha256_of(file) for file in files if file.is_file()}


def _fitting(adequacy: list[Adequacy], test: TranslationSet, where: str, missing: dict[str, Any]) -> list[Adequacy]:
    """Return the metrics of meaning that can score a direction; the others' reasons go into ``missing``."""
    refusals = {metric.name: metric.refusal(*test.direction.split("-")) for metric in adequacy}
    missing.update({f"{where}.{name}": reason for name, reason in refusals.items() if reason})
    return [metric for metric in adequacy if refusals[metric.name] is None]
