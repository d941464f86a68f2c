"""One model through all measurements."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from langadapt import __version__
from langadapt.evaluation.likelihood import measure_likelihood
from langadapt.evaluation.prompts import choose_format, pick_examples
from langadapt.evaluation.results import Evaluation, Prediction, Translation
from langadapt.evaluation.test_sets import read_test_sets, read_translations
from langadapt.evaluation.translation import score_translation, translate
from langadapt.files import check_vouched
from langadapt.files.records import Record
from langadapt.models import find_model, load_model, load_tokenizer, pick_device, pick_dtype
from langadapt.recipe.evaluation import EvaluationSettings


def evaluate_model(settings: EvaluationSettings, way_out: str) -> tuple[Evaluation, list[Prediction]]:
    """Return every figure of the model that ``settings`` name, and every hypothesis.

    ``way_out`` is said of a file of stage 1 that is not there. Raises `UserError` for that, for a folder that is no
    model, and for settings that the model cannot meet.
    """
    assert settings.model_path is not None, "settings without a model only compare"
    assert settings.model_name is not None, "the settings give both or neither"
    start = time.monotonic()
    find_model(settings.model_path)
    test = read_test_sets(settings, way_out)
    device = pick_device(settings.device)
    tokenizer = load_tokenizer(settings.model_path)
    model = load_model(settings.model_path, pick_dtype(settings.dtype, device), device, settings.trust_remote_code)
    files, missing = dict(test.files), dict(test.missing)

    prompt_format = choose_format(tokenizer, model.generation_config, settings.prompt_format)
    examples: dict[str, list[Record]] = {}
    if prompt_format == "few_shot" and settings.num_fewshot:
        path = Path(settings.dataset_dir) / settings.fewshot_file
        examples = _examples(settings, tokenizer, read_translations(path, way_out), test.translations)
        files[str(path)] = check_vouched(path)
        for direction, found in examples.items():
            if len(found) < settings.num_fewshot:
                missing[f"translation.{direction}.prompt"] = (
                    f"{len(found)} of {settings.num_fewshot} examples: {path} has no more {direction} records of at "
                    f"most {settings.fewshot_max_tokens} tokens that share no text with the test set"
                )

    perplexity = None
    if test.texts:
        perplexity = measure_likelihood(
            model, tokenizer, test.texts, max_length=settings.max_length, token_budget=settings.token_budget
        )

    translation: dict[str, Translation | None] = {}
    predictions: list[Prediction] = []
    for direction, records in test.translations.items():
        translation[direction] = None
        if records:
            shown = examples.get(direction, [])
            hypotheses, prompt = translate(model, tokenizer, records, settings, prompt_format, shown)
            translation[direction] = score_translation(hypotheses, prompt)
            predictions += hypotheses

    evaluation = Evaluation(
        model_name=settings.model_name,
        model_path=settings.model_path,
        perplexity=perplexity,
        translation=translation,
        missing=missing,
        data=files,
        settings=settings.model_dump(mode="json"),
        dtype=str(model.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - start, 1),
        versions={
            "langadapt": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers", "sacrebleu")},
        },
    )
    return evaluation, predictions


def _examples(
    settings: EvaluationSettings,
    tokenizer: PreTrainedTokenizerBase,
    training: Mapping[str, Sequence[Record]],
    test: Mapping[str, Sequence[Record]],
) -> dict[str, list[Record]]:
    return {
        direction: pick_examples(
            tokenizer,
            training.get(direction, []),
            records,
            count=settings.num_fewshot,
            max_tokens=settings.fewshot_max_tokens,
            seed=settings.seed,
        )
        for direction, records in test.items()
        if records
    }
