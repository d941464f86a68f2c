"""What a line at the prompt means: a command, which begins with a slash, or a question."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from langadapt.errors import UserError
from langadapt.inference.conversation import encode_question, encode_source
from langadapt.inference.display import show_answer, show_comparison, use
from langadapt.inference.output import write_notice
from langadapt.inference.session import Session, ask, ask_raw, seed, translate
from langadapt.inference.showing import describe_answer, describe_likelihood, describe_likeness, describe_tokens
from langadapt.inference.transcript import load_conversation, save_conversation
from langadapt.recipe import load_settings
from langadapt.recipe.inference import Sampling

NOTHING_YET = "There is no answer yet."


@dataclass(frozen=True)
class Command:
    """A command: what follows its name, what it does, and the function that does it with the text that follows."""

    arguments: str
    meaning: str
    run: Callable[[Session, str], None]
    repeated: bool = False  # by /retry
    verbatim: bool = False  # the spaces and line breaks around the text are part of it


def handle(session: Session, line: str) -> bool:
    """Do what a line says; return False when it ends the session.

    Raises `UserError` for a command that is unknown or lacks something, and for text that does not fit into the
    model's context.
    """
    if not line.startswith("/"):
        show_answer(session, ask, line)
        session.last_line = line
        return True
    name, _, rest = line.partition(" ")
    if name == "/exit":
        return False
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "/help lists the commands."
        raise UserError(f"unknown command {name}. {hint} (A text that begins with a slash takes a space before it.)")
    if command.arguments and not command.arguments.startswith("[") and not rest.strip():
        raise UserError(f"expected {name} {command.arguments}")
    command.run(session, rest if command.verbatim else rest.strip())
    if command.repeated:
        session.last_line = line
    return True


def _help(session: Session, rest: str) -> None:
    usages = {f"{name} {command.arguments}".strip(): command.meaning for name, command in COMMANDS.items()}
    width = max(map(len, usages))
    for usage, meaning in usages.items():
        write_notice(f"{usage:{width}}  {meaning}")


def _models(session: Session, rest: str) -> None:
    width = max(map(len, session.lineup.names))
    for name in session.lineup.names:
        mark = "*" if name == session.model else " "
        state = "loaded" if session.lineup.is_loaded(name) else "not loaded"
        write_notice(f"{mark} {name:{width}}  {state:10}  {session.lineup.path(name)}")


def _use(session: Session, name: str) -> None:
    if name not in session.lineup.names:
        raise UserError(f"no model {name!r} here. There are: {', '.join(session.lineup.names)}.")
    use(session, name)
    write_notice(f"{name} answers now; the conversation stays.")


def _system(session: Session, text: str) -> None:
    if not session.responder.chat:
        what = "a translator" if session.responder.translator else "prompted as plain text"
        raise UserError(f"{session.model} is {what}, which has no system prompt.")
    session.conversation.system = text or None
    write_notice("The system prompt is set." if text else "The system prompt is removed.")


def _clear(session: Session, rest: str) -> None:
    session.conversation.exchanges.clear()
    write_notice("The conversation is forgotten.")


def _undo(session: Session, rest: str) -> None:
    if not session.conversation.exchanges:
        raise UserError("there is no question to take back.")
    question, _ = session.conversation.exchanges.pop()
    write_notice(f"Taken back, with its answer: {question}")


def _retry(session: Session, rest: str) -> None:
    line, exchanges = session.last_line, session.conversation.exchanges
    if line is None:
        raise UserError("there is nothing to repeat yet.")
    taken_back = exchanges.pop() if exchanges and exchanges[-1][0] == line else None
    try:
        handle(session, line)
    except UserError:
        if taken_back:
            exchanges.append(taken_back)
        raise


def _set(session: Session, arguments: str) -> None:
    key, _, value = arguments.partition(" ")
    if not value.strip() and (not key or key in Sampling.model_fields):
        for name in [key] if key else Sampling.model_fields:
            write_notice(f"{name} = {getattr(session.settings, name)}")
        return
    checked = load_settings(Sampling, None, [f"{key}={value.strip()}"])
    session.settings = session.settings.model_copy(update={key: getattr(checked, key)})
    if key == "seed":
        seed(session.settings)
    write_notice(f"{key} = {getattr(checked, key)}")


def _show(session: Session, rest: str) -> None:
    settings = ", ".join(f"{key} {getattr(session.settings, key)}" for key in Sampling.model_fields)
    write_notice(f"model: {session.model} ({session.lineup.path(session.model)})\nsettings: {settings}")
    for message in session.conversation.messages():
        write_notice(f"{message['role']}: {message['content']}")


def _save(session: Session, path: str) -> None:
    file = Path(path).expanduser()
    save_conversation(file, session.conversation, session.settings, session.lineup.path(session.model))
    write_notice(f"written: {file}")


def _load(session: Session, path: str) -> None:
    session.conversation, sampling, model = load_conversation(Path(path).expanduser())
    session.settings = session.settings.model_copy(update=dict(sampling))
    count = len(session.conversation.exchanges)
    other = model is not None and model != session.lineup.path(session.model)
    origin = f" The answers are of {model}; {session.model} goes on." if other else ""
    write_notice(f"{count} questions and answers, and the settings they were sampled with.{origin}")


def _template(session: Session, text: str) -> None:
    responder = session.responder
    how = "its chat template" if responder.chat else "plain text"
    if responder.translator:
        source, target = responder.direction(session.settings.direction)
        ids = encode_source(responder, text or "…", source, target)
        begun = responder.translator.forced_bos_id(target)
        how = f"what the encoder reads, {source}-{target}"
        how += "" if begun is None else f"; the decoder begins with {responder.tokenizer.convert_ids_to_tokens(begun)}"
    else:
        ids = encode_question(responder, session.conversation.messages(text or "…"))
    write_notice(responder.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    write_notice(f"[{len(ids)} tokens, by {how}]")


def _tokens(session: Session, text: str) -> None:
    write_notice(describe_tokens(session.responder, text))


def _ppl(session: Session, text: str) -> None:
    for name in session.lineup.loaded_first():
        if session.stop_requested():
            return
        write_notice(f"{name}: {describe_likelihood(session.lineup.get(name), text)}")


def _raw(session: Session, text: str) -> None:
    show_answer(session, ask_raw, text)


def _translate(session: Session, arguments: str) -> None:
    parts = arguments.split(maxsplit=2)
    if len(parts) < 3:
        raise UserError("expected /translate SRC TGT TEXT, with language codes, e.g. /translate zh bo 你好")
    show_answer(session, translate, *parts)


def _ref(session: Session, reference: str) -> None:
    if not session.replies:
        raise UserError(NOTHING_YET)
    for reply in session.replies:
        target = reply.direction[1] if reply.direction else None
        write_notice(f"{reply.model}: {describe_likeness(reply.answer.text, reference, target)}")


def _stats(session: Session, rest: str) -> None:
    if not session.replies:
        write_notice(NOTHING_YET)
    for reply in session.replies:
        if len(session.replies) > 1:
            write_notice(f"{reply.model}:")
        write_notice(describe_answer(reply.answer, reply.context_length))


def _exit(session: Session, rest: str) -> None:
    """Listed here for /help; `handle` sees to it."""


COMMANDS = {
    "/help": Command("", "this list", _help),
    "/models": Command("", "the models, and which of them are loaded", _models),
    "/use": Command("NAME", "talk to another of them, in the same conversation", _use),
    "/compare": Command(
        "TEXT",
        "ask all of them, apart from the conversation; for a translation where direction is set",
        show_comparison,
        repeated=True,
    ),
    "/system": Command("[TEXT]", "set the system prompt; without TEXT, remove it", _system),
    "/clear": Command("", "forget the conversation", _clear),
    "/undo": Command("", "take back the last question and its answer", _undo),
    "/retry": Command("", "ask the last question once more, in place of its answer", _retry),
    "/set": Command(
        "[KEY VALUE]", f"change how it answers ({', '.join(Sampling.model_fields)}); without VALUE, show", _set
    ),
    "/show": Command("", "the settings and the conversation", _show),
    "/save": Command("FILE", "write the conversation and the settings to a file", _save),
    "/load": Command("FILE", "go on with the conversation of a file", _load),
    "/template": Command("[TEXT]", "the prompt as the model would get it, control tokens included", _template),
    "/raw": Command(
        "TEXT",
        "continue TEXT as it stands: no template, control tokens are control tokens",
        _raw,
        repeated=True,
        verbatim=True,
    ),
    "/tokens": Command("TEXT", "its tokens: what they spell, ids, bytes; tokens a syllable", _tokens),
    "/ppl": Command("TEXT", "the bits per byte that every model needs for TEXT", _ppl),
    "/translate": Command(
        "SRC TGT TEXT",
        "ask for a translation, apart from the conversation, e.g. /translate zh bo 你好",
        _translate,
        repeated=True,
    ),
    "/ref": Command("TEXT", "chrF and BLEU of the last answer, with TEXT for reference", _ref),
    "/stats": Command("", "speed and length of the last answer", _stats),
    "/exit": Command("", "end, as Ctrl-D does", _exit),
}
