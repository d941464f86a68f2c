"""Atomic writing: a temporary name beside the target, then a rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def staged_folder(path: str | Path, last: str) -> Iterator[Path]:
    """Yield an empty folder inside ``path``; when the block ends well, move its files to ``path``, ``last`` at the end.

    Nothing in ``path`` changes before all files are complete. The old ``last`` goes first and the new one comes last,
    so a set of files with it is whole. When the block fails, the staged files are deleted.
    """
    path = Path(path)
    staging = path / ".unfinished"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        files = sorted(staging.iterdir(), key=lambda file: file.name == last)
        (path / last).unlink(missing_ok=True)
        for file in files:
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused: it is not JSON, and no figure."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
