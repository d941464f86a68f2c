"""Fetching the sources and the base model from the Hugging Face hub, checked against what the hub says of each file.

Files get their names only when the size and hash of every one is right, and the commit is recorded after that: the
folder holds the old files or the new ones, never some of both that a record vouches for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from langadapt.corpus.hub import HUB_ERRORS, HubFile, Transfer, explain, fill, list_files
from langadapt.errors import UserError
from langadapt.files import read_json_object, sha256_of, write_json
from langadapt.recipe.preprocess import Download, PreprocessSettings

RECORD = "downloaded.json"
RETRY_WAITS = (1.0, 5.0, 20.0, 60.0)  # seconds; from the first again whenever bytes have come
_PARTS = ".incomplete"
_AT_ONCE = 4  # connections: a content network gives each only a share of the line


def download_sources(settings: PreprocessSettings) -> None:
    """Fetch everything under the key `download`; see `download`."""
    if not settings.download:
        raise UserError(
            "this recipe names nothing to download; its sources are local. Set `data_dir` and leave --download out."
        )
    for item in settings.download:
        download(item, item.folder(settings.data_dir))


def download(item: Download, folder: Path, waits: Sequence[float] = RETRY_WAITS) -> str:
    """Bring the files of one repository into ``folder`` and record their commit beside them; return the commit.

    What is there already and right is not fetched again. A broken file goes on at the byte where it stopped, in this
    run after each of the ``waits`` (seconds) and in the next one. Raises `UserError` when the hub does not answer, does
    not let us in or does not know the revision, when the disk is too small, and when files are not what the hub lists,
    naming them all; what is right waits for the rest then, and what is wrong is deleted.
    """
    name = f"{item.repo_type} {item.repo_id}"
    record = _read_record(item, folder)
    if record.get("commit") == item.revision and all(_is_as_recorded(folder, path, record) for path in record["files"]):
        print(f"{name}: already in {folder}, at the commit that the recipe names")
        return item.revision
    try:
        commit, files = list_files(item, waits)
        missing = [file for file in files if not _is_here(folder, file, record)]
        if missing:
            _require_space(folder, missing)
            print(f"{name} at {commit}: {len(missing)} of {len(files)} files to fetch -> {folder}")
            _fetch_all(item, commit, missing, folder, waits)
        else:
            print(f"{name} at {commit}: all {len(files)} files are already in {folder}")
    except HUB_ERRORS as error:
        raise UserError(explain(error, item)) from None
    (folder / RECORD).unlink(missing_ok=True)
    for file in missing:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(_part(folder, file), folder / file.path)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    described = {file.path: _described(file) for file in files}
    write_json(folder / RECORD, {**_identity(item), "revision": item.revision, "commit": commit, "files": described})
    return commit


def recorded_commits(settings: PreprocessSettings) -> dict[str, str]:
    """Return the commit of each download that is whole on this disk, by repository."""
    records = {item.repo_id: _read_record(item, item.folder(settings.data_dir)) for item in settings.download}
    return {repo_id: record["commit"] for repo_id, record in records.items() if record}


def digest_of(path: Path, kind: str) -> str:
    """Return the digest of a file as `HubFile` writes it; ``kind`` is ``sha256`` or ``git-sha1``."""
    if kind == "sha256":
        return f"sha256:{sha256_of(path)}"
    header = b"blob %d\0" % path.stat().st_size  # git hashes the length together with the content
    with open(path, "rb") as handle:
        return f"git-sha1:{hashlib.file_digest(handle, lambda: hashlib.sha1(header)).hexdigest()}"


def _fetch_all(item: Download, commit: str, files: Sequence[HubFile], folder: Path, waits: Sequence[float]) -> None:
    """Fetch the parts of files whole. One not as listed does not keep the others from coming; other errors end all."""
    here = sum(_size(_part(folder, file)) for file in files)
    total = sum(file.size for file in files)
    with (
        tqdm(total=total, initial=here, unit="B", unit_scale=True, desc=item.repo_id, disable=None) as bar,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        transfer = Transfer(item, commit, waits, bar, Event())
        futures = [pool.submit(_fetch, file, folder, transfer) for file in files]
        try:
            problems = [problem for future in futures if (problem := future.result())]
        except BaseException:
            transfer.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise UserError(
            f"{item.repo_id} at {commit}: of {len(files)} files fetched, {len(problems)} are not as the hub lists "
            "them:\n  " + "\n  ".join(problems) + f"\nNothing in {folder} was changed. Run the same command again to "
            "fetch just these; if it stays so, a proxy or mirror (HF_ENDPOINT) gives wrong answers."
        )


def _fetch(file: HubFile, folder: Path, transfer: Transfer) -> str | None:
    """Fetch the part of one file whole; return a line on what is wrong with it, if anything."""
    part = _part(folder, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    have = 0
    for _ in range(2):  # bytes of an earlier run may be wrong: then once more, from nothing
        part.touch()
        fill(part, file, transfer)
        have = _size(part)
        if have < file.size:
            return f"{file.path}: {have:,} of {file.size:,} bytes came"
        if have == file.size and _has_content(part, file):
            return None
        part.unlink()
        transfer.bar.update(-have)
    if have > file.size:
        return f"{file.path}: more than the {file.size:,} bytes listed came"
    return f"{file.path}: {have:,} bytes came, as listed, but their hash is not {file.digest}"


def _part(folder: Path, file: HubFile) -> Path:
    """Return where the bytes of a file wait for the rest; other content under the same name waits elsewhere."""
    return folder / _PARTS / f"{file.path}.{file.digest[-12:]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _has_content(path: Path, file: HubFile) -> bool:
    return digest_of(path, file.digest.partition(":")[0]) == file.digest


def _described(file: HubFile) -> dict[str, Any]:
    return {"size": file.size, "digest": file.digest}


def _identity(item: Download) -> dict[str, Any]:
    return {"repo_id": item.repo_id, "repo_type": item.repo_type, "patterns": item.patterns}


def _read_record(item: Download, folder: Path) -> dict[str, Any]:
    """Return the record of an earlier download of the same thing; empty if there is none."""
    path = folder / RECORD
    record = read_json_object(path, "Delete it; the files are checked anew then.") if path.is_file() else {}
    same = all(record.get(key) == value for key, value in _identity(item).items())
    return record if same and isinstance(record.get("files"), dict) else {}


def _is_as_recorded(folder: Path, path: str, record: dict[str, Any]) -> bool:
    return (folder / path).is_file() and _size(folder / path) == record["files"][path]["size"]


def _is_here(folder: Path, file: HubFile, record: dict[str, Any]) -> bool:
    """Say whether a file is on the disk as listed: by its size if it was checked before, else by its hash."""
    path = folder / file.path
    if not path.is_file() or _size(path) != file.size:
        return False
    if record and record["files"].get(file.path) == _described(file):
        return True
    print(f"checking {path}")
    return _has_content(path, file)


def _require_space(folder: Path, files: Sequence[HubFile]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size - _size(_part(folder, file)) for file in files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:,.1f} GB are still to be fetched, and the disk has {free / 1e9:,.1f} GB free. "
            "Free some space, narrow `patterns`, or choose another `data_dir` or `local_dir`."
        )
