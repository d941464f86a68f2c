"""Cleaning, deduplication, decontamination, quarantine and the run that goes on: stage 1 on text with known faults."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from langadapt.corpus.cleaning import REASONS, implausible_lengths, reasons_to_drop, repetition, unlike_pairs
from langadapt.corpus.duplicates import find_clusters
from langadapt.corpus.scan import BANDS, ScanTask, bands, scan_chunk, similarity
from langadapt.corpus.turns import spoken_in
from langadapt.recipe.cleaning import CleaningSettings, DeduplicationSettings
from langadapt.recipe.language import load_language
from langadapt.text import units
from langadapt.text.blocks import TextBlock, sequences

SYLLABLES = [a + b for a in "ཀཁགངཅཆཇཉཏཐདནཔཕབམ" for b in ("", "ི", "ུ", "ེ", "ོ", "འི", "ར", "ས")]


def tibetan(number: int, length: int = 40) -> str:
    chance = random.Random(number)
    return "་".join(chance.choice(SYLLABLES) for _ in range(length)) + "།"


@pytest.mark.parametrize(
    ("text", "limits", "reason"),
    [
        (tibetan(1), {}, "kept"),
        ("\u200b", {}, "blank"),
        ("… !", {}, "blank"),
        ("Only English words here", {}, "script_share"),
        (tibetan(1) + " and some English words", {"script_share": 0.9}, "script_share"),
        (tibetan(1, 4), {"min_units": 5}, "min_units"),
        (tibetan(1, 50), {"max_units": 49}, "max_units"),
        (tibetan(1) + "\ufffd\ufffd\ufffd", {}, "max_damaged"),
        (tibetan(1) + tibetan(2, 10).encode().decode("latin-1"), {}, "max_damaged"),
        (f"<div>{tibetan(1, 3)}</div></a>", {"max_markup": 0.2}, "max_markup"),
        (tibetan(1, 8) * 6, {"max_repetition": 0.5}, "max_repetition"),
    ],
)
def test_each_filter_drops_what_it_is_for(text: str, limits: dict, reason: str) -> None:
    found = reasons_to_drop(TextBlock([tibetan(5), text]), load_language("bo"), CleaningSettings(**limits))
    assert REASONS[found[0]] == "kept"
    assert REASONS[found[1]].startswith(reason)


def test_good_text_with_accents_is_no_mojibake() -> None:
    good = ["Ça va très bien à l’été, dit-il « déjà » — où ça ? 5 °C, l'œuvre…", "Ünïcödé ÀÉÎ", "naïve café"]
    assert not reasons_to_drop(TextBlock(good), load_language("en"), CleaningSettings()).any()
    broken = ["cafÃ© crÃ¨me trÃ¨s", "donâ€™t â€œdo itâ€\x9d"]
    assert all(
        REASONS[k].startswith("max_damaged")
        for k in reasons_to_drop(TextBlock(broken), load_language("en"), CleaningSettings())
    )


def test_repetition_is_the_share_of_runs_seen_before() -> None:
    words = ["a", "b", "c", "d", "e", "a", "b", "c", "d", "e", "a", "b", "c", "d", "e"]
    runs = [tuple(words[k : k + 5]) for k in range(len(words) - 4)]
    assert repetition(TextBlock([" ".join(words)]).units)[0] == pytest.approx(1 - len(set(runs)) / len(runs))


def test_pairs() -> None:
    source, target = ["in 1990 and 2003", "one two three", "no numbers"], ["1990年和2003年", "one two three", "没有 7"]
    limits = CleaningSettings(min_shared_numbers=0.5, max_copied=0.8)
    assert unlike_pairs(TextBlock(source), TextBlock(target), limits) == [
        None,
        "max_copied: target copies the source",
        None,
    ]
    assert "numbers" in str(unlike_pairs(TextBlock(["1990"]), TextBlock(["1991 年"]), limits)[0])
    lengths = np.full(100, 20)
    others = np.r_[np.random.default_rng(0).integers(18, 24, 98), 200, 1]
    assert np.flatnonzero(implausible_lengths(lengths, others, 3.0)[0]).tolist() == [98, 99]
    assert not implausible_lengths(lengths, others, None)[0].any()


def test_clusters_equal_brute_force() -> None:
    """Texts changed by little and by much, against all pairs compared by sets."""
    chance = random.Random(0)
    texts = [tibetan(k, 60) for k in range(40)]
    for k in range(60):
        words = texts[chance.randrange(40)].rstrip("།").split("་")
        for _ in range(k % 12):
            words[chance.randrange(len(words))] = "གཞན"
        texts.append("་".join(words) + ("།" if k % 2 else ""))
    texts.append("")
    settings = DeduplicationSettings(near=0.7, shingle=3)
    block = TextBlock(texts)
    keys = bands(block.units, settings)
    shares: list[float] = []
    clusters, report = find_clusters(
        sequences(block.units), lambda b: keys[b], lambda numbers: [texts[k] for k in numbers], settings, shares.append
    )

    def grams(text: str) -> set[tuple[str, ...]]:
        words = units(text)
        return {tuple(words[k : k + 3]) for k in range(len(words) - 2)}

    expected = list(range(len(texts)))
    sets = [grams(text) for text in texts]
    for a in range(len(texts)):
        for b in range(a):
            if sets[a] and len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.7:
                old, new = max(expected[a], expected[b]), min(expected[a], expected[b])
                expected = [new if value == old else value for value in expected]
    assert clusters.tolist() == expected
    assert report["equal"] > 0
    assert report["near"] > 0
    assert report["candidates refuted"] >= 0
    assert 0 < sum(shares) <= 1
    assert similarity(np.array([1, 2, 3]), np.array([2, 3, 4])) == 0.5


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    """Stage 1 on 400 pairs and 300 texts, of which some are made to be dropped."""
    data = tmp_path / "data"
    data.mkdir()
    pairs = [
        {"bo": tibetan(k, 12 + k % 7), "en": f"sentence number {k} says {k * 7} {'word ' * (k % 5)}"}
        for k in range(400)
    ]
    mono = [tibetan(1000 + k, 30) for k in range(300)]
    mono[5] = mono[4]  # equal
    mono[6] = mono[4].replace("།", "")  # equal but for punctuation
    mono[7] = "་".join([*mono[8].split("་")[:-1], "ཀྱང", "མིན།"])  # near
    mono[9] = pairs[3]["bo"]  # a duplicate of parallel text
    (data / "pairs.jsonl").write_text(
        "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in pairs), encoding="utf-8"
    )
    lines = [line.encode() for line in mono]
    lines[20] = b"\xff\xfe broken"
    (data / "mono.txt").write_bytes(b"\n".join(lines) + b"\n")
    (data / "flores.txt").write_text(mono[30] + "\n" + pairs[50]["en"] + "\n", encoding="utf-8")
    settings = {
        "name": "t",
        "language": "bo",
        "data_dir": str(data),
        "tokenizer": str(tiny_model),
        "output_dir": str(tmp_path / "out"),
        "cutoff_len": 400,
        "max_bad_ratio": 0.01,
        "sources": {
            "pairs": {"layout": "fields", "file": "pairs.jsonl", "fields": {"bo": "bo", "en": "en"}},
            "mono": {"layout": "lines", "files": {"bo": "mono.txt"}},
        },
        "deduplicate": {"exact": True, "near": 0.7},
        "decontaminate": ["flores.txt"],
        "cpt": {"count": 1000, "parts": [{"source": "pairs"}, {"source": "mono"}]},
        "sft": {"parts": [{"source": "pairs", "task": "translation", "direction": "en-bo", "count": 1000}]},
        "prompts": {"en-bo": ["Translate: {text}"]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def read(recipe: Path, name: str):
    return json.loads((recipe.parent / "out" / name).read_text(encoding="utf-8"))


def test_stage_1_with_everything_on(run_script: Callable, recipe: Path) -> None:
    result = run_script("1_preprocess.py", "--config", recipe, "workers=2")
    assert result.returncode == 0, result.stderr
    report = read(recipe, "data_report.json")
    mono = report["sources"]["mono"]["texts"]["bo"]
    drawn = report["sources"]["mono"]["parts"]["lm bo"]
    assert drawn["dropped"]["duplicate of a text before"] == 4
    assert drawn["read"] == mono["kept"] == drawn["kept"] + 4
    assert mono["dropped"]["quarantined: not valid UTF-8"] == 1
    assert mono["read"] == 300 == mono["kept"] + sum(mono["dropped"].values())
    quarantine = [json.loads(line) for line in (recipe.parent / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(Path(q["file"]).name, q["line"]) for q in quarantine] == [("mono.txt", 21)]
    trained = (recipe.parent / "out/t_cpt_final.json").read_text(encoding="utf-8")
    trained += (recipe.parent / "out/t_sft_final.json").read_text(encoding="utf-8")
    assert tibetan(1030, 30) not in trained
    assert "sentence number 50 says 350" not in trained
    assert tibetan(50, 12 + 50 % 7) not in trained, "the translation of a test sentence"
    assert trained.count(tibetan(1004, 30).rstrip("།")) <= 1
    assert not (recipe.parent / ".out.parts").exists()

    check = [sys.executable, "-m", "langadapt.corpus.check", str(recipe.parent / "out")]
    result = subprocess.run(
        [*check, "--against", recipe.parent / "data/flores.txt"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "0 twins found" in result.stdout
    records = read(recipe, "t_cpt_final.json")
    records[0]["text"] = read(recipe, "t_cpt_test.json")[0]["text"]
    (recipe.parent / "out/t_cpt_final.json").write_text(json.dumps(records), encoding="utf-8")
    result = subprocess.run(check, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert "not what the last run of stage 1 wrote" in result.stderr
    report["files"]["t_cpt_final.json"]["sha256"] = (
        __import__("hashlib").sha256((recipe.parent / "out/t_cpt_final.json").read_bytes()).hexdigest()
    )
    (recipe.parent / "out/data_report.json").write_text(json.dumps(report), encoding="utf-8")
    result = subprocess.run(check, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert "leak" in result.stderr


def test_too_many_bad_lines_stop_the_run(run_script: Callable, recipe: Path) -> None:
    result = run_script("1_preprocess.py", "--config", recipe, "max_bad_ratio=0.001")
    assert result.returncode == 2
    assert "mono.txt, line 21" in result.stderr
    assert "max_bad_ratio" in result.stderr
    assert not list((recipe.parent / "out").glob("*")) or not (recipe.parent / "out").exists()


def test_workers_and_a_kill_change_nothing(run_script: Callable, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes() -> dict[str, str]:
        return {name: file["sha256"] for name, file in read(recipe, "data_report.json")["files"].items()}

    assert run_script("1_preprocess.py", "--config", recipe, "workers=1").returncode == 0
    first = hashes()
    assert run_script("1_preprocess.py", "--config", recipe, "workers=2").returncode == 0
    assert hashes() == first
    for path in (recipe.parent / "out").iterdir():
        path.unlink()
    command = [sys.executable, "1_preprocess.py", "--config", str(recipe), "workers=1"]
    running = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    parts = recipe.parent / ".out.parts"
    deadline = time.monotonic() + 60
    while not list(parts.glob("scan-*.npz")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not list((recipe.parent / "out").glob("t_*.json"))
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert finished
    assert run_script("1_preprocess.py", "--config", recipe).returncode == 0
    assert hashes() == first


def test_a_chunk_without_a_line_of_its_own_is_no_obstacle(tmp_path: Path) -> None:
    """The last line is longer than a chunk: no line starts in the last one."""
    task = ScanTask(tmp_path / "x.txt", False, "bo", None, True, CleaningSettings(), DeduplicationSettings(near=0.8))
    task.path.write_text("\n".join([tibetan(1, 20), tibetan(2, 500)]), encoding="utf-8")
    size = task.path.stat().st_size
    whole, rest = scan_chunk(task, 0, size // 2), scan_chunk(task, size // 2, size)
    assert whole["band_0"].shape == (2,)
    assert [rest[f"band_{b}"].shape for b in range(BANDS)] == [(0,)] * BANDS
    assert len(rest["starts"]) == len(rest["length"]) == 0


def test_records_are_judged_by_what_is_said_in_them() -> None:
    record = {"system": "long " * 500, "history": [["a", "b"]], "instruction": "q\n<1>", "input": "", "output": "r"}
    assert spoken_in(json.dumps(record)) == "a\nb\nq\n<1>\nr"
