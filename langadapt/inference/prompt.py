"""Where questions come from and answers go to: a terminal, a pipe, or one question on the command line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from langadapt.errors import UserError, describe_os_error
from langadapt.inference.commands import COMMANDS, handle
from langadapt.inference.output import write_notice
from langadapt.inference.session import Session
from langadapt.recipe.inference import Sampling
from langadapt.recipe.language import PROFILES


def converse(session: Session) -> None:
    """Read questions and commands at a terminal until Ctrl-D or /exit.

    Enter sends; Alt-Enter, or a backslash before Enter, starts another line. Ctrl-C stops an answer, or clears the line
    at the prompt; it does not end the program. Errors are shown, and the conversation goes on.
    """
    session.shows_figures = True
    responder, names = session.responder, session.lineup.names
    print(
        f"{session.lineup.path(session.model)}: {responder.model.num_parameters() / 1e6:,.1f}M parameters, "
        f"{str(responder.model.dtype).removeprefix('torch.')} on {responder.model.device}, "
        f"{responder.kind}."
    )
    if len(names) > 1:
        print(f"models: {', '.join(names)}. /use NAME talks to another, /compare TEXT asks all.")
    del responder  # or it would stay in memory when another is loaded
    print("/help lists the commands, Alt-Enter starts another line, Ctrl-D ends.")
    prompt: PromptSession[str] = PromptSession(
        history=_history(),
        completer=_CommandCompleter(session),
        complete_style=CompleteStyle.READLINE_LIKE,
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation="| ",
    )
    with _ctrl_c_noted() as pressed:
        session.stop_requested = pressed.is_set
        while True:
            try:
                line = prompt.prompt(f"{session.model}> " if len(names) > 1 else "> ")
                pressed.clear()  # a Ctrl-C that came before there was anything to stop
                if line.strip() and not handle(session, line):
                    return
            except UserError as error:
                write_notice(str(error))
            except OSError as error:
                message = describe_os_error(error)
                if message is None:
                    raise
                write_notice(message)
            except KeyboardInterrupt:
                pass
            except EOFError:
                return
            finally:
                pressed.clear()


def answer_lines(session: Session, lines: Iterable[bytes]) -> None:
    """Treat each line as a question or a command, until there are no more; blank lines are skipped.

    Raises `UserError`, naming the line, for the first one that cannot be answered.
    """
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
            if line.strip() and not handle(session, line):
                return
        except UnicodeDecodeError:
            raise UserError(f"standard input, line {number}: not valid UTF-8. Convert it to UTF-8.") from None
        except UserError as error:
            raise UserError(f"standard input, line {number}: {error}") from None


@contextmanager
def _ctrl_c_noted() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets; only when it is set already does Ctrl-C interrupt what is running."""
    pressed = threading.Event()

    def on_interrupt(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _history() -> History:
    """Return the history of lines typed, kept over sessions where the user's state folder can be written."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "langadapt" / "prompt_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        write_notice(f"{path}: cannot be written ({error.strerror}); this session's lines will not be remembered.")
        return InMemoryHistory()
    return FileHistory(path)


def _keys() -> KeyBindings:
    """Return what Enter does in an input of several lines: it sends, unless a backslash or Alt comes before it."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def start_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _CommandCompleter(Completer):
    """Completes commands, models, keys of /set, languages of /translate, and paths."""

    def __init__(self, session: Session) -> None:
        self._names = session.lineup.names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        words = document.text_before_cursor.split(" ")
        if not document.text.startswith("/"):
            return
        if words[0] in ("/save", "/load") and len(words) > 1:
            path = Document(document.text_before_cursor.partition(" ")[2])
            yield from self._paths.get_completions(path, complete_event)
            return
        options: Iterable[str] = ()
        if len(words) == 1:
            options = COMMANDS
        elif words[0] == "/use" and len(words) == 2:
            options = self._names
        elif words[0] == "/set" and len(words) == 2:
            options = Sampling.model_fields
        elif words[0] == "/translate" and len(words) <= 3:
            options = sorted(file.stem for file in PROFILES.glob("*.yaml"))
        for option in options:
            if option.startswith(words[-1]):
                yield Completion(option, start_position=-len(words[-1]))
