"""Accuracy on a question set: by the likelihood of the choices, or by what the model writes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.choices.asking import PROMPT_VERSION, answer_to_write, choices_to_continue, pick_examples
from langadapt.evaluation.choices.continuing import Continuations, log_likelihoods
from langadapt.evaluation.choices.matching import match_answer, match_choice, normal_answer
from langadapt.evaluation.choices.reading import Question, read_questions
from langadapt.evaluation.results import Answer, Choices, Interval
from langadapt.evaluation.test_sets import sha256_of_items
from langadapt.inference.generation import generate_batched
from langadapt.models import beginning_ids, encode_text, stop_token_ids
from langadapt.models.likelihood import longest_sequence, prefix_token_id
from langadapt.recipe import Language, load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.test_sets import ChoiceSet
from langadapt.text import normalize

_MAX_NEW_TOKENS = 128  # room for a sentence around the answer, also in bytes of Tibetan
_Z = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class _Reply:
    """What a model made of one prompt; the fields of `Answer` that depend on it."""

    prompt: str
    chosen: str | None
    chosen_normalised: str | None = None
    log_likelihoods: list[float] = field(default_factory=list)
    written: str | None = None


def measure_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    choice_set: ChoiceSet,
    settings: EvaluationSettings,
) -> tuple[Choices, list[Answer]]:
    """Read a question set, ask a model every question, and return its accuracy and every answer, in the set's order.

    By likelihood, the choice with the highest one is taken: of its text (``accuracy``: acc of lm-evaluation-harness),
    or of its text divided by its bytes (``normalised``: acc_bytes). By generation, the choice that the written answer
    names; an answer that names none is wrong, and counted as ``unmatched``. Intervals are Wilson's: they hold at 0 and
    at 1 too, where every bootstrap resample would be the same.

    Raises `UserError` for a file that is not in its layout, and for a question that does not fit in the model's longest
    sequence even without examples.
    """
    questions, examples, left_out = read_choice_set(choice_set, settings)
    with_choices = bool(questions[0].choices)
    method: Literal["likelihood", "generation"] = "generation"
    if with_choices and choice_set.method != "generation":
        method = "likelihood"
    language = load_language(choice_set.language)
    reply_to = _by_likelihood if method == "likelihood" else _by_generation
    try:
        replies, shots = reply_to(model, tokenizer, questions, examples, language, settings)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    answers = [
        Answer(
            test_set=name,
            id=question.id,
            question="\n".join(filter(None, [question.passage, question.text])),
            choices=list(question.choices),
            right=question.right,
            chosen=reply.chosen,
            chosen_normalised=reply.chosen_normalised,
            log_likelihoods=reply.log_likelihoods,
            written=reply.written,
            prompt=reply.prompt,
        )
        for question, reply in zip(questions, replies, strict=True)
    ]

    n = len(questions)
    shown = [(subject, question) for subject, picked in examples.items() for question in picked]
    right = sum(map(_is_right, answers))
    normalised = sum(answer.chosen_normalised == answer.right for answer in answers)
    said = {
        "layout": choice_set.layout,
        "prompt": f"{PROMPT_VERSION} {language.question_label}/{language.answer_label}",
        "method": method,
        "shots": "-".join(map(str, sorted({min(shots), max(shots)}))),  # 1-3 where not all examples fitted
        "examples": sha256_of_items([[subject, *_content(q)] for subject, q in shown])[:8] if shown else None,
        "by_key": sum(question.by_key for question in questions) or None,
        "left_out": left_out or None,
    }
    result = Choices(
        test_set=name,
        language=choice_set.language,
        method=method,
        num_fewshot=choice_set.num_fewshot,
        n=n,
        accuracy=right / n,
        interval=wilson_interval(right, n),
        normalised=normalised / n if method == "likelihood" else None,
        normalised_interval=wilson_interval(normalised, n) if method == "likelihood" else None,
        chance=math.fsum(1 / len(question.choices) for question in questions) / n if with_choices else None,
        unmatched=sum(answer.chosen is None for answer in answers),
        items_sha256=sha256_of_items([_content(question) for question in questions]),
        signature="|".join(f"{key}:{value}" for key, value in said.items() if value is not None),
    )
    return result, answers


def read_choice_set(
    choice_set: ChoiceSet, settings: EvaluationSettings
) -> tuple[list[Question], dict[str, list[Question]], int]:
    """Return the questions to ask, the examples for each subject, and how many records hold no question.

    Raises `UserError` for a file that is not in its layout, for too few examples, and for choices to compare where the
    questions have none.
    """
    questions, left_out = read_questions(choice_set.file, choice_set)
    if settings.limit is not None and settings.limit < len(questions):
        drawn = sorted(random.Random(settings.seed).sample(range(len(questions)), settings.limit))
        questions = [questions[position] for position in drawn]
    if choice_set.method == "likelihood" and not questions[0].choices:
        raise UserError(f"{choice_set.file}: method=likelihood compares choices, and these questions have none.")
    examples: dict[str, list[Question]] = {}
    if choice_set.examples is not None and choice_set.num_fewshot:
        pool, _ = read_questions(choice_set.examples, choice_set)
        examples = pick_examples(pool, questions, choice_set.num_fewshot, settings.seed)
    return questions, examples, left_out


def accuracy_by_subject(answers: Iterable[Answer]) -> dict[str, tuple[float, int]]:
    """Return ``(accuracy, number of questions)`` by subject: what stands before the slash in an answer's id."""
    outcomes: dict[str, list[bool]] = {}
    for answer in answers:
        subject, slash, _ = answer.id.partition("/")
        outcomes.setdefault(subject if slash else "", []).append(_is_right(answer))
    return {subject: (sum(right) / len(right), len(right)) for subject, right in outcomes.items()}


