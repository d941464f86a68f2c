"""A model that answers, and a conversation with it that fits into its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.models import (
    ChatFormatError,
    Message,
    beginning_ids,
    encode_prompt,
    encode_text,
    is_chat_model,
    stop_token_ids,
)
from langadapt.models.likelihood import longest_sequence
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe import load_language
from langadapt.recipe.inference import InferenceSettings
from langadapt.text import normalize

Kind = Literal["chat", "plain text", "translator"]


@dataclass(frozen=True)
class Prompting:
    """How a model is asked, and where its answers end.

    An encoder-decoder model is a translator, and translates what it is given.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    chat: bool  # asked through its chat template; otherwise its prompt is plain text to continue
    stop_ids: list[int]
    context_length: int | None  # in tokens, a translator's on each side; None where the model states none
    translator: TranslationTokenizer | None = None  # what marks languages for `tokenizer`; None of a decoder model
    usual_direction: str | None = None  # of a translator, where nothing else is asked for

    @property
    def reader(self) -> PreTrainedTokenizerBase | TranslationTokenizer:
        """What turns the tokens that the model writes into text."""
        return self.translator or self.tokenizer

    @property
    def kind(self) -> Kind:
        """How the model is asked, in a word or two."""
        return "translator" if self.translator else "chat" if self.chat else "plain text"

    def limit(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """Return how many tokens an answer may take: ``max_new_tokens``, or what the context leaves for it."""
        if self.context_length is None:
            return max_new_tokens
        return min(max_new_tokens, self.context_length - (0 if self.translator else len(prompt)))

    def direction(self, asked: str | None) -> tuple[str, str]:
        """Return source and target of what a translator translates; raises `UserError` where that is not known."""
        direction = asked or self.usual_direction
        if direction is None:
            raise UserError(
                f"{self.name} translates between several languages. Say which: set direction to SRC-TGT, by language "
                "codes, e.g. en-bo."
            )
        source, _, target = direction.partition("-")
        return source, target


@dataclass(frozen=True, kw_only=True)
class Responder(Prompting):
    """A model that is ready to answer."""

    model: PreTrainedModel


@dataclass
class Conversation:
    """What was said so far: a system prompt, and pairs of a question and its answer."""

    system: str | None = None
    exchanges: list[tuple[str, str]] = field(default_factory=list)

    def messages(self, question: str | None = None, skip: int = 0) -> list[Message]:
        """Return the conversation, without its ``skip`` oldest exchanges, and a new question, if any, at its end."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in self.exchanges[skip:]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return messages if question is None else [*messages, {"role": "user", "content": question}]


def make_prompting(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig | None,
    prompt_format: Literal["auto", "chat", "text"],
    context_length: int | None,
) -> Prompting:
    """Return how a model is asked and where it stops.

    Raises `UserError` for a chat format that is asked for but cannot be had.
    """
    try:
        chat = prompt_format == "chat" or (prompt_format == "auto" and is_chat_model(tokenizer, generation_config))
        stop_ids = stop_token_ids(tokenizer, generation_config, chat)
    except ChatFormatError as error:
        raise UserError(f"{name}: {error}. To prompt it with plain text set prompt_format=text.") from None
    if chat and not tokenizer.chat_template:
        raise UserError(f"{name}: prompt_format=chat, but its tokenizer has no chat template. Use prompt_format=text.")
    return Prompting(name, tokenizer, chat, stop_ids, context_length)


def make_responder(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig | None,
    prompt_format: Literal["auto", "chat", "text"],
) -> Responder:
    """Return a loaded model with its `make_prompting`; raises what that raises."""
    prompting = make_prompting(name, tokenizer, generation_config, prompt_format, longest_sequence(model))
    return Responder(**vars(prompting), model=model)


def make_translator(
    name: str, model: PreTrainedModel, translator: TranslationTokenizer, direction: str | None
) -> Responder:
    """Return a loaded encoder-decoder model with the tokenizer that marks its languages, and its usual direction."""
    return Responder(
        name,
        translator.tokenizer,
        chat=False,
        stop_ids=[translator.end_id],
        context_length=longest_sequence(model),
        translator=translator,
        usual_direction=direction,
        model=model,
    )


def translation_request(prompting: Prompting, settings: InferenceSettings, source: str, target: str, text: str) -> str:
    """Return what a model is asked for a translation: of a translator the text alone, in its language's normal form."""
    text = normalize(text, load_language(source).normalization)
    if prompting.translator:
        return text
    template = settings.translation_templates.get(f"{source}-{target}", settings.translation_template)
    request = template.format(
        source=load_language(source).name_in(settings.prompt_language),
        target=load_language(target).name_in(settings.prompt_language),
        text=text,
    )
    return request if prompting.chat else request + "\n"  # the translation starts on a line of its own


def encode_source(prompting: Prompting, text: str, source: str, target: str) -> list[int]:
    """Return what the encoder of a translator reads. Raises `UserError` for a direction or a text that it cannot do."""
    assert prompting.translator is not None, "a decoder model has no encoder"
    _check_text(text)
    [ids] = prompting.translator.encode_source([text], source, target)
    require_room(prompting, ids)
    return ids


def fit_prompt(
    responder: Responder, conversation: Conversation, question: str, max_new_tokens: int
) -> tuple[list[int], int]:
    """Return the prompt's token ids and how many of the oldest exchanges had to be left out.

    Exchanges are left out until ``max_new_tokens``, or a quarter of the context if that is less, remain for the
    answer. Raises `UserError` when the question alone fills the context, is empty, or is no valid text.
    """
    context = responder.context_length
    for skip in range(len(conversation.exchanges) + 1):
        ids = encode_question(responder, conversation.messages(question, skip))
        if context is None or len(ids) + min(max_new_tokens, context // 4) <= context:
            break
    require_room(responder, ids)
    return ids, skip


def encode_question(prompting: Prompting, messages: list[Message]) -> list[int]:
    """Return the token ids of a conversation for a model; of its last message alone for one that continues text.

    Control tokens that stand in the messages are text. Raises `UserError` for what is empty, or no valid text, and for
    a conversation that the chat template refuses.
    """
    _check_text(messages[-1]["content"])
    tokenizer = prompting.tokenizer
    if prompting.chat:
        try:
            return encode_prompt(tokenizer, messages)
        except TemplateError as error:
            raise UserError(f"the chat template of {prompting.name} refuses this conversation: {error}") from None
    ids = beginning_ids(tokenizer) + encode_text(tokenizer, messages[-1]["content"])
    if not ids:
        raise UserError("there is no text to continue. Type some.")
    return ids


def encode_raw(responder: Responder, text: str) -> list[int]:
    """Return the token ids of a text without anything around it; control tokens in it are control tokens."""
    _check_text(text)
    ids: list[int] = responder.tokenizer(text, add_special_tokens=False)["input_ids"]
    require_room(responder, ids)
    return ids


def require_room(prompting: Prompting, ids: list[int]) -> None:
    """Raise `UserError` when a prompt leaves no room for an answer."""
    context = prompting.context_length
    least = 0 if prompting.translator else 1  # tokens of an answer, which a translator does not write here
    if context is not None and len(ids) + least > context:
        raise UserError(
            f"the text takes {len(ids)} tokens, the context of {prompting.name} holds {context}. Shorten it."
        )


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not valid UTF-8. Convert it to UTF-8.") from None
