"""A session at a terminal or in a pipe: how it starts, and what is written of what its models answer."""

from __future__ import annotations

import json
from collections.abc import Callable

from langadapt.inference.columns import side_by_side
from langadapt.inference.conversation import Conversation
from langadapt.inference.lineup import Lineup
from langadapt.inference.output import printable, terminal_width, write_answer, write_notice
from langadapt.inference.session import Reply, Session, as_record, compare, seed
from langadapt.inference.showing import figures
from langadapt.recipe.inference import InferenceSettings


def start_session(lineup: Lineup, settings: InferenceSettings, as_json: bool = False) -> Session:
    """Return a session with the settings' system prompt and seed, its first model loaded."""
    session = Session(lineup, settings, lineup.names[0], as_json, conversation=Conversation(settings.system))
    seed(settings)
    use(session, session.model)
    return session


def use(session: Session, name: str) -> None:
    """Talk to another model from now on; say so when it is no chat model."""
    session.lineup.get(name)
    session.model = name
    if session.responder.chat or name in session.told:
        return
    session.told.add(name)
    if session.responder.translator:
        usual = session.settings.direction or session.responder.usual_direction
        write_notice(
            f"{name} is a translator: it translates each text{f', {usual}' if usual else ''}. "
            "(/set direction SRC-TGT says from which language into which.)"
        )
    elif session.settings.prompt_format == "auto":
        ignored = " The system prompt is not used." if session.conversation.system else ""
        write_notice(
            f"{name} was not trained to answer in turns: it continues each text as plain text.{ignored} "
            "(prompt_format=chat asks it through its chat template all the same.)"
        )


def show_answer(session: Session, ask: Callable[..., Reply], *arguments: str) -> None:
    """Write the answer that `ask`, `ask_raw` or `translate` gives to its ``arguments``, as it comes or as JSON."""
    if session.as_json:
        reply = ask(session, *arguments, lambda piece: None)
        _write_json(reply)
    else:
        reply = ask(session, *arguments, write_answer)
        write_answer("\n")
    answer = reply.answer
    if reply.forgotten:
        write_notice(
            f"[the conversation outgrew the context of {reply.context_length} tokens; "
            f"questions and answers forgotten: the {reply.forgotten} oldest]"
        )
    if session.shows_figures:
        write_notice(f"[{figures(answer)}]")
    elif answer.stop_reason == "length" and reply.kind != "plain text" and not session.as_json:
        write_notice(f"[cut after {answer.token_count} tokens; /set max_new_tokens N allows more]")


def show_comparison(session: Session, text: str) -> None:
    """Write the answers of all models to a text, side by side where there is room.

    Ctrl-C stops one answer and leaves out the models that have not been asked.
    """

    def tell(name: str, piece: str) -> None:
        if not piece and session.shows_figures and len(session.lineup.names) > 1:
            write_notice(f"[{name} …]")

    try:
        for _ in compare(session, text, tell):
            pass
    finally:  # a second Ctrl-C, or a model that cannot be loaded, takes nothing from what was answered
        _write_comparison(session)


def _write_comparison(session: Session) -> None:
    replies = session.replies
    if not replies:
        return
    for refusal in session.refusals.values():
        write_notice(refusal)
    if session.as_json:
        for reply in replies:
            _write_json(reply)
        return
    width = terminal_width()
    if width is None:
        # One below the other, their lines left as they are.
        parts = [f"[{reply.title}]\n{reply.answer.text}" for reply in replies]
        write_answer("\n\n".join(parts) + "\n")
    else:
        columns = [(reply.title, printable(reply.answer.text)) for reply in replies]
        write_answer("\n".join(side_by_side(columns, width)) + "\n")
    if session.shows_figures:
        for reply in replies:
            write_notice(f"{reply.model}: {figures(reply.answer)}")


def _write_json(reply: Reply) -> None:
    write_answer(json.dumps(as_record(reply), ensure_ascii=False) + "\n")
