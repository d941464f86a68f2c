"""Downloading from a hub that misbehaves: a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY
from huggingface_hub import constants

from langadapt.corpus.download import download, download_sources, recorded_commits
from langadapt.errors import UserError
from langadapt.recipe.preprocess import Download, PreprocessSettings
from langadapt.recipe.settings import load_settings

REPO = "lab/texts"
COMMIT, NEXT_COMMIT = "1" * 40, "2" * 40
WAITS = (0.01, 0.02)
CLIENT = """
import json, sys
from pathlib import Path
from langadapt.corpus.download import download
from langadapt.errors import run_command
from langadapt.recipe.preprocess import Download
run_command(lambda: download(Download(**json.loads(sys.argv[1])), Path(sys.argv[2])))
"""


def content(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4)).digest(size)


class Hub:
    """A small repository behind the hub's addresses; large files come from another host, as from its network.

    ``faults`` are called with each request for a file and may answer in its place, by returning True.
    """

    def __init__(self) -> None:
        self.files = {"README.md": b"# Texts\n", "parallel/bo.txt": content(1, 3_000_000), "empty.txt": b""}
        self.large = {"parallel/bo.txt"}
        self.commit = COMMIT
        self.listing: dict[str, dict[str, Any]] = {}  # lies, by path
        self.faults: list[Callable[[BaseHTTPRequestHandler, str, bytes], bool]] = []
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.busy = 0  # how many listings are answered with 503 first
        self.requests: list[tuple[str, str | None]] = []  # path and range of each request for a file's bytes
        self.listings = 0
        self.tokens_at_network: list[str | None] = []
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), self.handler(network)) for network in (False, True)]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.servers[0].server_port}"

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def listed(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        entry: dict[str, Any] = {"rfilename": path, "size": len(data)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if path in self.large:
            entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 132}
        return entry | self.listing.get(path, {})

    def handler(hub, network: bool) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if hub.refusal:
                    self.answer(hub.refusal[0], **hub.refusal[1])
                elif path.startswith("/api/"):
                    self.answer_listing(path.rpartition("/")[2])
                else:
                    self.answer_file(path)

            def answer_listing(self, revision: str) -> None:
                hub.listings += 1
                if hub.listings <= hub.busy:
                    self.answer(503)
                elif revision in ("main", hub.commit):
                    siblings = [hub.listed(path) for path in hub.files]
                    self.answer(200, json.dumps({"id": REPO, "sha": hub.commit, "siblings": siblings}).encode())
                else:
                    self.answer(404, X_Error_Code="RevisionNotFound")

            def answer_file(self, path: str) -> None:
                name = path.partition(f"/resolve/{hub.commit}/")[2]
                if name in hub.large and not network:
                    self.answer(302, Location=f"http://localhost:{hub.servers[1].server_port}{path}")
                    return
                wanted = self.headers["Range"]
                hub.requests.append((name, wanted))
                if network:
                    hub.tokens_at_network.append(self.headers["Authorization"])
                data = hub.files[name]
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                if any(fault(self, name, data[start:]) for fault in hub.faults):
                    self.close_connection = True
                elif start >= len(data) and wanted:
                    self.answer(416)
                elif wanted:
                    self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
                else:
                    self.answer(200, data)

        return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def fetch(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Download into ``tmp_path / "texts"``, with keys of `Download`; return what was printed."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")

    def run(**keys: Any) -> str:
        download(item(**keys), tmp_path / "texts", WAITS)
        return capsys.readouterr().out

    return run


def item(**keys: Any) -> Download:
    return Download(**{"repo_id": REPO, "repo_type": "dataset", "local_dir": "{data_dir}/texts", **keys})


def stored(folder: Path) -> dict[str, bytes]:
    """The files under their final names: all but the record and the parts."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".incomplete" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "downloaded.json"}


def parts(folder: Path) -> dict[str, int]:
    """The sizes of the parts that wait for the rest, by the name they will get."""
    places = [path for path in (folder / ".incomplete").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder / ".incomplete").with_suffix("")): path.stat().st_size for path in places}


def record(folder: Path) -> dict[str, Any] | None:
    path = folder / "downloaded.json"
    return json.loads(path.read_text()) if path.is_file() else None


def message(fetch: Callable[..., str], **keys: Any) -> str:
    """The message of a download that fails."""
    with pytest.raises(UserError) as caught:
        fetch(**keys)
    return str(caught.value)


def break_off(times: int, reset: bool = False) -> Callable[..., bool]:
    """A fault: promise the whole file, send half of what is wanted and close or reset the connection."""
    left = [times]

    def fault(handler: BaseHTTPRequestHandler, name: str, data: bytes) -> bool:
        if name != "parallel/bo.txt" or left[0] == 0:
            return False
        left[0] -= 1
        handler.send_response(206 if handler.headers["Range"] else 200)
        if handler.headers["Range"]:
            handler.send_header("Content-Range", handler.headers["Range"].replace("=", " ") + "2999999/3000000")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        handler.wfile.flush()
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        return True

    return fault


