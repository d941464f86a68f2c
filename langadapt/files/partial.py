"""Results as they are produced, so that a run that is killed goes on where it was."""

from __future__ import annotations

import glob
import json
import os
import sys
from pathlib import Path
from typing import IO, Any, Protocol, Self

from langadapt.errors import UserError
from langadapt.files.atomic import lock


class Processes(Protocol):
    """Which process of a run this is, from 0, and of how many; `wait` returns when every one has come there."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def wait(self) -> None: ...


class Alone:
    """The only process of its run."""

    rank, count = 0, 1

    def wait(self) -> None:
        """Return: there is nobody to wait for."""


class PartialFile:
    """Lines ``{"key", "value"}`` appended one by one, below a first line that says what they are results of.

    Each process of a run has a file of its own and reads all of them, of an earlier run of more processes too. A last
    line that a kill has torn is dropped. Files with another first line are renamed to ``<file>.old``, and it is said
    what differs. To be used in a ``with`` block, which leaves the file for the next run.
    """

    def __init__(self, path: str | Path, fingerprint: dict[str, Any], ranks: Processes) -> None:
        """Read what there is; ``path`` is the first process's file.

        Raises `UserError` when another run is writing to it, and for a line that is no JSON.
        """
        self._path, self.ranks = Path(path), ranks
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint))
        own = self._path if self.ranks.rank == 0 else self._path.with_suffix(f".{self.ranks.rank}{self._path.suffix}")
        self._handle = _open_locked(own)
        self.done: dict[str, dict[str, Any]] = {}
        try:
            self.ranks.wait()
            if self.ranks.rank == 0:
                for file in self._files():
                    self._set_aside(file)
            self.ranks.wait()
            self.done = self._read()
            self.ranks.wait()  # nothing is written before all have read the same
        except BaseException:
            self._handle.close()
            raise
        if not own.exists() or own.stat().st_ino != os.fstat(self._handle.fileno()).st_ino:
            self._handle.close()
            self._handle = _open_locked(own)
        _drop_torn_line(self._handle)
        if self._handle.tell() == 0:
            self._write(self._fingerprint)

    def add(self, key: str, value: dict[str, Any]) -> None:
        """Append a result."""
        self._write({"key": key, "value": value})
        self.done[key] = value

    def join(self) -> None:
        """Wait for all processes, and take over what they have added."""
        if self.ranks.count > 1:
            self.ranks.wait()
            self.done = self._read()
            self.ranks.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.close()

    def remove(self) -> None:
        """Delete the files of all processes; to be called when the results stand elsewhere."""
        self._handle.close()
        self.ranks.wait()
        if self.ranks.rank == 0:
            for file in self._files():
                file.unlink()

    def _files(self) -> list[Path]:
        stem, suffix = glob.escape(self._path.stem), glob.escape(self._path.suffix)
        return [self._path, *sorted(self._path.parent.glob(f"{stem}.[0-9]*{suffix}"))]

    def _set_aside(self, file: Path) -> None:
        head = _lines(file)[:1]
        if not head or head == [self._fingerprint]:
            return
        differs = sorted(
            key for key in {*head[0], *self._fingerprint} if head[0].get(key) != self._fingerprint.get(key)
        )
        old = file.with_name(f"{file.name}.old")
        os.replace(file, old)
        print(f"note: {file} is of a run with other {', '.join(differs)}: set aside as {old.name}", file=sys.stderr)

    def _read(self) -> dict[str, dict[str, Any]]:
        return {line["key"]: line["value"] for file in self._files() for line in _lines(file)[1:]}

    def _write(self, line: dict[str, Any]) -> None:
        self._handle.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        self._handle.flush()


def _open_locked(path: Path) -> IO[bytes]:
    handle = open(path, "a+b")  # noqa: SIM115 - held open, and locked, for the whole run
    try:
        lock(handle, str(path.parent))
    except UserError:
        handle.close()
        raise
    return handle


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is torn
    lines = []
    for number, line in enumerate(whole, start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}, line {number}: broken JSON. Delete the file to start anew.") from None
    return lines


def _drop_torn_line(handle: IO[bytes]) -> None:
    handle.seek(0)
    handle.truncate(handle.read().rfind(b"\n") + 1)
    handle.seek(0, os.SEEK_END)
