"""A model that answers, and a conversation with it that fits into its context."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Prompting:
    """How a model is asked, and where its answers end."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    chat: bool  # asked through its chat template; otherwise its prompt is plain text to continue
    stop_ids: list[int]
    context_length: int | None  # in tokens; None where the model states none


@dataclass(frozen=True)
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
    if context is not None and len(ids) >= context:
        raise UserError(
            f"the text takes {len(ids)} tokens, the context of {prompting.name} holds {context}. Shorten it."
        )


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not valid UTF-8. Convert it to UTF-8.") from None
