"""A session: its models, its conversation, and what is asked of them. What is shown of it is `display.py` or `web`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from langadapt.errors import UserError
from langadapt.inference.conversation import (
    Conversation,
    Kind,
    Responder,
    encode_raw,
    encode_source,
    fit_prompt,
    translation_request,
)
from langadapt.inference.lineup import Lineup
from langadapt.inference.streaming import Answer, stream_answer
from langadapt.recipe.inference import InferenceSettings

Emit = Callable[[str], None]  # takes each piece of an answer as it is settled


@dataclass(frozen=True)
class Reply:
    """What one model answered to one request."""

    model: str
    request: str  # as typed; of a translation the whole request, without a chat template or marks of languages
    answer: Answer
    kind: Kind  # how the model was asked
    context_length: int | None  # in tokens, what prompt and answer share; a translator's share none
    direction: tuple[str, str] | None = None  # source and target of a translation
    forgotten: int = 0  # oldest exchanges left out of the conversation, which had outgrown the context

    @property
    def title(self) -> str:
        """The model's name, and what it does with a text where it is no chat model."""
        if self.kind == "translator" and self.direction:
            return f"{self.model} ({'-'.join(self.direction)})"
        return self.model if self.kind == "chat" else f"{self.model} (continues plain text)"


@dataclass
class Session:
    """Everything that lives as long as a conversation does."""

    lineup: Lineup
    settings: InferenceSettings
    model: str  # the name of the one that is talked to
    as_json: bool = False  # answers as one JSON object a line
    shows_figures: bool = False  # a line of figures after each answer
    stop_requested: Callable[[], bool] = lambda: False
    conversation: Conversation = field(default_factory=Conversation)
    replies: list[Reply] = field(default_factory=list)  # to the last request: of one model, or of all
    refusals: dict[str, str] = field(default_factory=dict)  # name -> why it could not be asked in the last comparison
    last_line: str | None = None  # the line that /retry repeats
    told: set[str] = field(default_factory=set)  # models of which it was said that they are no chat models

    @property
    def responder(self) -> Responder:
        """The model that is talked to, loaded if it is not."""
        return self.lineup.get(self.model)

    @property
    def last_answer(self) -> Answer | None:
        """The answer to the last request, of several the last; None before the first."""
        return self.replies[-1].answer if self.replies else None


def ask(session: Session, question: str, emit: Emit) -> Reply:
    """Return the model's reply to a question, and remember both if the model answers in turns.

    What outgrew the context is forgotten, the oldest exchanges first. A translator's reply is the translation.
    """
    responder, conversation = session.responder, session.conversation
    if responder.translator:
        return translate(session, *responder.direction(session.settings.direction), question, emit)
    prompt, dropped = fit_prompt(responder, conversation, question, session.settings.max_new_tokens)
    del conversation.exchanges[:dropped]
    reply = _reply(session, responder, question, prompt, emit, forgotten=dropped)
    session.replies = [reply]
    if responder.chat and reply.answer.text:
        conversation.exchanges.append((question, reply.answer.text))
    return reply


def ask_raw(session: Session, text: str, emit: Emit) -> Reply:
    """Return what the model writes after a text, with no template around it and its control tokens obeyed."""
    responder = session.responder
    if responder.translator:
        raise UserError(f"{session.model} is a translator, which continues no text. /translate SRC TGT TEXT asks it.")
    reply = _reply(session, responder, text, encode_raw(responder, text), emit)
    session.replies = [reply]
    return reply


def translate(session: Session, source: str, target: str, text: str, emit: Emit) -> Reply:
    """Return the model's translation of a text between two languages, given by code.

    It is asked apart from the conversation, as in training: earlier turns are not shown and it is not remembered.
    """
    reply = _translated(session, session.responder, (source, target), text, emit)
    session.replies = [reply]
    return reply


