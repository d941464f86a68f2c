"""A session: its models, its conversation, and what is asked of them. What is shown of it is `display.py` or `web`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from langadapt.inference.conversation import Conversation, Responder, encode_raw, fit_prompt
from langadapt.inference.lineup import Lineup
from langadapt.inference.streaming import Answer, stream_answer
from langadapt.recipe import load_language
from langadapt.recipe.inference import InferenceSettings
from langadapt.text import normalize

Emit = Callable[[str], None]  # takes each piece of an answer as it is settled


@dataclass(frozen=True)
class Reply:
    """What one model answered to one request."""

    model: str
    request: str  # as typed; of a translation the whole request, without a chat template
    answer: Answer
    chat: bool  # asked through the chat template; otherwise its text was continued
    context_length: int | None  # of the model, in tokens
    target: str | None = None  # language of a translation
    forgotten: int = 0  # oldest exchanges left out of the conversation, which had outgrown the context


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
    last_line: str | None = None  # the line that /retry repeats
    told: set[str] = field(default_factory=set)  # models of which it was said that they continue plain text

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

    What outgrew the context is forgotten, the oldest exchanges first.
    """
    responder, conversation = session.responder, session.conversation
    prompt, dropped = fit_prompt(responder, conversation, question, session.settings.max_new_tokens)
    del conversation.exchanges[:dropped]
    reply = _reply(session, responder, question, prompt, emit, forgotten=dropped)
    if responder.chat and reply.answer.text:
        conversation.exchanges.append((question, reply.answer.text))
    return reply


def ask_raw(session: Session, text: str, emit: Emit) -> Reply:
    """Return what the model writes after a text, with no template around it and its control tokens obeyed."""
    return _reply(session, session.responder, text, encode_raw(session.responder, text), emit)


def translate(session: Session, source: str, target: str, text: str, emit: Emit) -> Reply:
    """Return the model's translation of a text between two languages, given by code.

    It is asked apart from the conversation, as in training: earlier turns are not shown and it is not remembered.
    """
    settings, responder = session.settings, session.responder
    template = settings.translation_templates.get(f"{source}-{target}", settings.translation_template)
    request = template.format(
        source=load_language(source).name_in(settings.prompt_language),
        target=load_language(target).name_in(settings.prompt_language),
        text=normalize(text, load_language(source).normalization),
    )
    if not responder.chat:
        request += "\n"  # the translation starts on a line of its own
    return _reply(session, responder, request, _alone(session, responder, request), emit, target)


def compare(session: Session, text: str, emit: Callable[[str, str], None]) -> Iterator[Reply]:
    """Yield the reply of each model to a text, apart from the conversation, as it is finished.

    Loaded models are asked first, so that the fewest are loaded anew. ``emit`` takes the name of a model and a piece of
    its answer, the first piece empty: it is being asked, after it is loaded if need be. An answer that is stopped is
    the last. The session's replies are those of the models that were asked, in the order of the lineup.
    """
    found: dict[str, Reply] = {}
    session.replies = []
    for name in session.lineup.loaded_first():
        emit(name, "")
        found[name] = _compared(session, name, text, emit)
        session.replies = [found[name] for name in session.lineup.names if name in found]
        yield found[name]
        if found[name].answer.stop_reason == "interrupted":
            return


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
    responder = session.lineup.get(name)
    answer = _stream(session, responder, _alone(session, responder, text), lambda piece: emit(name, piece))
    return Reply(name, text, answer, responder.chat, responder.context_length)


def _reply(
    session: Session,
    responder: Responder,
    request: str,
    prompt: list[int],
    emit: Emit,
    target: str | None = None,
    forgotten: int = 0,
) -> Reply:
    answer = _stream(session, responder, prompt, emit)
    reply = Reply(responder.name, request, answer, responder.chat, responder.context_length, target, forgotten)
    session.replies = [reply]
    return reply


def _stream(session: Session, responder: Responder, prompt: list[int], emit: Emit) -> Answer:
    sampling = session.settings
    if responder.context_length is not None:
        room = responder.context_length - len(prompt)
        sampling = sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, room)})
    return stream_answer(
        responder.model,
        responder.tokenizer,
        prompt,
        stop_ids=responder.stop_ids,
        sampling=sampling,
        emit=emit,
        stop_requested=session.stop_requested,
    )
