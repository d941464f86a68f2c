"""A tokenizer trained by stage 1: on what, how it is told of, what is refused, and that anyone opens it the same."""

from __future__ import annotations

import json
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from pydantic import ValidationError
from transformers import AutoTokenizer, LlamaConfig, Qwen3Config

from langadapt.corpus import new_tokenizer
from langadapt.errors import UserError
from langadapt.files import sha256_of
from langadapt.models import conversation, encode_conversation, load_tokenizer
from langadapt.models.building import BYTES_ONLY, train_tokenizer
from langadapt.recipe.preprocess import PreprocessSettings

WORDS = {
    "en": ["market", "bank", "price", "river", "mountain", "paper", "winter", "summer", "letter", "garden", "engine"],
    "zh_hant": list("市場銀行價格河流山峰紙張冬天夏日書信花園機器學校"),
}
VOCABULARY, CUTOFF = 330, 90


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe on 150 pairs of random words, no two alike."""
    draw = random.Random(1)
    rows = [
        {
            code: (" " if code == "en" else "").join(draw.choices(words, k=draw.randint(8, 20)))
            for code, words in WORDS.items()
        }
        for _ in range(150)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys: dict[str, Any] = {
        "name": "new",
        "language": "zh_hant",
        "data_dir": str(tmp_path),
        "new_tokenizer": {"vocab_size": VOCABULARY, "output_dir": str(tmp_path / "tokenizer")},
        "output_dir": str(tmp_path / "out"),
        "cutoff_len": CUTOFF,
        "split_long_pairs": False,
        "workers": 1,
        "deduplicate": {"near": None},
        "sources": {
            "pairs": {"layout": "fields", "file": "pairs.jsonl", "fields": {code: code for code in ("en", "zh_hant")}}
        },
        "cpt": {"tokens": 3000, "parts": [{"source": "pairs"}]},
        "sft": {"parts": [{"source": "pairs", "task": "translation", "direction": "en-zh_hant", "count": 90}]},
        "test": {"cpt": 10, "sft": 10, "max_share": 0.2},
        "prompts": {"en-zh_hant": ["Translate: {text}"]},
    }
    path = tmp_path / "preprocess.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def stage_1(recipe: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[str]:
    """Run stage 1 in this process; return the texts that a tokenizer was trained on."""
    seen: list[str] = []

    def train(texts: Any, vocab_size: int) -> Any:
        found = list(texts)
        seen.extend(found)
        return train_tokenizer(found, vocab_size)

    monkeypatch.setattr(new_tokenizer, "train_tokenizer", train)
    monkeypatch.setattr(sys, "argv", ["1_preprocess.py", "--config", str(recipe), *overrides])
    runpy.run_path(str(REPOSITORY / "1_preprocess.py"), run_name="__main__")
    return seen


def read(recipe: Path, name: str) -> Any:
    return json.loads((recipe.parent / "out" / name).read_text(encoding="utf-8"))


def texts_of(recipe: Path, part: str) -> set[str]:
    texts = {record["text"] for record in read(recipe, f"new_cpt_{part}.json")}
    messages = [conversation(record) for record in read(recipe, f"new_sft_{part}.json")]
    return texts | {message["content"] for some in messages for message in some}


def test_it_learns_from_training_text_alone_and_counts_the_lengths(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = set(stage_1(recipe, monkeypatch))
    assert seen
    assert seen <= texts_of(recipe, "final")
    assert not any(held_out in text for held_out in texts_of(recipe, "test") for text in seen)

    folder = tmp_path / "tokenizer"
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer) == VOCABULARY
    records = read(recipe, "new_sft_final.json")
    fitting = {r["id"] for r in records if len(encode_conversation(tokenizer, conversation(r))[0]) <= CUTOFF}
    assert {record["id"] for record in read(recipe, f"new_sft_filtered_{CUTOFF}.json")} == fitting
    assert 0 < len(fitting) < len(records)
    tokens = [len(tokenizer(record["text"]).input_ids) + 1 for record in read(recipe, "new_cpt_final.json")]
    assert sum(tokens) - max(tokens) < 3000 <= sum(tokens)

    report = read(recipe, "data_report.json")
    assert report["tokenizer"] == report["new_tokenizer"]["folder"] == str(folder)
    assert report["new_tokenizer"]["vocabulary"] == VOCABULARY
    assert report["new_tokenizer"]["sha256"]["tokenizer.json"] == sha256_of(folder / "tokenizer.json")
    assert set(report["tokenizers"]["tokenizers"]["tokenizer"]["languages"]) == {"en", "zh_hant"}
    assert "The first was trained by this run" in (tmp_path / "out" / "data_report.md").read_text(encoding="utf-8")


def test_the_same_texts_give_the_same_tokenizer_in_every_process(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = stage_1(recipe, monkeypatch)
    program = (
        "import json, sys; from langadapt.models.building import train_tokenizer; "
        f"print(train_tokenizer(json.load(sys.stdin), {VOCABULARY}).backend_tokenizer.to_str())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    written = json.loads((recipe.parent / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout)["model"] == written["model"]


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_auto_tokenizer_cuts_text_as_we_do(config: type, tmp_path: Path) -> None:
    """`AutoTokenizer` goes by the config beside the tokenizer, and for some model types changes how text is cut."""
    texts = ["It's 2024:  three\n spaces.", "「市場」的價格是 1,234.50 元。", " Ünïcode — ok?\t", "<|im_end|>"]
    train_tokenizer(texts * 3, 290).save_pretrained(tmp_path)
    config().save_pretrained(tmp_path)
    ours, theirs = load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert theirs(text).input_ids == ours(text).input_ids
        assert theirs.decode(theirs(text).input_ids) == text


def test_a_run_that_failed_later_goes_on_with_the_tokenizer_it_had(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from langadapt.corpus import report

    with monkeypatch.context() as broken:

        def full(*_: object) -> None:
            raise UserError("disk full")

        broken.setattr(report, "write_report", full)
        with pytest.raises(SystemExit):
            stage_1(recipe, broken)
    assert not (tmp_path / "out" / "data_report.json").exists()
    assert not stage_1(recipe, monkeypatch), "trained a second time"
    assert read(recipe, "data_report.json")["new_tokenizer"]["vocabulary"] == VOCABULARY


def test_a_sample_takes_of_every_part_its_share(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sum(len(text.encode()) for text in stage_1(recipe, monkeypatch, "cpt.tokens=2500"))
    shutil.rmtree(recipe.parent / "tokenizer")
    overrides = ["cpt.tokens=2500", "new_tokenizer.sample_bytes=4000", "new_tokenizer.vocab_size=300", "cutoff_len=200"]
    sample = sum(len(text.encode()) for text in stage_1(recipe, monkeypatch, *overrides))
    assert whole > 8000
    assert 4000 <= sample < 4500
    assert set(read(recipe, "data_report.json")["new_tokenizer"]["bytes of text"]) == {
        "pairs lm zh_hant",
        "pairs translation en-zh_hant",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "t"}, "either `tokenizer` .* or `new_tokenizer` .* both are there"),
        ({"new_tokenizer": None}, "neither is there"),
        ({"split_long_pairs": True}, "set split_long_pairs: false"),
        ({"output_dir": "tok/."}, "give the tokenizer a folder of its own"),
        ({"new_tokenizer": {"vocab_size": BYTES_ONLY, "output_dir": "tok"}}, "greater than or equal to 300"),
    ],
)
def test_contradictions_are_refused(recipe: Path, changes: dict[str, Any], message: str) -> None:
    keys = yaml.safe_load(recipe.read_text()) | {"new_tokenizer": {"vocab_size": VOCABULARY, "output_dir": "tok"}}
    with pytest.raises(ValidationError, match=message):
        PreprocessSettings.model_validate(keys | changes)


def test_a_vocabulary_too_large_and_the_folder_of_a_model_are_refused(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        stage_1(recipe, monkeypatch, "new_tokenizer.vocab_size=50000")
    assert "give no more than" in capsys.readouterr().err
    assert not (tmp_path / "tokenizer").exists()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        stage_1(recipe, monkeypatch)
    assert "holds a model" in capsys.readouterr().err