def compare(session: Session, text: str, emit: Callable[[str, str], None]) -> Iterator[Reply]:
    """Yield the reply of each model to a text, apart from the conversation, as it is finished.

    With a ``direction`` set all are asked for the translation; without, translators alone, in their usual one. Loaded
    models are asked first, so that the fewest are loaded anew. ``emit`` takes the name of a model and a piece of its
    answer, the first piece empty: it is being asked, after it is loaded if need be. An answer that is stopped is the
    last. The session's replies are those of the models that were asked, in the order of the lineup; its refusals say
    why translators were not. Raises `UserError` with the refusals when no model could be asked.
    """
    found: dict[str, Reply] = {}
    session.replies, session.refusals = [], {}
    for name in session.lineup.loaded_first():
        emit(name, "")
        if refusal := _refusal(session, name):
            session.refusals[name] = refusal
            continue
        found[name] = _compared(session, name, text, emit)
        session.replies = [found[name] for name in session.lineup.names if name in found]
        yield found[name]
        if found[name].answer.stop_reason == "interrupted":
            break
    if not found:
        raise UserError(" ".join(session.refusals.values()))


def as_record(reply: Reply) -> dict[str, str | int | float]:
    """Return a reply as it is written: what was asked and answered, lengths in tokens, times in seconds."""
    answer = reply.answer
    return {
        "model": reply.model,
        "prompt": reply.request,
        "answer": answer.text,
        "stop_reason": answer.stop_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.token_count,
        "seconds": round(answer.seconds, 4),
        "first_token_seconds": round(answer.first_token_seconds, 4),
    }


def seed(settings: InferenceSettings) -> None:
    """Start the random numbers of sampling anew, if the settings name a seed."""
    if settings.seed is not None:
        torch.manual_seed(settings.seed)


def _alone(session: Session, responder: Responder, request: str) -> list[int]:
    conversation = Conversation(session.conversation.system)
    return fit_prompt(responder, conversation, request, session.settings.max_new_tokens)[0]


def _compared(session: Session, name: str, text: str, emit: Callable[[str, str], None]) -> Reply:
    """Return the reply of one model; nothing is left here that would keep the model in memory."""
    responder, direction = session.lineup.get(name), session.settings.direction
    if responder.translator or direction:
        asked = responder.direction(direction)
        return _translated(session, responder, asked, text, lambda piece: emit(name, piece))
    return _reply(session, responder, text, _alone(session, responder, text), lambda piece: emit(name, piece))


def _refusal(session: Session, name: str) -> str | None:
    """Return why a translator cannot translate in the direction that is asked for; None where a model can."""
    responder = session.lineup.get(name)
    if responder.translator is None:
        return None
    try:
        responder.translator.check_direction(*responder.direction(session.settings.direction))
    except UserError as error:
        return str(error)
    return None


def _translated(session: Session, responder: Responder, direction: tuple[str, str], text: str, emit: Emit) -> Reply:
    request = translation_request(responder, session.settings, *direction, text)
    if responder.translator:
        prompt = encode_source(responder, request, *direction)
    else:
        prompt = _alone(session, responder, request)
    return _reply(session, responder, request, prompt, emit, direction)


def _reply(
    session: Session,
    responder: Responder,
    request: str,
    prompt: list[int],
    emit: Emit,
    direction: tuple[str, str] | None = None,
    forgotten: int = 0,
) -> Reply:
    translator, limit = responder.translator, responder.limit(prompt, session.settings.max_new_tokens)
    answer = stream_answer(
        responder.model,
        responder.reader,
        prompt,
        stop_ids=responder.stop_ids,
        sampling=session.settings.model_copy(update={"max_new_tokens": limit}),
        emit=emit,
        stop_requested=session.stop_requested,
        forced_bos_id=translator.forced_bos_id(direction[1]) if translator and direction else None,
    )
    shared = None if translator else responder.context_length
    return Reply(responder.name, request, answer, responder.kind, shared, direction, forgotten)
