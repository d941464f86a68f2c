"""One session at the prompt: its models, its conversation, and what is asked of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from langadapt.inference.columns import side_by_side
from langadapt.inference.conversation import Conversation, Responder, encode_raw, fit_prompt
from langadapt.inference.lineup import Lineup
from langadapt.inference.output import printable, terminal_width, write_answer, write_notice
from langadapt.inference.showing import figures
from langadapt.inference.streaming import Answer, stream_answer
from langadapt.recipe import load_language
from langadapt.recipe.inference import InferenceSettings
from langadapt.text import normalize


@dataclass(frozen=True)
class Reply:
    """What one model answered to one request."""

    model: str
    request: str  # as typed; of a translation the whole request, without a chat template
    answer: Answer
    context_length: int | None  # of the model, in tokens
    target: str | None = None  # language of a translation


@dataclass
class Session:
    """Everything that lives as long as the prompt does."""

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


def start_session(lineup: Lineup, settings: InferenceSettings, as_json: bool = False) -> Session:
    """Return a session with the settings' system prompt and seed, its first model loaded."""
    session = Session(lineup, settings, lineup.names[0], as_json, conversation=Conversation(settings.system))
    seed(settings)
    use(session, session.model)
    return session


def use(session: Session, name: str) -> None:
    """Talk to another model from now on; say so when it is prompted as plain text."""
    session.lineup.get(name)
    session.model = name
    if not session.responder.chat and session.settings.prompt_format == "auto" and name not in session.told:
        session.told.add(name)
        ignored = " The system prompt is not used." if session.conversation.system else ""
        write_notice(
            f"{name} was not trained to answer in turns: it continues each text as plain text.{ignored} "
            "(prompt_format=chat asks it through its chat template all the same.)"
        )


def ask(session: Session, question: str) -> None:
    """Emit the model's answer to a question, and remember both if the model answers in turns."""
    responder, sampling = session.responder, session.settings
    prompt, dropped = fit_prompt(responder, session.conversation, question, sampling.max_new_tokens)
    if dropped:
        write_notice(
            f"[the conversation outgrew the context of {responder.context_length} tokens; "
            f"questions and answers forgotten: the {dropped} oldest]"
        )
        del session.conversation.exchanges[:dropped]
    answer = _emit(session, responder, question, prompt)
    if responder.chat and answer.text:
        session.conversation.exchanges.append((question, answer.text))


def ask_raw(session: Session, text: str) -> None:
    """Emit what the model writes after a text, with no template around it and its control tokens obeyed."""
    _emit(session, session.responder, text, encode_raw(session.responder, text))


def translate(session: Session, source: str, target: str, text: str) -> None:
    """Emit the model's translation of a text between two languages, given by code.

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
    prompt = _alone(session, responder, request)
    _emit(session, responder, request, prompt, target)


def compare(session: Session, text: str) -> None:
    """Emit the answers of all models to a text, apart from the conversation: side by side where there is room.

    Loaded models are asked first, so that the fewest are loaded anew. Ctrl-C stops one answer and leaves out the
    models that have not been asked.
    """
    found: dict[str, Reply] = {}
    titles: dict[str, str] = {}
    for name in session.lineup.loaded_first():
        if session.shows_figures and len(session.lineup.names) > 1:
            write_notice(f"[{name} …]")
        titles[name], found[name] = _compared(session, name, text)
        if found[name].answer.stop_reason == "interrupted":
            break
    session.replies = [found[name] for name in session.lineup.names if name in found]
    if session.as_json:
        for reply in session.replies:
            write_answer(as_json(reply) + "\n")
        return
    width = terminal_width()
    if width is None:
        # One below the other, their lines left as they are.
        parts = [f"[{titles[reply.model]}]\n{reply.answer.text}" for reply in session.replies]
        write_answer("\n\n".join(parts) + "\n")
    else:
        columns = [(titles[reply.model], printable(reply.answer.text)) for reply in session.replies]
        write_answer("\n".join(side_by_side(columns, width)) + "\n")
    if session.shows_figures:
        for reply in session.replies:
            write_notice(f"{reply.model}: {figures(reply.answer)}")


def as_json(reply: Reply) -> str:
    """Return a reply as one line of JSON: what was asked and answered, lengths in tokens, times in seconds."""
    answer = reply.answer
    return json.dumps(
        {
            "model": reply.model,
            "prompt": reply.request,
            "answer": answer.text,
            "stop_reason": answer.stop_reason,
            "prompt_tokens": answer.prompt_tokens,
            "tokens": answer.token_count,
            "seconds": round(answer.seconds, 4),
            "first_token_seconds": round(answer.first_token_seconds, 4),
        },
        ensure_ascii=False,
    )


def seed(settings: InferenceSettings) -> None:
    """Start the random numbers of sampling anew, if the settings name a seed."""
    if settings.seed is not None:
        torch.manual_seed(settings.seed)


def _alone(session: Session, responder: Responder, request: str) -> list[int]:
    conversation = Conversation(session.conversation.system)
    return fit_prompt(responder, conversation, request, session.settings.max_new_tokens)[0]


def _compared(session: Session, name: str, text: str) -> tuple[str, Reply]:
    """Return a title and the reply of one model; nothing is left here that would keep the model in memory."""
    responder = session.lineup.get(name)
    answer = _stream(session, responder, _alone(session, responder, text), lambda piece: None)
    title = name if responder.chat else f"{name} (continues plain text)"
    return title, Reply(name, text, answer, responder.context_length)


def _emit(session: Session, responder: Responder, request: str, prompt: list[int], target: str | None = None) -> Answer:
    """Write an answer as the session's are written, and keep it as the last."""
    if session.as_json:
        answer = _stream(session, responder, prompt, lambda piece: None)
    else:
        answer = _stream(session, responder, prompt, write_answer)
        write_answer("\n")
    reply = Reply(responder.name, request, answer, responder.context_length, target)
    session.replies = [reply]
    if session.as_json:
        write_answer(as_json(reply) + "\n")
    if session.shows_figures:
        write_notice(f"[{figures(answer)}]")
    elif answer.stop_reason == "length" and responder.chat and not session.as_json:
        write_notice(f"[cut after {answer.token_count} tokens; /set max_new_tokens N allows more]")
    return answer


def _stream(session: Session, responder: Responder, prompt: list[int], emit: Callable[[str], None]) -> Answer:
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
