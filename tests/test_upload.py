"""Upload against a server on this machine that stands in for the hub: what is asked of it, and what never is."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from langadapt.files import sha256_of, write_json, write_json_array

TOKEN = "hf_secretOfTheTests"


class Hub(ThreadingHTTPServer):
    """Answers as the hub does to what an upload of small files asks; keeps every request."""

    requests: list[tuple[str, str, dict[str, str], bytes]]
    private = True
    refuse = 0
    mode = "regular"  # or lfs: large files go elsewhere first, where nobody takes them

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def committed(self) -> dict[str, str]:
        """The files of all commits, as text."""
        files = {}
        for method, path, _, body in self.requests:
            if method == "POST" and "/commit/" in path:
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"]).decode(
                            errors="replace"
                        )
        return files


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_error(403, "no room for this")

    def answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.requests.append((method, self.path, dict(self.headers), body))
        status, answer = self.reply(body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def reply(self, body: bytes) -> tuple[int, Any]:
        if self.server.refuse:
            return self.server.refuse, {"error": "You may not."}
        if self.path == "/api/repos/create":
            return 200, {"url": f"{self.server.address}/me/small", "name": "me/small"}
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": f["path"], "uploadMode": self.server.mode, "shouldIgnore": False} for f in files]
            }
        if self.path.endswith("/info/lfs/objects/batch"):
            action = {"upload": {"href": f"{self.server.address}/large"}}
            return 200, {
                "transfer": "basic",
                "objects": [{**f, "actions": action} for f in json.loads(body)["objects"]],
            }
        if "/commit/" in self.path:
            url = f"{self.server.address}/me/small/commit/{'0' * 40}"
            return 200, {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": url,
                "hookOutput": "",
                "pullRequestUrl": None,
            }
        if "/tree/" in self.path or "/paths-info/" in self.path:
            return 200, []
        return 200, {"id": "me/small", "private": self.server.private, "sha": "0" * 40, "siblings": [], "tags": []}


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as a finished run leaves it, with what is nobody else's business."""
    folder = tmp_path / "model"
    names = ["config.json", "model.safetensors", "training_log.jsonl", ".lock", "checkpoint-4/optimizer.pt"]
    names += ["tokens-0123/ids", "adapter/README.md", "checkpoint-4/model.safetensors", "runs/events"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# model\n")
    return folder


@pytest.fixture
def upload(run_script: Callable, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*arguments: str | Path):
        done = run_script("-m", "langadapt.upload", *arguments, "--repo_id", "me/small")
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def test_it_asks_nothing_until_told_and_sends_a_finished_model(upload: Callable, hub: Hub, model: Path) -> None:
    card = (model / "README.md").read_text()
    said = upload(model, "--license", "apache-2.0")
    assert said.returncode == 0, said.stderr
    assert hub.requests == []
    assert (model / "README.md").read_text() == card
    assert "model me/small (private): 4 files" in said.stdout
    for name in (".lock", "checkpoint-4", "runs", "tokens-0123", "training_log.jsonl"):
        assert f"left out  {name}\n" in said.stdout
    assert "nothing was sent" in said.stdout

    sent = upload(model, "--license", "apache-2.0", "--go")
    assert sent.returncode == 0, sent.stderr
    files = hub.committed()
    assert sorted(files) == ["README.md", "adapter/README.md", "config.json", "model.safetensors"]
    assert "license: apache-2.0" in files["README.md"]
    created = next(json.loads(body) for _, path, _, body in hub.requests if path == "/api/repos/create")
    assert created["name"] == "small"
    assert created["visibility"] == "private"
    for _, path, headers, body in hub.requests:
        assert headers.get("authorization", headers.get("Authorization")) == f"Bearer {TOKEN}"
        assert TOKEN not in path
        assert TOKEN.encode() not in body


def test_a_private_upload_refuses_a_public_repository(upload: Callable, hub: Hub, model: Path) -> None:
    hub.private = False
    refused = upload(model, "--license", "mit", "--go")
    assert refused.returncode == 2
    assert "me/small is there already, and public" in refused.stderr
    assert not hub.committed()
    public = upload(model, "--license", "mit", "--go", "--public", "--logs")
    assert public.returncode == 0, public.stderr
    assert "training_log.jsonl" in hub.committed()
    hub.private = True
    refused = upload(model, "--license", "mit", "--go", "--public")
    assert "me/small is there already, and private. Leave out --public" in refused.stderr


def test_a_large_file_that_cannot_be_sent_is_named(upload: Callable, hub: Hub, model: Path) -> None:
    hub.mode = "lfs"
    failed = upload(model, "--license", "mit", "--go")
    assert failed.returncode == 2
    assert "Error while uploading" in failed.stderr
    assert "403" in failed.stderr
    assert "Run the same again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not hub.committed()


def test_what_the_hub_refuses_is_said(upload: Callable, hub: Hub, model: Path) -> None:
    hub.refuse = 403
    refused = upload(model, "--license", "mit", "--go")
    assert refused.returncode == 2
    assert "the hub refused (403)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_is_unfinished_unlicensed_or_changed_is_refused(
    upload: Callable, hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "states no licence" in upload(model, "--go").stderr
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN is not set" in upload(model, "--license", "mit", "--go").stderr
    (model / "config.json").unlink()
    assert "neither a finished model" in upload(model, "--license", "mit", "--go").stderr

    data = tmp_path / "data"
    data.mkdir()
    write_json_array(data / "x_dpo_final.json", [{"id": "1"}])
    entry = {"records": 1, "sha256": sha256_of(data / "x_dpo_final.json")}
    write_json(data / "data_report.json", {"files": {"x_dpo_final.json": entry}})
    (data / "data_report.md").write_text("# Pairs\n")
    said = upload(data, "--license", "cc-by-4.0").stdout
    assert "dataset me/small (private): 4 files" in said
    write_json_array(data / "x_dpo_final.json", [{"id": "2"}])
    assert "not what the last run of stage 1 wrote" in upload(data, "--license", "cc-by-4.0", "--go").stderr
    assert hub.requests == []
