"""The page of stage 6 in a real browser: it streams, compares, stops, exports, and takes what models write for text."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import CHINESE, PAIRS, REPOSITORY, TIBETAN

from langadapt.errors import UserError
from langadapt.inference import web
from langadapt.inference.transcript import load_conversation
from langadapt.models import encode_prompt, load_tokenizer
from langadapt.models.translation import TRANSLATION_FILE
from langadapt.recipe import load_settings
from langadapt.recipe.inference import InferenceSettings

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

HOSTILE = '<img src=x onerror="document.title = 1"><script>document.title = "taken"</script>'


@pytest.fixture(scope="module")
def served(
    chat_model: Path, tiny_model: Path, translators: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a running page with three models: one that answers, one that never ends by itself, a translator.

    Ctrl-C ends the server in the middle of an answer, without a word.
    """
    endless = shutil.copytree(tiny_model, tmp_path_factory.mktemp("web") / "endless")
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**7}))
    models = [f"--model_path=sft={chat_model}", f"--model_path=base={endless}"]
    translator = shutil.copytree(translators["m2m100"], endless.parent / "mt")
    (translator / TRANSLATION_FILE).write_text(json.dumps({"directions": ["en-fr"]}))  # knows fr-en as well
    models.append(f"--model_path=mt={translator}")
    command = [sys.executable, "6_test_inference.py", *models, "--web", "web_port=0", "device=cpu", "max_new_tokens=30"]
    written = endless.parent / "stderr.txt"
    with (
        written.open("w") as stderr,
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield found[0]
        asked = {"model": "base", "question": "a", "sampling": {"max_new_tokens": "1000000"}}
        with urllib.request.urlopen(f"{found[0]}/answer", json.dumps(asked).encode()) as answer:
            assert b"piece" in answer.readline()
            server.send_signal(signal.SIGINT)
            assert json.loads(answer.read().splitlines()[-1])["reply"]["stop_reason"] == "interrupted"
        assert server.wait(timeout=30) == 0
    assert "Traceback" not in written.read_text()


@pytest.fixture
def page(browser: Any, served: str) -> Iterator[Any]:
    """The page in a tab of its own; the test fails on an error in it or a request to anything but its server."""
    context = browser.new_context()
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    allowed = (f"{served}/", f"blob:{served}/", "data:")
    opened.on("request", lambda r: errors.append(r.url) if not r.url.startswith(allowed) else None)
    opened.goto(served)
    opened.wait_for_selector("#sampling input")
    yield opened
    context.close()
    assert errors == []


def ask(page: Any, question: str, button: str = "#send") -> None:
    page.fill("#question", question)
    page.click(button)
    page.wait_for_selector("#stop:disabled")


def post(address: str, path: str, body: dict[str, Any], **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_conversation_is_answered_kept_and_exported(page: Any, chat_model: Path, tmp_path: Path) -> None:
    ask(page, CHINESE[0])
    ask(page, CHINESE[1])
    answers = page.locator(".reply .text").all_inner_texts()
    assert answers[0] == TIBETAN[0]
    said = page.locator(".figures").last.inner_text()
    assert re.fullmatch(r"\d+ tokens, [\d.]+ tokens/s, [\d.]+ syllables/s, first after [\d.]+ s, ended", said)
    page.reload()
    page.wait_for_selector(".reply")
    assert page.locator(".question").all_inner_texts() == CHINESE[:2]
    ask(page, "你", "#compare")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "kept.json")
    conversation, sampling, _ = load_conversation(tmp_path / "kept.json")
    assert conversation.exchanges == list(zip(CHINESE[:2], answers, strict=True))
    kept = json.loads(page.evaluate("sessionStorage.getItem('conversation')"))
    prompt = encode_prompt(load_tokenizer(str(chat_model)), conversation.messages()[:-1])
    assert kept[1]["replies"][0]["reply"]["prompt_tokens"] == len(prompt)  # the first turn was part of it
    assert sampling.max_new_tokens == 30
    compared = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["comparisons"]
    assert [reply["model"] for reply in compared[0]["replies"]] == ["sft", "base", "mt"]
    page.click("#undo")
    page.click("#undo")
    page.click("#retry")
    page.wait_for_selector("#stop:disabled")
    assert page.locator(".reply .text").all_inner_texts() == TIBETAN[:1]
    page.click("#clear")
    assert page.locator("article").count() == 0


def test_all_models_side_by_side(page: Any) -> None:
    ask(page, CHINESE[0], "#compare")
    assert page.locator(".reply h2").all_inner_texts() == ["sft", "base (continues plain text)", "mt (en-fr)"]
    assert page.locator(".reply .text").first.inner_text() == TIBETAN[0]
    boxes = [page.locator(".reply").nth(n).bounding_box() for n in range(3)]
    for left, right in pairwise(boxes):
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]


