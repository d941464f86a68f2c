"""Translation of held-out records: generate every hypothesis, then score each direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.evaluation.likelihood import longest_sequence
from langadapt.evaluation.prompts import PromptFormat, ask
from langadapt.evaluation.results import Prediction, Prompt, Translation
from langadapt.evaluation.scores import bleu, chrf
from langadapt.evaluation.test_sets import direction_of, sha256_of_items
from langadapt.files.records import Record
from langadapt.inference.generation import generate_batched
from langadapt.models import stop_token_ids
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.text import normalize


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    settings: EvaluationSettings,
    prompt_format: PromptFormat,
    examples: Sequence[Record],
) -> tuple[list[Prediction], Prompt]:
    """Return one greedy hypothesis for each record of one direction, in their order, and how it was asked for."""
    questions = [
        ask(
            tokenizer,
            record,
            prompt_format,
            examples=examples,
            prompt_language=settings.prompt_language,
            length_ratio=settings.length_ratio,
            window=longest_sequence(model),
        )
        for record in records
    ]
    generations = generate_batched(
        model,
        tokenizer,
        [question.ids for question in questions],
        stop_ids=stop_token_ids(tokenizer, model.generation_config, chat=prompt_format == "chat"),
        max_new_tokens=[question.max_new_tokens for question in questions],
        token_budget=settings.token_budget,
        stop_text="\n" if prompt_format == "few_shot" else None,
    )
    direction = direction_of(records[0])
    predictions: dict[int, Prediction] = {}
    for index, generation in tqdm(generations, total=len(records), desc=direction, unit="record", disable=None):
        record = records[index]
        predictions[index] = Prediction(
            id=record["id"],
            direction=direction,
            source=record["source_text"],
            reference=record["output"],
            hypothesis=generation.text.strip(),
            prompt_format=prompt_format,
            stop_reason=generation.stop_reason,
            tokens=generation.token_count,
        )
    prompt = Prompt(
        format=prompt_format,
        examples=dict(Counter(question.examples for question in questions)),
        first=tokenizer.decode(questions[0].ids, clean_up_tokenization_spaces=False),
    )
    return [predictions[index] for index in range(len(records))], prompt


def score_translation(predictions: Sequence[Prediction], prompt: Prompt) -> Translation:
    """Return the scores of one direction; hypotheses and references are brought into the target's normal form."""
    target = load_language(predictions[0].direction.partition("-")[2])
    hypotheses = [normalize(prediction.hypothesis, target.normalization) for prediction in predictions]
    references = [normalize(prediction.reference, target.normalization) for prediction in predictions]
    return Translation(
        n=len(predictions),
        bleu=bleu(hypotheses, references, target.bleu_tokenizer),
        chrf=chrf(hypotheses, references),
        empty=sum(not hypothesis for hypothesis in hypotheses),
        cut_off=sum(prediction.stop_reason == "length" for prediction in predictions),
        prompt=prompt,
        items_sha256=sha256_of_items([[prediction.source, prediction.reference] for prediction in predictions]),
    )
