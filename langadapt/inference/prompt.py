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
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.shortcuts import CompleteStyle

from langadapt.errors import UserError
from langadapt.inference.output import write_notice
from langadapt.inference.session import COMMANDS, Session, handle
from langadapt.recipe.inference import Sampling
from langadapt.recipe.language import PROFILES


def converse(session: Session) -> None:
    """Read questions and commands at a terminal until Ctrl-D or /exit.

    Ctrl-C stops an answer, or clears the line at the prompt; it does not end the program. Errors are shown, and the
    conversation goes on.
    """
    responder = session.responder
    print(
        f"{responder.name}: {responder.model.num_parameters() / 1e6:,.1f}M parameters, "
        f"{str(responder.model.dtype).removeprefix('torch.')} on {responder.model.device}, "
        f"{'chat' if responder.chat else 'plain text'}. /help lists the commands, Ctrl-D ends."
    )
    prompt: PromptSession[str] = PromptSession(
        history=_history(), completer=_CommandCompleter(), complete_style=CompleteStyle.READLINE_LIKE
    )
    with _ctrl_c_noted() as pressed:
        session.stop_requested = pressed.is_set
        while True:
            try:
                line = prompt.prompt("> ")
                pressed.clear()  # a Ctrl-C that came before there was anything to stop
                if line.strip() and not handle(session, line):
                    return
            except UserError as error:
                write_notice(str(error))
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


class _CommandCompleter(Completer):
    """Completes commands, the keys of /set and the languages of /translate."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        words = document.text_before_cursor.split(" ")
        options: Iterable[str] = ()
        if len(words) == 1:
            options = [usage.split()[0] for usage in COMMANDS]
        elif words[0] == "/set" and len(words) == 2:
            options = Sampling.model_fields
        elif words[0] == "/translate" and len(words) <= 3:
            options = sorted(file.stem for file in PROFILES.glob("*.yaml"))
        if document.text.startswith("/"):
            for option in options:
                if option.startswith(words[-1]):
                    yield Completion(option, start_position=-len(words[-1]))
