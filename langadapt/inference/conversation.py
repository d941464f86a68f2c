"""A model that answers, and a conversation with it that fits into its context."""

from __future__ import annotations

from dataclasses import dataclass, field

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.models import (
    ChatFormatError,
    Message,
    encode_prompt,
    encode_text,
    find_model,
    is_chat_model,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    stop_token_ids,
)
from langadapt.recipe.inference import InferenceSettings


@dataclass(frozen=True)
class Responder:
    """A model that is ready to answer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool  # asked through its chat template; otherwise its prompt is plain text to continue
    stop_ids: list[int]
    context_length: int | None  # in tokens; None where the model states none


@dataclass
class Conversation:
    """What was said so far: a system prompt, and pairs of a question and its answer."""

    system: str | None = None
    exchanges: list[tuple[str, str]] = field(default_factory=list)

    def messages(self, question: str, skip: int = 0) -> list[Message]:
        """Return the conversation, without its ``skip`` oldest exchanges, and a new question at its end."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in self.exchanges[skip:]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return [*messages, {"role": "user", "content": question}]


def open_responder(settings: InferenceSettings) -> Responder:
    """Load the model that the settings name.

    Raises `UserError` for a folder that is no model, a device that is not there, and a chat format that is asked for
    but cannot be had.
    """
    name = find_model(settings.model_path)
    device = pick_device(settings.device)
    tokenizer = load_tokenizer(name)
    model = load_model(name, pick_dtype(settings.dtype, device), device, settings.trust_remote_code)
    try:
        chat = settings.prompt_format == "chat" or (
            settings.prompt_format == "auto" and is_chat_model(tokenizer, model.generation_config)
        )
        stop_ids = stop_token_ids(tokenizer, model.generation_config, chat)
    except ChatFormatError as error:
        raise UserError(f"{name}: {error}. To prompt it with plain text set prompt_format=text.") from None
    if chat and not tokenizer.chat_template:
        raise UserError(f"{name}: prompt_format=chat, but its tokenizer has no chat template. Use prompt_format=text.")
    context_length = getattr(model.config, "max_position_embeddings", None)
    return Responder(name, model, tokenizer, chat, stop_ids, context_length)


def fit_prompt(
    responder: Responder, conversation: Conversation, question: str, max_new_tokens: int
) -> tuple[list[int], int]:
    """Return the prompt's token ids and how many of the oldest exchanges had to be left out.

    Exchanges are left out until ``max_new_tokens``, or a quarter of the context if that is less, remain for the
    answer. Raises `UserError` when the question alone fills the context, is empty, or is no valid text.
    """
    try:
        question.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not valid UTF-8. Convert it to UTF-8.") from None
    context = responder.context_length
    for skip in range(len(conversation.exchanges) + 1):
        ids = _encode(responder, conversation.messages(question, skip))
        if context is None or len(ids) + min(max_new_tokens, context // 4) <= context:
            break
    if context is not None and len(ids) >= context:
        raise UserError(
            f"the text takes {len(ids)} tokens, the context of {responder.name} holds {context}. Shorten it."
        )
    return ids, skip


def _encode(responder: Responder, messages: list[Message]) -> list[int]:
    tokenizer = responder.tokenizer
    if responder.chat:
        try:
            return encode_prompt(tokenizer, messages)
        except TemplateError as error:
            raise UserError(f"the chat template of {responder.name} refuses this conversation: {error}") from None
    # Some base models expect a token before every text, which their tokenizers add by themselves.
    prefix = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]
    ids = prefix + encode_text(tokenizer, messages[-1]["content"])
    if not ids:
        raise UserError("there is no text to continue. Type some.")
    return ids
