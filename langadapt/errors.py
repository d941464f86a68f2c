"""Errors a user can mend, and how every command of the project ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend. The message says what was found, where, what was expected, and the way out."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main`` and end the process the way every command here ends.

    A `UserError` or a failing file system becomes one message on standard error and exit code 2, without a traceback;
    Ctrl-C becomes 130; a reader that closes our standard output (``| head``) ends us silently. Anything else is a
    defect of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _end(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Python flushes standard output once more at exit; give it somewhere harmless to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        _end(message)


def describe_os_error(error: OSError) -> str | None:
    """Say in one line what the file system refused and what to do; None for errors that are no user's to mend."""
    place = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = f"no space left on the disk ({error.strerror})"
        return f"{place}: {full}. Nothing half-written was kept; free some space and run again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}: not allowed ({error.strerror}). Check the permissions, or choose another folder."
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return f"{place}: {error.strerror}. Check the path, or choose another output_dir."
    return None


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
