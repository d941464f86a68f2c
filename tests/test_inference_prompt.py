"""Stage 6 as a user meets it: at a terminal, in a pipe, with --prompt, and with a model that is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
import torch
from conftest import CHINESE, REPOSITORY, TIBETAN

from langadapt.errors import UserError
from langadapt.inference.commands import handle
from langadapt.inference.conversation import Conversation, Responder, fit_prompt
from langadapt.inference.display import start_session
from langadapt.inference.lineup import Lineup
from langadapt.inference.session import Session
from langadapt.models import encode_prompt, end_of_turn_id, load_model, load_tokenizer
from langadapt.recipe import load_language, load_settings
from langadapt.recipe.inference import InferenceSettings
from langadapt.recipe.preprocess import PreprocessSettings

CONFIG = "configs/tibetan_qwen2.5_3b/inference.yaml"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def session(chat_model: Path) -> Session:
    return start(chat_model)


def start(folder: Path, *overrides: str) -> Session:
    settings = load_settings(InferenceSettings, REPOSITORY / CONFIG, [f"model_path={folder}", *overrides])
    return start_session(Lineup(settings), settings)


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_prompt_writes_the_answer_and_nothing_else(run_script: Run, chat_model: Path) -> None:
    result = run_script(
        "6_test_inference.py",
        "--model_path",
        chat_model,
        "--prompt",
        CHINESE[0],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},  # a locale that cannot write Tibetan
        encoding="utf-8",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, TIBETAN[0] + "\n", "")


def test_lines_of_a_pipe_are_answered_in_order(run_script: Run, chat_model: Path) -> None:
    lines = f"{CHINESE[0]}\n\n/clear\n{CHINESE[1]}\n/translate zh bo {CHINESE[2]}\n"
    result = run_script("6_test_inference.py", "--model_path", chat_model, input=lines)
    assert result.stdout.splitlines() == [TIBETAN[0], TIBETAN[1], TIBETAN[1]]
    assert (result.returncode, result.stderr) == (0, "The conversation is forgotten.\n")


def test_a_base_model_continues_text_and_says_so_once(run_script: Run, tiny_model: Path) -> None:
    result = run_script("6_test_inference.py", "--model_path", tiny_model, "max_new_tokens=5", input="a\nb\n")
    assert result.returncode == 0
    assert result.stderr.count("continues each text as plain text") == 1
    quiet = run_script(
        "6_test_inference.py", "--model_path", tiny_model, "prompt_format=text", "max_new_tokens=5", input="a\nb\n"
    )
    assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_path", "no/such/folder"], "no/such/folder: no such folder"),
        (["dtype=float17"], "`dtype` is 'float17'"),
        (["temprature=1"], "Did you mean `temperature`?"),
        (["translation_template=Translate"], "{text} is missing"),
        (["translation_templates.en-bo=an {x}"], "translation_templates.en-bo: only {source}"),
        (["--prompt", "x" * 2000], "the context of"),
    ],
)
def test_bad_input_ends_with_one_message_and_code_2(
    run_script: Run, chat_model: Path, arguments: list[str], message: str
) -> None:
    model = [] if "--model_path" in arguments else ["--model_path", chat_model]
    result = run_script("6_test_inference.py", *model, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model_path=tests", "not a model folder, config.json is missing"),
        ("device=cuda:99", "device=cuda:99: no GPU is visible here"),
        ("device=gpu", "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_model_that_cannot_be_opened_is_named(chat_model: Path, override: str, message: str) -> None:
    if "99" in override and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=message):
        start(chat_model, override)


def test_help_names_every_key_without_loading_torch(run_script: Run) -> None:
    result = run_script("-X", "importtime", "6_test_inference.py", "--help")
    assert all(f"{key}:" in result.stdout for key in InferenceSettings.model_fields)
    assert "| torch\n" not in result.stderr


class TestTerminal:
    @pytest.fixture
    def terminal(self, chat_model: Path, tmp_path: Path) -> Iterator[Callable[..., pexpect.spawn]]:
        started = []

        def start(model: Path = chat_model, *overrides: str) -> pexpect.spawn:
            # The pseudo-terminal is nobody's: it does not answer when asked where its cursor is.
            environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
            child = pexpect.spawn(
                sys.executable,
                ["6_test_inference.py", "--model_path", str(model), *overrides],
                cwd=REPOSITORY,
                env=environment,
                encoding="utf-8",
                timeout=60,
                dimensions=(40, 160),
            )
            started.append(child)
            child.expect("Ctrl-D ends")
            child.expect(">")
            return child

        yield start
        for child in started:
            child.close(force=True)

    def test_a_conversation(self, terminal: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
        child = terminal()
        child.sendline(CHINESE[0])
        child.expect_exact(TIBETAN[0])
        child.sendline("/help")
        child.expect_exact("/translate SRC TGT TEXT")
        child.sendline("/hepl")
        child.expect_exact("Did you mean /help?")
        child.sendline("/stats")
        child.expect(r"tokens/s, [\d.]+ syllables/s")
        child.expect("the model ended its answer")
        child.expect(">")
        child.sendcontrol("c")
        child.sendcontrol("d")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
        assert CHINESE[0] in (tmp_path / "langadapt" / "prompt_history").read_text(encoding="utf-8")

        again = terminal()
        again.send("\x1b[A" * 2)  # up to the last line but one of the session before
        again.expect_exact("/hepl")
        again.sendcontrol("c")
        again.expect(">")
        again.sendline("/exit")
        again.expect(pexpect.EOF)
        again.wait()
        assert again.exitstatus == 0

    def test_tab_completes_a_command(self, terminal: Callable[..., pexpect.spawn]) -> None:
        child = terminal()
        child.send("/sta\t")
        child.expect_exact("/stats")
        child.send("\r")
        child.expect_exact("There is no answer yet.")

    def test_ctrl_c_stops_an_answer_and_not_the_program(
        self, terminal: Callable[..., pexpect.spawn], chat_model: Path, tiny_model: Path, tmp_path: Path
    ) -> None:
        endless = shutil.copytree(tiny_model, tmp_path / "endless")
        config = json.loads((endless / "config.json").read_text())
        (endless / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**7}))
        child = terminal(chat_model, "--model_path", str(endless), "max_new_tokens=1000000")
        child.sendline(f"/compare {CHINESE[0]}")
        child.expect_exact("[endless …]")
        child.sendintr()  # the first has answered; the second is stopped
        child.expect_exact("བོད་ཀྱི་སྐད་ཡིག་ནི་")
        child.expect(rf"{chat_model.name}: \d+ tokens, [^\n]*, ended")
        child.expect(r"endless: \d+ tokens, [^\n]*, stopped")
        child.expect_exact(f"{chat_model.name}>")
        child.sendline("/use endless")
        child.expect_exact("endless>")
        child.sendline("བོད")
        child.expect(r"[^\n\x1b]{50}")  # the answer has begun
        child.setwinsize(20, 60)
        child.expect(r"[^\n\x1b]{50}")  # and goes on in a smaller window
        child.sendintr()
        child.expect_exact("endless>")
        child.sendline("/stats")
        child.expect("by Ctrl-C")
        child.expect(">")
        child.sendeof()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0

    def test_several_models_in_columns_that_follow_the_size_of_the_terminal(
        self, terminal: Callable[..., pexpect.spawn], chat_model: Path, tiny_model: Path
    ) -> None:
        child = terminal(chat_model, "--model_path", f"other={tiny_model}", "max_new_tokens=20")
        name = chat_model.name
        child.sendline(f"/compare {CHINESE[0]}")
        child.expect(rf"{name} +│ other \(continues plain text\)")
        child.expect_exact("─ │ ─")
        child.expect_exact("བོད་ཀྱི་སྐད་ཡིག་ནི་")
        child.expect(r"other: 20 tokens, [\d.]+ tokens/s, [\d.]+ syllables/s, first after [\d.]+ s, cut")
        child.expect_exact(f"{name}>")
        child.setwinsize(40, 40)
        child.sendline(f"/compare {CHINESE[0]}")
        child.expect_exact(f"[{name}]\r\n")
        child.expect_exact("[other (continues plain text)]\r\n")
        assert "│" not in child.before
        child.expect_exact(f"{name}>")
        child.send("/use oth\t\r")
        child.expect_exact("other answers now")
        child.expect_exact("other>")

    def test_lines_are_started_and_sent(self, terminal: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
        child = terminal()
        child.send("one\x1b\rtwo\\\rthree\r")
        child.expect(r"\[\d+ tokens, [\d.]+ tokens/s")
        child.expect(">")
        child.sendline(f"/save {tmp_path / 'kept.json'}")
        child.expect_exact("written: ")
        saved = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
        assert saved["messages"][0] == {"role": "user", "content": "one\ntwo\nthree"}
        child.expect(">")
        child.sendline("/clear")
        child.expect_exact("forgotten")
        child.expect(">")
        child.send(f"/load {tmp_path}/kep\t\r")
        child.expect_exact("1 questions and answers")


def test_turns_are_remembered_until_cleared(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    handle(session, CHINESE[0])
    handle(session, f"/translate zh bo {CHINESE[1]}")
    handle(session, "/system 你好")
    assert session.conversation.messages("x") == [
        {"role": "system", "content": "你好"},
        {"role": "user", "content": CHINESE[0]},
        {"role": "assistant", "content": TIBETAN[0]},
        {"role": "user", "content": "x"},
    ]
    handle(session, "/clear")
    handle(session, "/system")
    assert session.conversation.messages("x") == [{"role": "user", "content": "x"}]


def test_translate_asks_in_the_words_of_training(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    for text, answer in zip(CHINESE, reversed(TIBETAN), strict=True):
        handle(session, f"/translate zh bo {text}")
        assert out(capsys) == answer + "\n"


@pytest.mark.parametrize(
    "recipe",
    sorted(
        path.parent
        for path in REPOSITORY.glob("configs/*/preprocess.yaml")
        if (path.parent / "inference.yaml").exists()  # configs/csas is the data of several recipes
    ),
)
def test_the_recipes_translate_in_the_words_of_their_training_data(recipe: Path) -> None:
    inference = load_settings(InferenceSettings, recipe / "inference.yaml")
    preprocess = load_settings(PreprocessSettings, recipe / "preprocess.yaml")
    for direction, prompts in preprocess.prompts.items():
        source, target = (load_language(code).names[inference.prompt_language] for code in direction.split("-"))
        template = inference.translation_templates.get(direction, inference.translation_template)
        assert template.format(source=source, target=target, text="{text}") in prompts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/translat zh bo 你好", "Did you mean /translate?"),
        ("/xyzzy", "/help lists the commands"),
        ("/translate zh bo", "expected /translate SRC TGT TEXT"),
        ("/translate zh xx 你好", "no profile for the language 'xx'"),
        ("/set temperature hot", "`temperature` is 'hot'"),
        ("/set top_p 1.5", "less than or equal to 1"),
        ("/set max_new_token 5", "Did you mean `max_new_tokens`?"),
        ("/set model_path x", "unknown key `model_path`"),
        ("好" * 600, "the context of"),
        ("\udcff", "not valid UTF-8"),
    ],
)
def test_a_bad_line_says_what_is_wrong(session: Session, line: str, message: str) -> None:
    before = session.settings
    with pytest.raises(UserError) as error:
        handle(session, line)
    assert message in str(error.value)
    assert session.settings == before
    assert session.conversation.exchanges == []


def test_set_changes_how_it_answers(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    handle(session, "/set max_new_tokens 3")
    handle(session, CHINESE[0])
    captured = capsys.readouterr()
    assert TIBETAN[0].startswith(captured.out.rstrip("\n\ufffd"))
    assert captured.out != TIBETAN[0] + "\n"
    assert "cut after 3 tokens" in captured.err
    assert session.last_answer is not None
    assert session.last_answer.token_count == 3


def test_an_outgrown_conversation_forgets_its_oldest_turns(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    context = session.responder.context_length
    assert context == 256
    for _ in range(8):
        handle(session, CHINESE[0])
        assert session.last_answer is not None
        assert session.last_answer.prompt_tokens + session.last_answer.token_count <= context
    assert "questions and answers forgotten: the 1 oldest" in capsys.readouterr().err
    assert 0 < len(session.conversation.exchanges) < 8


def test_the_prompt_leaves_out_as_little_as_it_can(session: Session) -> None:
    conversation = Conversation("系统", [(f"{n}", "x") for n in range(20)])
    ids, skipped = fit_prompt(session.responder, conversation, "好", max_new_tokens=1000)
    tokenizer = session.responder.tokenizer
    lengths = [len(encode_prompt(tokenizer, conversation.messages("好", skip))) for skip in range(21)]
    room = 256 - 256 // 4
    assert lengths[skipped - 1] > room >= lengths[skipped] == len(ids)


def test_prompt_format_overrides_what_the_model_was_trained_on(chat_model: Path, tiny_model: Path) -> None:
    def opened(folder: Path, prompt_format: str) -> Responder:
        settings = load_settings(InferenceSettings, None, [f"model_path={folder}", prompt_format])
        return Lineup(settings).get(folder.name)

    assert opened(chat_model, "prompt_format=auto").chat
    assert not opened(chat_model, "prompt_format=text").chat
    assert not opened(tiny_model, "prompt_format=auto").chat
    forced = opened(tiny_model, "prompt_format=chat")
    assert forced.chat
    assert end_of_turn_id(forced.tokenizer) in forced.stop_ids


def test_a_model_without_template_cannot_be_asked_to_chat(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no_template"
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    load_model(str(tiny_model)).save_pretrained(folder)
    assert not start(folder).responder.chat
    with pytest.raises(UserError, match="has no chat template"):
        start(folder, "prompt_format=chat")
