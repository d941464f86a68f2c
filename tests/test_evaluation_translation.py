"""Hypotheses are generated once each, whatever kills the run and however many processes take part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHINESE, REPOSITORY, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.generation.engine import Engine, open_engine, transformers_engine
from langadapt.evaluation.generation.prompts import ask, few_shot_text
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.evaluation.generation.translation import open_predictions, translate
from langadapt.evaluation.results import Prediction
from langadapt.evaluation.test_sets import TranslationSet
from langadapt.models import encode_text, load_model, load_tokenizer
from langadapt.recipe.evaluation import EvaluationSettings

Record = dict[str, Any]
ALONE = Ranks()


def pair(name: str, source: str, target: str) -> Record:
    return {"id": name, "instruction": f"请翻译成藏文：{source}", "input": "", "output": target, "source_lang": "zh",
            "target_lang": "bo", "source_text": source, "source": "made up"}  # fmt: skip


RECORDS = [pair(str(n), source, target) for n, (source, target) in enumerate(zip(CHINESE, TIBETAN, strict=True))]
# More records than four, of several lengths, for runs that are to be interrupted.
MANY = [pair(f"m{n}", CHINESE[n % 4] * (1 + n % 3), TIBETAN[n % 4] * (1 + n % 3)) for n in range(24)]
SET = TranslationSet("dates", "zh-bo", MANY, [])


@pytest.fixture(scope="module")
def knowing_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned the four translations, and to go on with another after a blank line."""
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prompts = [few_shot_text(record, [], "zh") for record in RECORDS]
    texts = [
        f"{prompt} {record['output']}\n\n{other}"
        for prompt, record, other in zip(prompts, RECORDS, [*prompts[1:], prompts[0]], strict=True)
    ]
    for _ in range(60):
        for text in texts:
            ids = torch.tensor([encode_text(tokenizer, text)])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("knowing_model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, out: Path, **changes: Any) -> EvaluationSettings:
    return EvaluationSettings(model_path=str(model), model_name="m", output_dir=str(out), device="cpu", **changes)


def run(asked: EvaluationSettings, test: TranslationSet = SET) -> tuple[list[Prediction], Engine, list[str]]:
    """All hypotheses, the engine, and the lines of the partial file as the run left it."""
    engine = open_engine(asked, ALONE)
    with open_predictions(asked, engine, [test], ALONE) as predictions:
        found, _ = translate(engine, test, "few_shot", 0, asked, predictions)
    return found, engine, partial_file(asked).read_text(encoding="utf-8").splitlines()


def partial_file(asked: EvaluationSettings) -> Path:
    return Path(asked.output_dir) / "m_predictions.partial.jsonl"


def test_a_model_that_knows_the_translations_gives_them(knowing_model: Path, tmp_path: Path) -> None:
    asked = settings(knowing_model, tmp_path, token_budget=200)
    engine = open_engine(asked, ALONE)
    test = TranslationSet("four", "zh-bo", [*RECORDS[:3], RECORDS[3] | {"neighbour": "ཨ"}], [])
    predictions = open_predictions(asked, engine, [test], ALONE)
    found, prompt = translate(engine, test, "few_shot", 0, asked, predictions)
    assert [p.id for p in found] == [record["id"] for record in RECORDS]
    assert [p.hypothesis for p in found] == [p.reference for p in found] == TIBETAN
    assert [p.prompt for p in found] == [few_shot_text(record, [], "zh") for record in RECORDS]
    assert {(p.test_set, p.direction, p.prompt_name, p.examples, p.stop_reason, p.origin) for p in found} == {
        ("four", "zh-bo", "0-shot", 0, "stop", "made up")
    }
    assert [p.neighbour for p in found] == [None, None, None, "ཨ"]
    assert (prompt.format, prompt.asked, prompt.examples) == ("few_shot", 0, {0: 4})
    assert prompt.first == found[0].prompt
    plan = engine.describe(ALONE)
    assert (plan["engine"], plan["dtype"], plan["num_beams"], plan["processes"]) == ("transformers", "float32", 1, 1)
    assert (plan["batches"] > 1, plan["resumed"]) == (True, 0)

    predictions.remove()
    assert not list(tmp_path.iterdir())


def test_examples_that_do_not_fit_are_counted(knowing_model: Path, tmp_path: Path) -> None:
    asked = settings(knowing_model, tmp_path)
    model, tokenizer = load_model(str(knowing_model)), load_tokenizer(str(knowing_model))
    options = {"prompt_language": "zh", "length_ratio": 1.5, "window": None}
    longest = max((ask(tokenizer, record, "few_shot", examples=RECORDS[2:], **options) for record in MANY[:3]),
                  key=lambda question: len(question.ids) + question.max_new_tokens)  # fmt: skip
    model.config.max_position_embeddings = len(longest.ids) + longest.max_new_tokens - 1
    engine = transformers_engine(model, tokenizer, asked)
    test = TranslationSet("few", "zh-bo", MANY[:3], RECORDS[2:])
    with open_predictions(asked, engine, [test], ALONE) as predictions:
        found, prompt = translate(engine, test, "few_shot", 2, asked, predictions)
    assert (prompt.asked, prompt.examples) == (2, {2: 2, 1: 1})
    assert [p.prompt.count("\n\n") for p in found] == [p.examples for p in found]
    assert prompt.name == "2-shot"


def test_a_killed_run_goes_on_without_repeating_or_losing_an_item(knowing_model: Path, tmp_path: Path) -> None:
    whole, _, lines = run(settings(knowing_model, tmp_path / "whole"))
    assert len(lines) == 1 + len(MANY)

    asked = settings(knowing_model, tmp_path / "killed", token_budget=1)
    with start(script(tmp_path, asked), tmp_path) as process:
        wait_for(lambda: partial_file(asked).exists() and partial_file(asked).read_bytes().count(b"\n") >= 5, process)
        process.send_signal(signal.SIGKILL)
    left = partial_file(asked).read_bytes()
    assert 5 <= left.count(b"\n") < len(MANY)
    torn = left[: left.rstrip(b"\n").rfind(b"\n") + 40]  # as if the kill had come in the middle of the last line
    partial_file(asked).write_bytes(torn)

    found, engine, lines = run(asked)
    assert found == whole
    assert engine.counts["resumed"] == torn.count(b"\n") - 1
    assert engine.counts["batches"] == len(MANY) - engine.counts["resumed"]
    keys = [json.loads(line)["key"] for line in lines[1:]]
    assert len(keys) == len({*keys}) == len(MANY)

    again, engine, _ = run(asked)
    assert again == whole
    assert (engine.counts["resumed"], engine.counts["batches"]) == (len(MANY), 0)


@pytest.mark.slow
def test_two_processes_take_items_in_turn_and_go_on_from_one(knowing_model: Path, tmp_path: Path) -> None:
    whole, _, _ = run(settings(knowing_model, tmp_path / "whole"))
    asked = settings(knowing_model, tmp_path / "two", token_budget=1)
    run(asked, TranslationSet("dates", "zh-bo", MANY, []))
    # Four were finished by a single process before.
    lines = partial_file(asked).read_text(encoding="utf-8").splitlines(keepends=True)
    partial_file(asked).write_text("".join(lines[:5]), encoding="utf-8")

    with start(script(tmp_path, asked), tmp_path, "-m", "torch.distributed.run", "--nproc-per-node=2") as process:
        assert process.wait(timeout=120) == 0
    for rank in (0, 1):
        returned = json.loads((tmp_path / f"returned{rank}.json").read_text(encoding="utf-8"))
        assert [Prediction.model_validate(value) for value in returned["predictions"]] == whole
        assert (returned["plan"]["processes"], returned["plan"]["resumed"], returned["plan"]["batches"]) == (2, 4, 20)
    own = [partial_file(asked), partial_file(asked).with_suffix(".1.jsonl")]
    assert [len(file.read_bytes().splitlines()) for file in own] == [1 + 4 + 10, 1 + 10]

    # One process goes on with the work of two.
    own[0].write_text("".join(own[0].read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    found, engine, _ = run(asked)
    assert found == whole
    assert engine.counts["resumed"] == 2 + 10


@pytest.mark.parametrize(
    ("changes", "records", "differs"),
    [({"strict": True}, MANY, "strict"), ({"length_ratio": 2.0}, MANY, "length_ratio"), ({}, MANY[::-1], "test_sets")],
)
def test_what_another_run_left_is_set_aside(
    knowing_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    records: list[Record],
    differs: str,
) -> None:
    run(settings(knowing_model, tmp_path), TranslationSet("dates", "zh-bo", MANY[:3], []))
    left = partial_file(settings(knowing_model, tmp_path)).read_bytes()
    _, engine, _ = run(settings(knowing_model, tmp_path, **changes), TranslationSet("dates", "zh-bo", records[:3], []))
    assert engine.counts["resumed"] == 0
    assert f"other {differs}: set aside as m_predictions.partial.jsonl.old" in capsys.readouterr().err
    assert (tmp_path / "m_predictions.partial.jsonl.old").read_bytes() == left


def test_a_model_that_was_trained_on_is_another(knowing_model: Path, tmp_path: Path) -> None:
    test = TranslationSet("dates", "zh-bo", MANY[:2], [])
    run(settings(knowing_model, tmp_path), test)
    weights = knowing_model / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert run(settings(knowing_model, tmp_path), test)[1].counts["resumed"] == 0


def test_a_broken_line_and_a_second_run_are_refused(knowing_model: Path, tmp_path: Path) -> None:
    asked, test = settings(knowing_model, tmp_path), TranslationSet("dates", "zh-bo", MANY[:2], [])
    run(asked, test)
    engine = open_engine(asked, ALONE)
    busy = open_predictions(asked, engine, [test], ALONE)
    with busy, pytest.raises(UserError, match="another run is at work"):
        open_predictions(asked, engine, [test], ALONE)
    lines = partial_file(asked).read_text(encoding="utf-8").splitlines(keepends=True)
    partial_file(asked).write_text(lines[0] + "{\n" + lines[2], encoding="utf-8")
    with pytest.raises(UserError, match="line 2: broken JSON"):
        open_predictions(asked, engine, [test], ALONE)


def test_vllm_that_is_not_there_is_said(knowing_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from langadapt.inference import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="vllm is not installed"):
        open_engine(settings(knowing_model, tmp_path, engine="vllm"), ALONE)
    with pytest.raises(UserError, match="without torchrun"):
        open_engine(settings(knowing_model, tmp_path, engine="vllm"), Ranks(0, 2))


def script(folder: Path, asked: EvaluationSettings) -> Path:
    """A program that translates MANY, and leaves what it returned in ``returned<rank>.json``."""
    path = folder / "translate_many.py"
    (folder / "records.json").write_text(json.dumps(MANY), encoding="utf-8")
    (folder / "settings.json").write_text(asked.model_dump_json(), encoding="utf-8")
    path.write_text(
        """
import json
from pathlib import Path

from langadapt.evaluation.generation.engine import open_engine
from langadapt.evaluation.generation.ranks import join_ranks
from langadapt.evaluation.test_sets import TranslationSet
from langadapt.evaluation.generation.translation import open_predictions, translate
from langadapt.recipe.evaluation import EvaluationSettings

folder = Path(__file__).parent
asked = EvaluationSettings.model_validate_json((folder / "settings.json").read_text())
test = TranslationSet("dates", "zh-bo", json.loads((folder / "records.json").read_text()), [])
with join_ranks() as ranks:
    engine = open_engine(asked, ranks)
    with open_predictions(asked, engine, [test], ranks) as predictions:
        found, _ = translate(engine, test, "few_shot", 0, asked, predictions)
    returned = {"predictions": [p.model_dump() for p in found], "plan": engine.describe(ranks)}
    (folder / f"returned{ranks.rank}.json").write_text(json.dumps(returned))
""",
        encoding="utf-8",
    )
    return path


def start(path: Path, folder: Path, *launcher: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, str(path)], env=environment, cwd=REPOSITORY, stdout=log, stderr=log
        )


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("nothing was written in a minute")