def dead(handler: BaseHTTPRequestHandler, name: str, data: bytes) -> bool:
    """A fault: no answer at all to a request for the rest."""
    return name == "parallel/bo.txt" and len(data) < 3_000_000


def test_bytes_commit_and_a_second_run(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    fetch()
    assert stored(tmp_path / "texts") == hub.files
    assert record(tmp_path / "texts")["commit"] == COMMIT
    assert not (tmp_path / "texts/.incomplete").exists()
    assert hub.tokens_at_network == [None]  # the token is for the hub alone
    count = len(hub.requests)

    assert "all 3 files are already in" in fetch()
    assert len(hub.requests) == count
    listings = hub.listings
    assert "already in" in fetch(revision=COMMIT)
    assert hub.listings == listings  # a commit cannot move: nothing to ask

    settings = SimpleNamespace(download=[item()], data_dir=str(tmp_path))
    assert recorded_commits(settings) == {REPO: COMMIT}
    (tmp_path / "texts/README.md").unlink()
    assert "1 of 3 files to fetch" in fetch(revision=COMMIT)
    assert stored(tmp_path / "texts") == hub.files


def test_as_a_command_with_the_hub_in_the_environment(hub: Hub, tmp_path: Path) -> None:
    keys = json.dumps({"repo_id": REPO, "repo_type": "dataset", "local_dir": "-"})
    command = [sys.executable, "-c", CLIENT, keys, str(tmp_path / "texts")]
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "*"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert stored(tmp_path / "texts") == hub.files


def test_files_put_there_by_hand_are_checked_by_their_content(
    hub: Hub, fetch: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    (folder / "parallel").mkdir(parents=True)
    (folder / "parallel/bo.txt").write_bytes(hub.files["parallel/bo.txt"])
    (folder / "README.md").write_bytes(b"# Other\n")  # of the same size
    fetch()
    assert stored(folder) == hub.files
    assert [name for name, _ in hub.requests] == ["README.md"]


def test_patterns_choose_files(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    fetch(patterns=["*.md"])
    assert list(stored(tmp_path / "texts")) == ["README.md"]
    assert "`patterns`" in message(fetch, patterns=["*.parquet"])


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_connection_that_breaks_once_goes_on_at_the_same_byte(
    hub: Hub, fetch: Callable[..., str], tmp_path: Path, reset: bool
) -> None:
    hub.faults.append(break_off(times=1, reset=reset))
    assert "trying again" in fetch()
    assert stored(tmp_path / "texts") == hub.files
    ranges = [wanted for name, wanted in hub.requests if name == "parallel/bo.txt"]
    assert ranges[0] is None
    if reset:  # what is under way is lost with the connection
        assert len(ranges) == 2
    else:
        assert ranges[1:] == ["bytes=1500000-"]


def test_the_waits_count_anew_when_bytes_have_come(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    hub.faults.append(break_off(times=3 * len(WAITS)))
    fetch()
    assert stored(tmp_path / "texts") == hub.files


def test_after_too_many_breaks_the_next_run_goes_on(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    hub.faults += [break_off(times=1), dead]
    assert "go on where it stopped" in message(fetch)
    assert parts(tmp_path / "texts")["parallel/bo.txt"] == 1_500_000
    assert stored(tmp_path / "texts") == {}
    assert record(tmp_path / "texts") is None

    hub.faults.clear()
    hub.requests.clear()
    fetch()
    assert stored(tmp_path / "texts") == hub.files
    assert [wanted for name, wanted in hub.requests if name == "parallel/bo.txt"] == ["bytes=1500000-"]


def test_a_part_with_wrong_bytes_is_fetched_from_nothing(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    hub.faults += [break_off(times=1), dead]
    message(fetch)
    hub.faults.clear()
    (part,) = (tmp_path / "texts/.incomplete/parallel").iterdir()
    part.write_bytes(b"\0" * part.stat().st_size)
    fetch()
    assert stored(tmp_path / "texts") == hub.files


def test_a_server_that_ignores_ranges(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    def whole(handler: Any, name: str, data: bytes) -> bool:
        if not handler.headers["Range"]:
            return False
        handler.answer(200, hub.files[name])
        return True

    hub.faults += [break_off(times=1), whole]
    fetch()
    assert stored(tmp_path / "texts") == hub.files


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        ({"size": 3_000_100}, "parallel/bo.txt: 3,000,000 of 3,000,100 bytes came"),
        ({"size": 2_999_900}, "parallel/bo.txt: more than the 2,999,900 bytes listed came"),
        ({"lfs": {"size": 3_000_000, "sha256": "0" * 64, "pointerSize": 1}}, "their hash is not sha256:000"),
        (None, "parallel/bo.txt: 1,500,000 of 3,000,000 bytes came"),
    ],
    ids=["size too large", "size too small", "hash", "answers cut short"],
)
def test_what_is_not_as_listed_never_gets_its_name(
    hub: Hub, fetch: Callable[..., str], tmp_path: Path, lie: dict[str, Any] | None, problem: str
) -> None:
    def cut(handler: Any, name: str, data: bytes) -> bool:
        if name == "parallel/bo.txt":
            handler.answer(200, hub.files[name][:1_500_000])
        return name == "parallel/bo.txt"

    if lie:
        hub.listing["parallel/bo.txt"] = lie
    else:
        hub.faults.append(cut)
    text = message(fetch)
    assert problem in text
    assert "of 3 files fetched, 1 " in text
    assert stored(tmp_path / "texts") == {}
    assert record(tmp_path / "texts") is None

    hub.listing.clear()
    hub.faults.clear()
    hub.requests.clear()
    fetch()
    assert stored(tmp_path / "texts") == hub.files
    assert {name for name, _ in hub.requests} <= {"parallel/bo.txt"}  # the others had come


def test_a_busy_hub_is_asked_again(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    left = [2]

    def busy(handler: Any, name: str, data: bytes) -> bool:
        left[0] -= name == "README.md"
        if name == "README.md" and left[0] >= 0:
            handler.answer(503)
            return True
        return False

    hub.busy = 2
    hub.faults.append(busy)
    assert fetch().count("HTTP 503") == 4
    assert stored(tmp_path / "texts") == hub.files
    hub.busy = 1000
    assert "HTTP 503" in message(fetch)


def test_a_new_commit_replaces_all_or_nothing(hub: Hub, fetch: Callable[..., str], tmp_path: Path) -> None:
    fetch()
    before = stored(tmp_path / "texts")
    hub.commit = NEXT_COMMIT
    hub.files = hub.files | {"README.md": b"# New\n", "parallel/bo.txt": content(2, 3_000_000)}
    hub.listing["parallel/bo.txt"] = {"size": 3_000_001}
    hub.requests.clear()
    message(fetch)
    assert stored(tmp_path / "texts") == before
    assert record(tmp_path / "texts")["commit"] == COMMIT

    hub.listing.clear()
    fetch()
    assert stored(tmp_path / "texts") == hub.files
    assert record(tmp_path / "texts")["commit"] == NEXT_COMMIT
    assert "empty.txt" not in {name for name, _ in hub.requests}  # the same in both commits


@pytest.mark.parametrize(
    ("refusal", "way_out"),
    [
        ((403, {"X_Error_Code": "GatedRepo"}), "Accept the conditions"),
        ((401, {"X_Error_Code": "RepoNotFound"}), "for a private one set HF_TOKEN"),
        ((401, {"X_Error_Message": "Invalid credentials in Authorization header"}), "HF_TOKEN"),
        ((404, {}), "Check `repo_id`"),
        ((200, {}), "the answer is no hub's"),
    ],
)
def test_a_refusal_is_one_message_with_the_way_out(
    hub: Hub, fetch: Callable[..., str], tmp_path: Path, refusal: tuple[int, dict[str, str]], way_out: str
) -> None:
    hub.refusal = refusal
    text = message(fetch)
    assert way_out in text
    assert f"{hub.endpoint}/datasets/{REPO}" in text
    assert "hf_secret" not in text


def test_other_ways_to_fail(
    hub: Hub, fetch: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no revision 'v9'" in message(fetch, revision="v9")
    assert "organisation/name" in message(fetch, repo_id="a/b/c")
    hub.listing["parallel/bo.txt"] = {"size": 10**15}
    assert "1,000,000.0 GB are still to be fetched" in message(fetch)
    hub.listing["parallel/bo.txt"] = {"rfilename": "../bo.txt"}
    assert "'../bo.txt'" in message(fetch)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "set HF_ENDPOINT to a mirror" in message(fetch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message(fetch)
    assert stored(tmp_path / "texts") == {}
    with pytest.raises(UserError, match="names nothing to download"):
        download_sources(SimpleNamespace(download=[], data_dir="-"))


def test_two_downloads_into_one_folder_are_refused() -> None:
    def load(*folders: str) -> PreprocessSettings:
        items = [{"repo_id": f"lab/{n}", "repo_type": "dataset", "local_dir": f} for n, f in enumerate(folders)]
        overrides = ["data_dir=data", f"download={json.dumps(items)}"]
        return load_settings(PreprocessSettings, REPOSITORY / "configs/quickstart/preprocess.yaml", overrides)

    for one, other in (("{data_dir}/x", "{data_dir}/x"), ("{data_dir}/x", "data/y/../x/"), ("data/x", "./data/x")):
        with pytest.raises(UserError, match=rf"download\.2 has the local_dir of download\.0, {re.escape(other)};"):
            load(one, "elsewhere", other)
    settings = load("{data_dir}/x", "{data_dir}/x/y", "{data_dir}")
    assert [str(item.folder(settings.data_dir)) for item in settings.download] == ["data/x", "data/x/y", "data"]
