"""What a model is asked: its own chat format, or a few translations to continue for a model that has none."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import GenerationConfig, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files.records import Record
from langadapt.models import encode_prompt, encode_text, encode_texts, is_chat_model, user_turn
from langadapt.recipe import load_language

PromptFormat = Literal["chat", "few_shot"]
_POOL = 1000  # training pairs looked at for the examples of a direction
_EXTRA_TOKENS = 16  # room beyond the length ratio, for short references


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, how many examples it shows, and how many tokens the answer may take."""

    ids: list[int]
    examples: int
    max_new_tokens: int


def choose_format(
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig | None,
    wanted: Literal["auto", "chat", "few_shot"],
) -> PromptFormat:
    """Return the prompt format of a model; raise `UserError` for a chat prompt without a chat template."""
    if wanted == "auto":
        return "chat" if is_chat_model(tokenizer, generation) else "few_shot"
    if wanted == "chat" and not tokenizer.chat_template:
        raise UserError(f"prompt_format=chat: {tokenizer.name_or_path} has no chat template. Use few_shot.")
    return wanted


def pick_examples(
    tokenizer: PreTrainedTokenizerBase,
    training: Sequence[Record],
    test: Sequence[Record],
    *,
    count: int,
    max_tokens: int,
    seed: int,
) -> list[Record]:
    """Return up to ``count`` training records of one direction, of about median length among the short ones.

    Short means at most ``max_tokens`` tokens, source and translation together. A record that shares its source or its
    translation with a test record is never taken. The same arguments give the same examples.
    """
    tested = {text for record in test for text in (record["source_text"], record["output"])}
    unseen = [record for record in training if not tested & {record["source_text"], record["output"]}]
    if not unseen:
        return []
    pool = random.Random(seed).sample(unseen, min(_POOL, len(unseen)))
    sources, targets = (encode_texts(tokenizer, [record[key] for record in pool]) for key in ("source_text", "output"))
    lengths = [len(source) + len(target) for source, target in zip(sources, targets, strict=True)]
    short = [(length, record) for length, record in zip(lengths, pool, strict=True) if length <= max_tokens]
    if not short:
        return []
    median = statistics.median(length for length, _ in short)
    return [record for _, record in sorted(short, key=lambda pair: abs(pair[0] - median))[:count]]


def ask(
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
    prompt_format: PromptFormat,
    *,
    examples: Sequence[Record],
    prompt_language: str,
    length_ratio: float,
    window: int | None,
) -> Question:
    """Return the question for one test record.

    The answer may take ``length_ratio`` times the reference's tokens and a few more. Where prompt and answer do not fit
    in ``window``, the model's longest sequence, examples are dropped from the end, then the answer is kept shorter.
    Raises `UserError` for a record that leaves no room for its own reference: a perfect translation is never cut.
    """
    reference = len(encode_text(tokenizer, record["output"]))
    wanted = math.ceil(length_ratio * reference) + _EXTRA_TOKENS
    shown = list(examples) if prompt_format == "few_shot" else []
    while True:
        if prompt_format == "chat":
            ids = encode_prompt(tokenizer, [{"role": "user", "content": user_turn(record)}])
        else:
            ids = _beginning(tokenizer) + encode_text(tokenizer, few_shot_text(record, shown, prompt_language))
        room = wanted if window is None else min(wanted, window - len(ids))
        if room == wanted or not shown:
            break
        shown.pop()
    if room <= reference:
        raise UserError(
            f"the test record {record['id']} takes {len(ids)} tokens and {reference} for its reference, but the "
            f"model's longest sequence is {window}. Use a translation_file with a smaller cutoff."
        )
    return Question(ids, len(shown), room)


def few_shot_text(record: Record, examples: Sequence[Record], prompt_language: str) -> str:
    """Return a text that a language model continues with the translation, which ends at the line's end::

    中文: 西藏
    藏文: བོད།

    中文: 你好
    藏文:
    """
    source, target = (_name(record[key], prompt_language) for key in ("source_lang", "target_lang"))
    parts = [
        f"{source}: {_one_line(example['source_text'])}\n{target}: {_one_line(example['output'])}\n\n"
        for example in examples
    ]
    return "".join(parts) + f"{source}: {_one_line(record['source_text'])}\n{target}:"


def _name(language: str, prompt_language: str) -> str:
    names = load_language(language).names
    if prompt_language not in names:
        raise UserError(
            f"configs/languages/{language}.yaml: `names` has none for prompt_language={prompt_language}. Add it, "
            f"or choose one of {', '.join(names)}."
        )
    return names[prompt_language]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the beginning-of-sequence token where the tokenizer puts one before every text (Llama), else nothing."""
    beginning = tokenizer.bos_token_id
    return [beginning] if beginning is not None and beginning in tokenizer("")["input_ids"] else []
