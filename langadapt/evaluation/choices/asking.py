"""What a model is asked: the same plain text for every model, whether it was trained to chat or not.

The words before question and answer are the language profile's `question_label` and `answer_label`; nothing else is
added to what the set says. Examples are solved questions of the same form, a blank line between them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import regex

from langadapt.errors import UserError
from langadapt.evaluation.choices.reading import KEYS, Question
from langadapt.recipe import Language

PROMPT_VERSION = 1  # raised when a prompt changes, so that figures of two prompts do not stand side by side
_BLANK = regex.compile(r"_+")


def pick_examples(
    pool: Sequence[Question], scored: Sequence[Question], count: int, seed: int
) -> dict[str, list[Question]]:
    """Return ``count`` examples for each subject that is scored, of the same subject where the pool has it.

    An example has choices where the scored questions have, and is none of them. The same arguments give the same
    examples, whatever the model. Raises `UserError` where there are too few.
    """
    tested = {(question.passage, question.text, question.choices) for question in scored}
    unseen = [
        question
        for question in pool
        if (question.passage, question.text, question.choices) not in tested
        and bool(question.choices) == bool(scored[0].choices)
    ]
    examples = {}
    for subject in dict.fromkeys(question.subject for question in scored):
        own = [question for question in unseen if question.subject == subject] or unseen
        if len(own) < count:
            where = f" of the subject {subject}" if subject else ""
            raise UserError(f"num_fewshot={count}: `examples` holds {len(own)} questions{where} that are not scored.")
        examples[subject] = random.Random(seed).sample(own, count)
    return examples


def choices_to_continue(
    question: Question, examples: Sequence[Question], language: Language
) -> tuple[str, list[tuple[str, str]]]:
    """Return a context and, for each choice, ``(what joins it to the context, the text whose bytes are counted)``.

    A choice answers the question, fills its blank, or is itself the sentence::

        Асуулт: францын нийслэл юу вэ?                   context "...Хариулт:", then " " and "парис"
        Хариулт: парис

        энэ миний найз.                                  context "", then "" and the whole sentence

    A sentence with a blank is compared whole, as what follows the blank tells choices apart too (Trinh and Le 2018,
    arXiv 1806.02847). The context never ends in white space, which would be a token of its own.
    """
    context, _, _ = _likelihood_form(question, question.right, language)
    shown = "\n\n".join("".join(_likelihood_form(example, example.right, language)) for example in examples)
    forms = [_likelihood_form(question, choice, language)[1:] for choice in question.choices]
    if not shown:
        return context, forms
    if context:
        return f"{shown}\n\n{context}", forms
    return shown, [("\n\n", text) for _, text in forms]


def answer_to_write(question: Question, examples: Sequence[Question], language: Language) -> str:
    """Return a text that a model continues with the key of a choice, or with the answer where there are none::

        Асуулт: францын нийслэл юу вэ?
        A. марсель
        B. парис
        Хариулт:

    The answer ends with its line.
    """
    shown = [f"{_generation_form(example, language)} {_key_or_answer(example)}\n\n" for example in examples]
    return "".join(shown) + _generation_form(question, language)


def _likelihood_form(question: Question, answer: str, language: Language) -> tuple[str, str, str]:
    """Return what stands before an answer, what joins them, and the answer as it stands in the text."""
    if len(_BLANK.findall(question.text)) == 1 and not question.by_key:
        sentence = _BLANK.sub(lambda _: answer, question.text)
        return question.passage, "\n" if question.passage else "", sentence
    if not question.text:
        return question.passage, "\n" if question.passage else "", answer
    lines = [question.passage, f"{language.question_label}: {question.text}", f"{language.answer_label}:"]
    return "\n".join(filter(None, lines)), " ", answer


def _generation_form(question: Question, language: Language) -> str:
    lines = [question.passage, f"{language.question_label}: {question.text}" if question.text else ""]
    if not question.by_key:
        lines += [f"{key}. {choice}" for key, choice in zip(KEYS, question.choices, strict=False)]
    return "\n".join([*filter(None, lines), f"{language.answer_label}:"])


def _key_or_answer(question: Question) -> str:
    return KEYS[question.choices.index(question.right)] if question.choices else question.right
