"""One session at the prompt: what a line means, be it a question or a command."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from langadapt.errors import UserError
from langadapt.inference.conversation import Conversation, Responder, fit_prompt
from langadapt.inference.output import write_answer, write_notice
from langadapt.inference.streaming import Answer, stream_answer
from langadapt.recipe import load_language, load_settings
from langadapt.recipe.inference import InferenceSettings, Sampling
from langadapt.text import normalize, units

COMMANDS = {
    "/help": "this list",
    "/system TEXT": "set the system prompt; without TEXT, remove it",
    "/clear": "forget the conversation",
    "/translate SRC TGT TEXT": "ask for a translation, apart from the conversation, e.g. /translate zh bo 你好",
    "/set KEY VALUE": f"change how it answers ({', '.join(Sampling.model_fields)}); without VALUE, show",
    "/stats": "speed and length of the last answer",
    "/exit": "end, as Ctrl-D does",
}


@dataclass
class Session:
    """Everything that lives as long as the prompt does."""

    responder: Responder
    settings: InferenceSettings
    stop_requested: Callable[[], bool] = lambda: False
    conversation: Conversation = field(default_factory=Conversation)
    last_answer: Answer | None = None


def start_session(responder: Responder, settings: InferenceSettings) -> Session:
    """Return a session with the settings' system prompt and seed; say so when the model is prompted as plain text."""
    session = Session(responder, settings, conversation=Conversation(settings.system))
    _seed(settings)
    if not responder.chat and settings.prompt_format == "auto":
        ignored = " The system prompt is not used." if settings.system else ""
        write_notice(
            f"{responder.name} was not trained to answer in turns: it continues each text as plain text.{ignored} "
            "(prompt_format=chat asks it through its chat template all the same.)"
        )
    return session


def handle(session: Session, line: str) -> bool:
    """Do what a line says; return False when it ends the session.

    A line that begins with a slash is a command, any other is a question. Raises `UserError` for a command that is
    unknown or lacks something, and for text that does not fit into the model's context.
    """
    if not line.startswith("/"):
        ask(session, line)
        return True
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    match name:
        case "/help":
            width = max(map(len, COMMANDS))
            for usage, meaning in COMMANDS.items():
                write_notice(f"{usage:{width}}  {meaning}")
        case "/system":
            _set_system(session, rest)
        case "/clear":
            session.conversation.exchanges.clear()
            write_notice("The conversation is forgotten.")
        case "/translate":
            _translate(session, rest)
        case "/set":
            _set(session, rest)
        case "/stats":
            write_notice(describe_answer(session))
        case "/exit":
            return False
        case _:
            near = difflib.get_close_matches(name, [usage.split()[0] for usage in COMMANDS], n=1)
            hint = f"Did you mean {near[0]}?" if near else "/help lists the commands."
            raise UserError(
                f"unknown command {name}. {hint} (A text that begins with a slash takes a space before it.)"
            )
    return True


def ask(session: Session, question: str) -> None:
    """Emit the model's answer to a question, and remember both if the model answers in turns."""
    dropped, answer = _answer(session, session.conversation, question)
    if dropped:
        del session.conversation.exchanges[:dropped]
    if session.responder.chat and answer.text:
        session.conversation.exchanges.append((question, answer.text))


def translate(session: Session, source: str, target: str, text: str) -> None:
    """Emit the model's translation of a text between two languages, given by code.

    It is asked apart from the conversation, as in training: earlier turns are not shown and it is not remembered.
    """
    settings = session.settings
    template = settings.translation_templates.get(f"{source}-{target}", settings.translation_template)
    request = template.format(
        source=_language_name(source, settings.prompt_language),
        target=_language_name(target, settings.prompt_language),
        text=normalize(text, load_language(source).normalization),
    )
    if not session.responder.chat:
        request += "\n"  # the translation starts on a line of its own
    _answer(session, Conversation(session.conversation.system), request)


def describe_answer(session: Session) -> str:
    """Return length, speed, end and context use of the last answer, in four lines."""
    answer = session.last_answer
    if answer is None:
        return "There is no answer yet."
    count = len(units(answer.text))
    reason = {
        "stop": "the model ended its answer",
        "length": "at the limit, of max_new_tokens or of the context",
        "interrupted": "by Ctrl-C",
    }[answer.stop_reason]
    context = session.responder.context_length
    return "\n".join(
        [
            f"answer       {answer.token_count} tokens, {count} syllables or words, in {answer.seconds:.2f} s: "
            f"{answer.token_count / answer.seconds:.1f} tokens/s, {count / answer.seconds:.1f} syllables/s",
            f"first token  after {answer.first_token_seconds:.2f} s",
            f"stopped      {reason}",
            f"context      {answer.prompt_tokens + answer.token_count} of {context or 'unknown'} tokens",
        ]
    )


def _answer(session: Session, conversation: Conversation, question: str) -> tuple[int, Answer]:
    """Emit an answer; return how many of the oldest exchanges had to be left out of its prompt, and the answer."""
    responder, sampling = session.responder, session.settings
    prompt, dropped = fit_prompt(responder, conversation, question, sampling.max_new_tokens)
    if dropped:
        write_notice(
            f"[the conversation outgrew the context of {responder.context_length} tokens; "
            f"questions and answers forgotten: the {dropped} oldest]"
        )
    if responder.context_length is not None:
        room = responder.context_length - len(prompt)
        sampling = sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, room)})
    answer = session.last_answer = stream_answer(
        responder.model,
        responder.tokenizer,
        prompt,
        stop_ids=responder.stop_ids,
        sampling=sampling,
        emit=write_answer,
        stop_requested=session.stop_requested,
    )
    write_answer("\n")
    if answer.stop_reason == "length" and responder.chat:
        write_notice(f"[cut after {answer.token_count} tokens; /set max_new_tokens N allows more]")
    return dropped, answer


def _set_system(session: Session, text: str) -> None:
    if not session.responder.chat:
        raise UserError(f"{session.responder.name} is prompted as plain text, which has no system prompt.")
    session.conversation.system = text or None
    write_notice("The system prompt is set." if text else "The system prompt is removed.")


def _translate(session: Session, arguments: str) -> None:
    parts = arguments.split(maxsplit=2)
    if len(parts) < 3:
        raise UserError("expected /translate SRC TGT TEXT, with language codes, e.g. /translate zh bo 你好")
    translate(session, *parts)


def _set(session: Session, arguments: str) -> None:
    key, _, value = arguments.partition(" ")
    if not key:
        for name in Sampling.model_fields:
            write_notice(f"{name} = {getattr(session.settings, name)}")
        return
    if not value.strip() and key in Sampling.model_fields:
        write_notice(f"{key} = {getattr(session.settings, key)}")
        return
    checked = load_settings(Sampling, None, [f"{key}={value.strip()}"])
    session.settings = session.settings.model_copy(update={key: getattr(checked, key)})
    if key == "seed":
        _seed(session.settings)
    write_notice(f"{key} = {getattr(checked, key)}")


def _seed(settings: InferenceSettings) -> None:
    if settings.seed is not None:
        torch.manual_seed(settings.seed)


def _language_name(code: str, prompt_language: str) -> str:
    """Return what the prompting language calls a language."""
    names = load_language(code).names
    if prompt_language not in names:
        raise UserError(
            f"prompt_language={prompt_language}: the profile of {code} has no name in it ({', '.join(sorted(names))}). "
            "Add one to its `names`, or choose another prompt_language."
        )
    return names[prompt_language]
