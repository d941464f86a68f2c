"""--input and --output: every question answered once, in order, whatever was killed between."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHINESE, TIBETAN

from langadapt.errors import UserError
from langadapt.inference import answering as module
from langadapt.inference.answering import answer_file
from langadapt.inference.lineup import Lineup
from langadapt.recipe import load_settings
from langadapt.recipe.inference import InferenceSettings


def answered(model: Path, source: Path, output: Path, *overrides: str) -> dict[str, object]:
    settings = load_settings(InferenceSettings, None, [f"model_path={model}", "device=cpu", *overrides])
    return answer_file(Lineup(settings), settings, str(source), str(output))


def test_lines_in_lines_out(
    run_script: Callable[..., subprocess.CompletedProcess[str]], chat_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text(f"{CHINESE[0]}\n\n{CHINESE[1]}\n", encoding="utf-8")
    command = ["6_test_inference.py", "--model_path", chat_model, "--input", tmp_path / "in.txt"]
    result = run_script(*command, "--output", tmp_path / "out.txt")
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "answers: 2, cut off: 0")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == f"{TIBETAN[0]}\n\n{TIBETAN[1]}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]
    assert run_script(*command).returncode == 2


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_records_keep_their_ids(chat_model: Path, tmp_path: Path, suffix: str) -> None:
    records = [{"id": "b", "instruction": CHINESE[0]}, {"instruction": CHINESE[1], "input": ""}]
    source, output = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    answered(chat_model, source, output)
    text = output.read_text(encoding="utf-8")
    found = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert [(record["id"], record["output"]) for record in found] == [("b", TIBETAN[0]), ("1", TIBETAN[1])]


@pytest.mark.parametrize("override", ["temperature=0", "temperature=1.5"])
def test_a_run_that_was_killed_goes_on(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("\n".join(CHINESE), encoding="utf-8")
    overrides = (override, "seed=3", "max_new_tokens=20")
    answered(chat_model, source, tmp_path / "whole.jsonl", *overrides)
    asked = []

    def dies(generate: object, results: object, keys: list[str], *rest: object, **options: object) -> object:
        add = results.add

        def add_two(key: str, value: object) -> None:
            asked.append(key)
            if len(asked) == 3:
                raise KeyboardInterrupt
            add(key, value)

        results.add = add_two
        return generate_missing(generate, results, keys, *rest, **options)

    generate_missing = module.generate_missing
    with monkeypatch.context() as patch:
        patch.setattr(module, "generate_missing", dies)
        with pytest.raises(KeyboardInterrupt):
            answered(chat_model, source, tmp_path / "killed.jsonl", *overrides)
    assert not (tmp_path / "killed.jsonl").exists()
    kept = (tmp_path / "killed.partial.jsonl").read_text().splitlines()
    assert len(kept) == 3  # what it is of, and two answers
    answered(chat_model, source, tmp_path / "killed.jsonl", *overrides)
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not (tmp_path / "killed.partial.jsonl").exists()


def test_what_cannot_be_answered_is_named(chat_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text(f"{CHINESE[0]}\n{'好' * 600}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"in\.txt, line 2: the text takes"):
        answered(chat_model, source, tmp_path / "out.txt")
    with pytest.raises(UserError, match="would replace the questions"):
        answered(chat_model, source, source)