def test_a_translator_says_its_direction_and_which_it_cannot(page: Any) -> None:
    (english, french), (other, _) = PAIRS[:2]
    ask(page, CHINESE[0])
    page.select_option("#model", "mt")
    ask(page, english)
    page.fill("[name=direction]", "fr-en")
    ask(page, french)
    assert page.locator(".reply h2").all_inner_texts() == ["sft", "mt (en-fr)", "mt (fr-en)"]
    assert page.locator(".reply .text").all_inner_texts() == [TIBETAN[0], french, english]
    assert page.evaluate("exchanges()") == [[CHINESE[0], TIBETAN[0]]]  # translations are no part of a conversation
    page.fill("[name=direction]", "zh-bo")
    ask(page, other)
    assert "no token for the language bo" in page.locator("#status").inner_text()
    ask(page, CHINESE[1], "#compare")
    for _ in range(2):  # as it comes, and as it is kept
        last = page.locator("article").last.locator(".reply")
        assert last.locator("h2").all_inner_texts() == ["sft", "base (continues plain text)", "mt"]
        assert "no token for the language bo" in last.last.inner_text()
        page.reload()
        page.wait_for_selector(".reply")


def test_an_answer_streams_and_can_be_stopped(page: Any) -> None:
    page.select_option("#model", "base")
    page.fill("[name=max_new_tokens]", "1000000")
    page.fill("#question", "བོད")
    page.press("#question", "Enter")
    text = page.locator(".reply .text")
    text.filter(has_text=re.compile(r"[\s\S]{20}")).wait_for()
    seen = text.inner_text()
    page.click("#stop")
    page.wait_for_selector("#stop:disabled")
    assert text.inner_text().startswith(seen[:20])
    assert page.locator(".figures").inner_text().endswith(", stopped")


def test_a_tab_that_is_closed_makes_room_for_the_next_question(page: Any, browser: Any, served: str) -> None:
    context = browser.new_context()
    other = context.new_page()
    other.goto(served)
    other.wait_for_selector("#sampling input")
    other.select_option("#model", "base")
    other.fill("[name=max_new_tokens]", "1000000")
    other.fill("#question", "a")
    other.click("#send")
    other.wait_for_selector(".reply")
    page.fill("#question", CHINESE[0])
    page.click("#send")
    page.get_by_text("waits for its turn").wait_for()
    context.close()
    page.wait_for_selector("#stop:disabled")
    assert page.locator(".reply .text").inner_text() == TIBETAN[0]


def test_what_is_written_is_shown_and_not_run(page: Any) -> None:
    # The question is shown as answers are; and an answer that the server would have sent.
    event = {"reply": {"model": "sft", "answer": HOSTILE}, "figures": HOSTILE, "title": HOSTILE}
    pieces = [{"model": "sft", "piece": HOSTILE[:10]}, {"model": "sft", "piece": HOSTILE[10:]}, event]
    page.route("**/answer", lambda route: route.fulfill(body="".join(json.dumps(piece) + "\n" for piece in pieces)))
    ask(page, HOSTILE)
    for shown in (".question", ".reply h2", ".reply .text", ".figures"):
        assert page.locator(shown).inner_text() == HOSTILE
    assert page.title() == "Models"
    assert page.locator("article img, article script").count() == 0


def test_what_cannot_be_asked_is_said_and_the_question_stays(page: Any) -> None:
    ask(page, "好" * 600)
    assert "the context of sft holds 256" in page.locator("#status").inner_text()
    assert page.input_value("#question") == "好" * 600
    assert page.locator("article").count() == 0


def test_other_sites_and_wrong_requests_are_refused(served: str) -> None:
    asked = {"model": "sft", "question": CHINESE[0], "id": "1"}
    status, text = post(served, "/answer", asked, Origin=served)
    assert (status, json.loads(text.splitlines()[-1])["reply"]["answer"]) == (200, TIBETAN[0])
    assert post(served, "/answer", asked, Origin="http://example.org")[0] == 403
    assert post(served, "/answer", asked, Host="example.org")[0] == 400
    for wrong in ({"model": "no"}, {"sampling": {"top_p": "7"}}, {"sampling": {"model_path": "x"}}, {"more": 1}):
        assert post(served, "/answer", {**asked, **wrong})[0] == 400


def test_a_port_that_is_taken_and_packages_that_lack_are_named(
    served: str, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = served.rpartition(":")[2]
    settings = load_settings(InferenceSettings, None, [f"model_path={chat_model}", f"web_port={port}"])
    with pytest.raises(UserError, match=f"web_port={port}: Address already in use"):
        web.serve(settings)
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install starlette uvicorn"):
        web.serve(settings)
