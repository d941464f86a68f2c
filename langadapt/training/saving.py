"""A checkpoint is written aside and described by a manifest, brought safely to the disk, and only then given its name.

::

    .saving/checkpoint-200/   every rank writes its files here; a kill leaves this, which the next start deletes
    checkpoint-200/           renamed from there when every file, the manifest last, has reached the disk
    damaged-checkpoint-200/   a checkpoint whose files are no longer what its manifest says
"""

from __future__ import annotations

import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from langadapt.errors import UserError
from langadapt.files import give_default_permissions, read_json_object, sha256_of, sync_to_disk, write_json

RUN_FILE = "training_run.json"
STAGING = ".saving"
_GOING = ".deleting"
_THREADS = 4  # hashing and syncing several files at a time; a disk gains little from more


def publish(checkpoint: Path, run: dict[str, Any], step: int) -> None:
    """Give a checkpoint that every rank has written under its folder's `STAGING` its place and name.

    The manifest holds ``run``, the ``step``, and the size and SHA-256 of every file.
    """
    staged = checkpoint.parent / STAGING / checkpoint.name
    give_default_permissions(staged)
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(sha256_of, files))
        list(pool.map(sync_to_disk, files))
    entries = {
        str(path.relative_to(staged)): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, hashes, strict=True)
    }
    write_json(staged / RUN_FILE, {**run, "step": step, "files": entries})
    for folder in (staged, *(path for path in staged.rglob("*") if path.is_dir())):
        sync_to_disk(folder)
    if checkpoint.exists():  # of an attempt that went on from an earlier checkpoint than this
        remove_checkpoint(checkpoint)
    os.replace(staged, checkpoint)
    sync_to_disk(checkpoint.parent)
    with contextlib.suppress(OSError):  # on NFS a file just removed may linger
        staged.parent.rmdir()


def find_damage(checkpoint: Path) -> str | None:
    """Return what about a checkpoint is not as its manifest says, or None; reads every file."""
    try:
        entries = read_json_object(checkpoint / RUN_FILE)["files"]
    except (UserError, OSError, KeyError):
        return f"{RUN_FILE} is missing or broken"
    for name, entry in entries.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{name} has {path.stat().st_size} bytes, not {entry['size']}"
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            hashes = list(pool.map(sha256_of, [checkpoint / name for name in entries]))
    except OSError as error:
        return f"it cannot be read ({error})"
    changed = [name for (name, entry), digest in zip(entries.items(), hashes, strict=True) if digest != entry["sha256"]]
    return f"{changed[0]} has changed since it was written" if changed else None


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill midway leaves nothing that looks like one."""
    going = checkpoint.with_name(_GOING)
    shutil.rmtree(going, ignore_errors=True)
    os.replace(checkpoint, going)
    shutil.rmtree(going)


def sweep(output_dir: Path) -> None:
    """Delete what a killed run was writing or deleting."""
    for name in (STAGING, _GOING):
        shutil.rmtree(output_dir / name, ignore_errors=True)


def require_space(output_dir: Path, needed: int, step: int) -> None:
    """Raise `UserError` when the disk of ``output_dir`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise UserError(
            f"{output_dir}: the checkpoint of step {step} takes {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB "
            "are free on its disk; it was not begun, and the last one is as it was. Free some space (save_total_limit "
            "keeps fewer checkpoints) and run the same command again: it goes on from there."
        )


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
