"""Talking with the Hugging Face hub: what a repository holds, the bytes of one file, and what an error means.

`huggingface_hub` brings addresses, tokens and the connection. Its own download of a file starts from nothing after a
connection reset and in every new run; `fill` goes on at the byte where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of whichever HTTP library it uses
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported, but not by name
    build_hf_headers,
    filter_repo_objects,
    hf_raise_for_status,
)
from tqdm import tqdm

from langadapt.errors import UserError
from langadapt.recipe.preprocess import Download

HUB_ERRORS = (HTTPError, OfflineModeIsEnabled, HFValidationError, json.JSONDecodeError)
_LISTING_TIMEOUT = 60.0  # seconds
_NO_MORE_BYTES = 416
_MAY_PASS = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: size in bytes, and the hash of its content."""

    path: str
    size: int
    digest: str  # "sha256:..." of large files, "git-sha1:..." of the others, as git hashes a blob


@dataclass(frozen=True)
class Transfer:
    """What all requests for the files of one commit share. ``waits``: seconds before each new try in vain."""

    item: Download
    commit: str
    waits: Sequence[float]
    bar: tqdm[Any]
    stop: Event  # set: come to an end soon


def list_files(item: Download, waits: Sequence[float]) -> tuple[str, list[HubFile]]:
    """Return the commit that the revision stands for, and those of its files that the patterns choose.

    A busy hub is asked again after each of the ``waits`` (seconds). Raises one of `HUB_ERRORS`, or `UserError` when no
    file matches or the list is none to trust.
    """
    info: Any = None
    for wait in (*waits, None):
        try:
            info = HfApi().repo_info(
                item.repo_id,
                repo_type=item.repo_type,
                revision=item.revision,
                files_metadata=True,
                timeout=_LISTING_TIMEOUT,
            )
            break
        except HfHubHTTPError as error:
            if wait is None or not _may_pass(error):
                raise
            _say_and_wait(f"{item.repo_id}: {_reason(error)}", wait, Event())
    files = []
    for listed in filter_repo_objects(info.siblings, allow_patterns=item.patterns, key=lambda file: file.rfilename):
        path = Path(listed.rfilename)
        if listed.size is None or path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"{constants.ENDPOINT}: lists {listed.rfilename!r} of {item.repo_id} without a size or outside the "
                "folder, as the hub never does. Set HF_ENDPOINT to the hub or a true mirror of it."
            )
        digest = f"sha256:{listed.lfs.sha256}" if listed.lfs else f"git-sha1:{listed.blob_id}"
        files.append(HubFile(listed.rfilename, listed.size, digest))
    if not files:
        raise UserError(f"{item.repo_id} at {info.sha}: no file matches `patterns` {item.patterns}. Correct the key.")
    return info.sha, files


def fill(part: Path, file: HubFile, transfer: Transfer) -> None:
    """Fetch into ``part``, from its present end on, until it is as long as the file.

    When an answer breaks off, the next one goes on there; the waits count anew whenever bytes have come. Returns with a
    part that is too short when all answers end early but well, and with one too long when more comes than is listed;
    raises one of `HUB_ERRORS` when the connection keeps breaking or the hub refuses.
    """
    most, failures = part.stat().st_size, 0
    while part.stat().st_size < file.size and not transfer.stop.is_set():
        broken: Exception | None = None
        try:
            _stream(part, file, transfer)
        except HTTPError as error:
            if not _may_pass(error):
                raise
            broken = error
        have = part.stat().st_size
        if have >= file.size or transfer.stop.is_set():
            return
        if have > most:
            most, failures = have, 0
        if failures == len(transfer.waits):
            if broken:
                raise broken
            return
        reason = _reason(broken) if broken else "the answer ended early"
        place = f"{file.path}, at {have:,} of {file.size:,} bytes"
        _say_and_wait(f"{place}: {reason}", transfer.waits[failures], transfer.stop)
        failures += 1


def explain(error: Exception, item: Download) -> str:
    """Return one message on a hub that did not serve us: what it said, and the way out."""
    page = f"{constants.ENDPOINT}/{'datasets/' if item.repo_type == 'dataset' else ''}{item.repo_id}"
    again = "Run the same command again to go on where it stopped."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    reason = _reason(error)
    if isinstance(error, HFValidationError):
        return f"download: {reason} `repo_id` is organisation/name."
    if isinstance(error, OfflineModeIsEnabled):
        return f"{page}: not asked, since HF_HUB_OFFLINE is set. Unset it to download."
    if isinstance(error, json.JSONDecodeError):
        return f"{page}: the answer is no hub's. Log in to the network, or set HF_ENDPOINT to the hub or a true mirror."
    if isinstance(error, RevisionNotFoundError):
        return f"{page}: no revision {item.revision!r}. Correct `revision`; {page}/tree/main shows the branches."
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"{page}: access refused ({reason}). Accept the conditions on that page, and set HF_TOKEN to a token of "
            "the same account."
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            f"{page}: no such {item.repo_type}, or a private one ({reason}). Check `repo_id` and `repo_type`; for a "
            "private one set HF_TOKEN to a token that may read it."
        )
    if status is not None:
        return f"{page}: the hub answers {reason}. {again}"
    return f"{page}: no connection ({reason}). Check network and proxy, or set HF_ENDPOINT to a mirror. {again}"


def _stream(part: Path, file: HubFile, transfer: Transfer) -> None:
    """Add to ``part`` what one request brings; a server that knows no ranges starts it anew."""
    item, have = transfer.item, part.stat().st_size
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # ranges are of the plain bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(item.repo_id, file.path, repo_type=item.repo_type, revision=transfer.commit)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        if response.status_code == _NO_MORE_BYTES:
            return
        hf_raise_for_status(response)
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            transfer.bar.update(-have)
        with open(part, "ab" if resumed else "wb") as handle:
            for chunk in response.iter_bytes():
                handle.write(chunk)
                transfer.bar.update(len(chunk))
                if transfer.stop.is_set() or handle.tell() > file.size:
                    return


def _say_and_wait(problem: str, wait: float, stop: Event) -> None:
    tqdm.write(f"{problem}; trying again in {wait:g} s")
    stop.wait(wait)


def _may_pass(error: Exception) -> bool:
    """Say whether a failed request may go well later: a broken connection, a busy or restarting server."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _MAY_PASS


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}".strip()
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
