"""Atomic writing: a temporary name beside the target, then a rename."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from langadapt.errors import UserError

if sys.platform != "win32":
    import fcntl


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends well, delete it when not.

    The folder is made when missing. A reader sees the old file or the new one, never half of one. The temporary name
    keeps the suffix, since some writers (matplotlib) choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_place(error, path)
        raise


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_default_permissions(folder: Path) -> None:
    """Let everyone read and write the files of a folder who may do so with the folder itself.

    That is what the umask asks for. Some writers (safetensors) make files that only their owner can read.
    """
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


@contextmanager
def staged_folder(path: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Yield an empty folder inside ``path``; when the block ends well, move all in it to ``path``, ``last`` at the end.

    Nothing in ``path`` changes before all files are complete. The old ``last`` goes first and the new one comes last,
    so a set of files with it is whole. Files named in ``stale`` that are not among the new ones go too. When the block
    fails, the staged files are deleted.
    """
    path = Path(path)
    staging = path / ".unfinished"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        give_default_permissions(staging)
        for file in staging.rglob("*"):
            sync_to_disk(file)
        files = sorted(staging.iterdir(), key=lambda file: file.name == last)
        (path / last).unlink(missing_ok=True)
        for name in {*stale} - {file.name for file in files}:
            (path / name).unlink(missing_ok=True)
        for file in files:
            if file.is_dir():
                shutil.rmtree(path / file.name, ignore_errors=True)
            os.replace(file, path / file.name)
    except OSError as error:
        _name_place(error, path)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def probe_folder(path: str | Path) -> None:
    """Make a folder if missing and write into it, so that hours of work do not end at one that cannot be written.

    Raises `OSError`, which ends a command with one message.
    """
    Path(path).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def lock(handle: IO[bytes], output_dir: str) -> None:
    """Lock a file until it is closed, or its process dies; do nothing on systems and file systems without locks."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"output_dir={output_dir}: another run is at work on it. Wait until it ends, or choose another output_dir."
        ) from None
    except OSError:
        return


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: it is not JSON, and no figure."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _name_place(error: BaseException, path: Path) -> None:
    """Say where it was: an error of write() or fsync(), such as a full disk, names no file."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)
