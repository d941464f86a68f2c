"""What a model is asked: its own chat format, or a few translations to continue, the same for every model."""

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
from langadapt.models import beginning_ids, encode_prompt, encode_text, is_chat_model, user_turn
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.text import units

PromptFormat = Literal["chat", "few_shot", "translation"]
_POOL = 1000  # pairs looked at for the examples of a direction
_EXTRA_TOKENS = 16  # room beyond the length ratio, for short references


@dataclass(frozen=True)
class Question:
    """A prompt as text and as token ids, how many examples it shows, and how many tokens the answer may take."""

    text: str
    ids: list[int]
    examples: int
    max_new_tokens: int


def choose_prompts(
    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer,
    generation: GenerationConfig | None,
    settings: EvaluationSettings,
) -> list[tuple[PromptFormat, int]]:
    """Return the prompts that a model is asked with: a format, and the number of examples.

    The few-shot prompts are the same for all decoder models; a chat model is asked through its template as well, unless
    ``prompt_format`` says which. A translator has one way to be asked. Raises `UserError` for a chat prompt without a
    chat template.
    """
    if isinstance(tokenizer, TranslationTokenizer):
        return [("translation", 0)]
    shared: list[tuple[PromptFormat, int]] = [("few_shot", shots) for shots in settings.shots]
    if settings.prompt_format == "few_shot":
        return shared
    if settings.prompt_format == "auto":
        return [*shared, ("chat", 0)] if is_chat_model(tokenizer, generation) else shared
    if not tokenizer.chat_template:
        raise UserError(f"prompt_format=chat: {tokenizer.name_or_path} has no chat template. Use few_shot.")
    return [("chat", 0)]


def pick_examples(pool: Sequence[Record], *, count: int, max_units: int, seed: int) -> list[Record]:
    """Return up to ``count`` records of one direction, of about median length among the short ones.

    Short means at most ``max_units`` syllables, characters or words, source and translation together, so that the
    choice does not hang on a tokenizer. The same arguments give the same examples, and fewer are the first of more.
    """
    drawn = random.Random(seed).sample(pool, min(_POOL, len(pool)))
    lengths = [len(units(record["source_text"])) + len(units(record["output"])) for record in drawn]
    short = [(length, record) for length, record in zip(lengths, drawn, strict=True) if length <= max_units]
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
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        else:
            text = few_shot_text(record, shown, prompt_language)
            ids = beginning_ids(tokenizer) + encode_text(tokenizer, text)
        room = wanted if window is None else min(wanted, window - len(ids))
        if room == wanted or not shown:
            break
        shown.pop()
    if room <= reference:
        raise UserError(
            f"the test record {record['id']} takes {len(ids)} tokens and {reference} for its reference, but the "
            f"model's longest sequence is {window}. Leave it out of the test set, or use one with a smaller cutoff."
        )
    return Question(text, ids, len(shown), room)


def ask_translator(
    tokenizer: TranslationTokenizer, record: Record, *, length_ratio: float, window: int | None
) -> Question:
    """Return the question for one test record: what the encoder reads, and where it is marked the target language.

    The translation may take as many tokens as `ask` allows. Source and translation have ``window`` tokens each. Raises
    `UserError` for a record whose source or reference is longer: nothing is cut short.
    """
    source, target = record["source_lang"], record["target_lang"]
    [ids] = tokenizer.encode_source([record["source_text"]], source, target)
    [reference] = tokenizer.encode_target([record["output"]], target)
    longest = max(len(ids), len(reference))
    if window is not None and longest > window:
        raise UserError(
            f"the test record {record['id']} takes {len(ids)} tokens and {len(reference)} for its reference, but the "
            f"model's longest sequence is {window} on either side. Leave it out of the test set, or use one with a "
            "smaller cutoff."
        )
    text = tokenizer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if (begun := tokenizer.forced_bos_id(target)) is not None:
        text += f" → {tokenizer.tokenizer.convert_ids_to_tokens(begun)}"
    wanted = math.ceil(length_ratio * len(reference)) + _EXTRA_TOKENS
    return Question(text, ids, 0, wanted if window is None else min(wanted, window))


def few_shot_text(record: Record, examples: Sequence[Record], prompt_language: str) -> str:
    """Return a text that a language model continues with the translation, which ends at the line's end::

    中文: 西藏
    藏文: བོད།

    中文: 你好
    藏文:
    """
    source, target = (load_language(record[key]).name_in(prompt_language) for key in ("source_lang", "target_lang"))
    parts = [
        f"{source}: {_one_line(example['source_text'])}\n{target}: {_one_line(example['output'])}\n\n"
        for example in examples
    ]
    return "".join(parts) + f"{source}: {_one_line(record['source_text'])}\n{target}:"


def _one_line(text: str) -> str:
    return " ".join(text.split())
