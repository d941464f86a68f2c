"""What stage 1 writes into its output folder, and what it leaves alone there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from langadapt.corpus.outputs import output_names
from langadapt.files import files_vouched_for, staged_folder, write_json
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    chance = random.Random(0)
    words = ["sky", "earth", "dark", "time", "space", "moon", "sun", "star", "cold", "heat", "rain", "dew"]
    pairs = [
        {"en": f"{n} " + " ".join(chance.choices(words, k=9)), "bo": f"{n} " + "་".join(chance.choices("ཀཁགངཅཆ", k=9))}
        for n in range(100)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    keys: dict[str, Any] = {
        "name": "t",
        "language": "bo",
        "data_dir": str(tmp_path),
        "tokenizer": str(tiny_model),
        "output_dir": str(tmp_path / "out"),
        "workers": 1,
        "sources": {"pairs": {"layout": "fields", "file": "pairs.jsonl", "fields": {"bo": "bo", "en": "en"}}},
        "cpt": {"count": 50, "parts": [{"source": "pairs"}]},
        "sft": {"parts": [{"source": "pairs", "task": "translation", "direction": "en-bo", "count": 50}]},
        "prompts": {"en-bo": ["Translate: {text}"]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def test_a_run_replaces_its_own_files_and_no_others(run_script: Callable, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "t_notes.json").write_text("mine", encoding="utf-8")
    for cutoff in (2048, 1000):
        result = run_script("1_preprocess.py", "--config", recipe, f"cutoff_len={cutoff}")
        assert result.returncode == 0, result.stderr
        written = output_names(load_settings(PreprocessSettings, recipe, [f"cutoff_len={cutoff}"]))
        assert {path.name for path in out.iterdir()} == {*written, "t_notes.json"}
    assert (out / "t_notes.json").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("key", ["sources.pairs", "decontaminate"])
@pytest.mark.parametrize("name", ["t_cpt_final.json", "old_sft_final.json"])
def test_what_a_run_reads_it_does_not_replace(
    run_script: Callable, recipe: Path, tmp_path: Path, key: str, name: str
) -> None:
    """Neither a file of a name that it writes, nor one of the last run, which it would delete."""
    out = tmp_path / "out"
    out.mkdir()
    write_json(out / "data_report.json", {"files": {"old_sft_final.json": {}}})
    records = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    (out / name).write_text(f"[{','.join(records)}]", encoding="utf-8")
    before = (out / name).read_bytes()
    override = f"sources.pairs.file=out/{name}" if key == "sources.pairs" else f"decontaminate=[out/../out/{name}]"
    result = run_script("1_preprocess.py", "--config", recipe, override)
    assert result.returncode == 2
    assert f"{name} of `{key}` is a file that this run would replace or delete" in result.stderr
    assert (out / name).read_bytes() == before


def test_the_old_files_of_a_staged_folder_go_with_the_old_report(tmp_path: Path) -> None:
    for name in ("old", "kept", "mine"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    with staged_folder(tmp_path, last="report", stale=["old", "kept", "gone"]) as folder:
        (folder / "kept").write_text("new", encoding="utf-8")
        (folder / "report").write_text("new", encoding="utf-8")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "kept": "new",
        "mine": "old",
        "report": "new",
    }


def test_a_report_vouches_for_files_beside_it_only(tmp_path: Path) -> None:
    assert files_vouched_for(tmp_path) == []
    (tmp_path / "data_report.json").write_text("{broken", encoding="utf-8")
    assert files_vouched_for(tmp_path) == []
    write_json(tmp_path / "data_report.json", {"files": {"a.json": {}, "../b.json": {}, "/c.json": {}}})
    assert files_vouched_for(tmp_path) == ["a.json"]
