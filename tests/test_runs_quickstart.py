"""The quickstart's text and its closing words; the whole of it is run by make quickstart."""

from __future__ import annotations

import random
import re
from pathlib import Path

from langadapt.runs import cldr
from langadapt.runs.quickstart import results_table, verdicts
from langadapt.text import numbers


def test_dates_say_the_same_in_all_languages() -> None:
    for triplet in cldr.dates(range(1950, 2040), 50, random.Random(1)):
        assert max(numbers(triplet["bo"]), key=len) == numbers(triplet["zh"])[0] == numbers(triplet["en"])[-1]
    assert len({triplet["bo"] for triplet in cldr.dates(range(1990, 1992), 300, random.Random(1))}) == 300


def test_sources_are_in_the_upstream_layouts_and_the_same_for_a_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        cldr.write_sources(tmp_path / name, seed=1, pairs=300, documents=20, instructions=10)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    counts = {file.name: (tmp_path / "one" / file).read_text(encoding="utf-8").count("\n") for file in files}
    assert counts["bo.txt"] == counts["zh.txt"] == counts["en.txt"] == 300
    assert counts["n-bo.txt"] == 20


def test_kinds_of_text_share_no_year(tmp_path: Path) -> None:
    cldr.write_sources(tmp_path, seed=1, pairs=500, documents=50, instructions=10)
    parallel, mono = (
        set(re.findall(r"\d{4}", (tmp_path / f"CUTE-Datasets/{name}.txt").read_text(encoding="utf-8")))
        for name in ("parallel-corpus/bo", "non-parallel-corpus/n-bo")
    )
    tibetan = [text for text in cldr.base_texts(1, 1000, 0.05) if "ཟླ" in text]
    trace = set(re.findall(r"\d{4}", " ".join(tibetan)))
    assert len(tibetan) == 50
    assert parallel
    assert mono
    assert parallel.isdisjoint(mono | trace)
    assert mono.isdisjoint(trace)


def test_what_shows_forgetting_names_days_that_nothing_else_names(tmp_path: Path) -> None:
    cldr.write_held_out(tmp_path, seed=1, documents=20)
    base = set(re.findall(r"\d{4}", " ".join(cldr.base_texts(1, 1000, 0.05))))
    for language in ("zh", "en"):
        lines = (tmp_path / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        assert len(set(lines)) == 20
        years = set(re.findall(r"\d{4}", " ".join(lines)))
        assert years
        assert years.isdisjoint(base)


def result(bits: float, chrf: float, floor: float | None = 20.0, formats: tuple[str, ...] = ("few_shot",)) -> dict:
    def made(format: str, score: float) -> dict:
        floors = {} if floor is None else {"shuffled": floor}
        scores = {"bleu": {"score": 1.0, "floors": floors}, "chrf": {"score": score, "floors": floors}}
        return {"direction": "zh-bo", "prompt": {"format": format}, "scores": scores}

    return {
        "likelihoods": [{"language": language, "bits_per_byte": bits} for language in ("bo", "zh", "en")],
        "translations": [made(format, chrf if format == formats[-1] else 0.0) for format in formats],
    }


def test_closing_words_say_when_a_stage_did_not_do_its_work() -> None:
    good = {"base": result(5, 10), "cpt": result(1, 25), "sft": result(2, 80, formats=("few_shot", "chat"))}
    assert all("NOT" not in sentence for sentence in verdicts(good))
    worse = {"base": result(1, 10), "cpt": result(1, 25), "sft": result(2, 26)}
    assert all("NOT" in sentence for sentence in verdicts(worse))
    below_floor = {"base": result(5, 10), "cpt": result(1, 1), "sft": result(2, 19)}
    assert "NOT" in verdicts(below_floor)[1]
    assert results_table(good).row_count == 3
