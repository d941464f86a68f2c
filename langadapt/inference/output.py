"""Answers to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys

# What a terminal would obey rather than show: control characters but for line feed and tab, and the marks that
# reverse the direction of what follows. The first become their pictures, such as U+241B for escape.
_OBEYED = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_OBEYED |= {0x7F: 0x2421}
_OBEYED |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
_WIDTH = 80  # cells, where there is no terminal to ask


def printable(text: str) -> str:
    """Return a model's text with everything that a terminal would obey made visible."""
    return text.translate(_OBEYED)


def write_answer(piece: str) -> None:
    """Write a piece of an answer at once; to a terminal only what it can show."""
    sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def write_notice(line: str) -> None:
    """Write a line that is no part of an answer, which may quote one."""
    print(printable(line) if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def terminal_width() -> int | None:
    """Return the cells in a line of the terminal that answers go to, as it is now; None where they go elsewhere."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH
    except OSError:
        return _WIDTH