def wilson_interval(successes: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval of a proportion (J. Am. Stat. Assoc. 22, 1927), as fractions of 1."""
    share, spread = successes / n, _Z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # Rounding must not leave a share of 0 or 1 outside.
    return Interval(low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def _by_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    examples: dict[str, list[Question]],
    language: Language,
    settings: EvaluationSettings,
) -> tuple[list[_Reply], list[int]]:
    """Return the reply to each question and how many examples it was shown."""
    prompts: list[str] = []
    items: list[Continuations] = []
    counted: list[list[str]] = []  # the texts by whose bytes the likelihoods are divided
    shots: list[int] = []
    window = longest_sequence(model)
    for question in questions:
        for shown in _fewer_and_fewer(examples.get(question.subject, [])):
            context, forms = choices_to_continue(question, shown, language)
            item = _encode(tokenizer, context, [joint + text for joint, text in forms])
            # The last token of a choice is only predicted, so it takes no place.
            if _fits(len(item.context) + max(map(len, item.choices)) - 1, window, shown, question):
                break
        prompts.append(context)
        items.append(item)
        counted.append([text for _, text in forms])
        shots.append(len(shown))

    values: list[list[float]] = [[]] * len(items)
    found = log_likelihoods(model, items, settings.token_budget)
    for index, likelihoods in tqdm(found, total=len(items), desc="choices", unit="question", disable=None):
        if not all(map(math.isfinite, likelihoods)):
            raise UserError(
                f"{model.name_or_path}: the likelihood of a choice is no number. Try dtype=float32; if it stays, the "
                "weights are broken."
            )
        values[index] = likelihoods
    replies = []
    for question, prompt, likelihoods, texts in zip(questions, prompts, values, counted, strict=True):
        per_byte = [value / len(text.encode()) for value, text in zip(likelihoods, texts, strict=True)]
        replies.append(
            _Reply(
                prompt,
                chosen=question.choices[_first_best(likelihoods)],
                chosen_normalised=question.choices[_first_best(per_byte)],
                log_likelihoods=likelihoods,
            )
        )
    return replies, shots


def _by_generation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    examples: dict[str, list[Question]],
    language: Language,
    settings: EvaluationSettings,
) -> tuple[list[_Reply], list[int]]:
    """Return the reply to each question and how many examples it was shown."""
    prompts: list[str] = []
    encoded: list[list[int]] = []
    shots: list[int] = []
    window = longest_sequence(model)
    for question in questions:
        for shown in _fewer_and_fewer(examples.get(question.subject, [])):
            prompt = answer_to_write(question, shown, language)
            ids = beginning_ids(tokenizer) + encode_text(tokenizer, prompt)
            if _fits(len(ids) + _MAX_NEW_TOKENS, window, shown, question):
                break
        prompts.append(prompt)
        encoded.append(ids)
        shots.append(len(shown))

    written = [""] * len(encoded)
    found = generate_batched(
        model,
        tokenizer,
        encoded,
        stop_ids=stop_token_ids(tokenizer, model.generation_config, chat=False),
        max_new_tokens=_MAX_NEW_TOKENS,
        token_budget=settings.token_budget,
        stop_text="\n",
        strict=settings.strict,
    )
    for index, generation in tqdm(found, total=len(encoded), desc="choices", unit="question", disable=None):
        written[index] = generation.text.strip()
    replies = []
    for question, prompt, text in zip(questions, prompts, written, strict=True):
        normal = normalize(text, language.normalization)  # as the choices are
        chosen = match_choice(normal, question.choices) if question.choices else match_answer(normal, question.right)
        replies.append(_Reply(prompt, chosen, written=text))
    return replies, shots


def _content(question: Question) -> list[Any]:
    """Return what of a question is asked, for a hash: its id and file may change."""
    return [question.passage, question.text, list(question.choices), question.right]


def _is_right(answer: Answer) -> bool:
    return answer.chosen == (answer.right if answer.choices else normal_answer(answer.right))


def _fewer_and_fewer(examples: Sequence[Question]) -> Iterator[Sequence[Question]]:
    return (examples[:count] for count in range(len(examples), -1, -1))


def _fits(tokens: int, window: int | None, shown: Sequence[Question], question: Question) -> bool:
    """Say whether a prompt fits; raise `UserError` where it does not, and there is no example left to drop."""
    if window is None or tokens <= window:
        return True
    if not shown:
        raise UserError(
            f"question {question.id!r} takes {tokens} tokens with its answer, but the model's longest sequence is "
            f"{window}. Take the question out for all models, or leave the set out for this one."
        )
    return False


def _encode(tokenizer: PreTrainedTokenizerBase, context: str, continuations: Sequence[str]) -> Continuations:
    """Return token ids; each choice is encoded with its context, as it would be read, and cut where that ends."""
    ids = encode_text(tokenizer, context) if context else []
    choices = [encode_text(tokenizer, context + text)[len(ids) :] for text in continuations]
    assert all(choices), "a choice that adds no token to its context"
    return Continuations((beginning_ids(tokenizer) + ids) or [prefix_token_id(tokenizer)], choices)


def _first_best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
