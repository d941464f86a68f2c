"""Sources as stage 1 opens them: records with a missing text, the commit that was read, samples of their text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN
from pydantic import TypeAdapter

from langadapt.corpus import columns
from langadapt.corpus.progress import Progress
from langadapt.corpus.sampling import sample_texts
from langadapt.corpus.sources import Sources, open_sources
from langadapt.errors import UserError
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings
from langadapt.recipe.sources import Source

FIELDS = {"layout": "fields", "fields": {"bo": "bo", "zh": "zh"}}
OLD, NEW = "0123456789abcdef" * 2 + "01234567", "89abcdef" * 5
NAME = "nobody/texts"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Sources]:
    """Open sources, each given by its keys, with the filters of the quickstart but for length."""

    def run(max_bad_ratio: float = 0.001, **sources: dict[str, Any]) -> Sources:
        settings = load_settings(PreprocessSettings, REPOSITORY / "configs/quickstart/preprocess.yaml")
        changed: dict[str, Any] = {
            "sources": {name: TypeAdapter(Source).validate_python(keys) for name, keys in sources.items()},
            "data_dir": str(tmp_path),
            "workers": 1,
            "max_bad_ratio": max_bad_ratio,
            "cleaning": settings.cleaning.model_copy(update={"min_units": 1}),
        }
        folder = tmp_path / "parts"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        phases = dict.fromkeys(("reading records", "scanning text", "pairing lines", "finding duplicates"), 1.0)
        with Progress(phases) as progress:
            return open_sources(settings.model_copy(update=changed), "command", folder, progress)

    return run


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def records() -> list[dict[str, Any]]:
    return [{"bo": bo, "zh": zh} for bo, zh in zip(TIBETAN, CHINESE, strict=True)]


def test_a_record_blank_in_one_language_keeps_its_other_texts(opened: Callable[..., Sources], tmp_path: Path) -> None:
    missing = [records()[0], records()[1] | {"zh": None}, {"bo": " ", "zh": ""}, records()[3] | {"bo": "\u200b"}]
    write(tmp_path / "x.jsonl", missing)
    (source,) = opened(x=FIELDS | {"file": "x.jsonl"}).collections
    assert source.numbers.tolist() == [1, 2, 4]
    assert source.usable("bo").tolist() == [True, True, False]
    assert source.usable("zh").tolist() == [True, False, True]
    assert source.read([1, 2]) == [{"bo": TIBETAN[1], "zh": ""}, {"bo": "", "zh": CHINESE[3]}]
    assert source.report["records"] == 4
    assert source.report["dropped"] == {"blank in every language": 1}
    for code in ("bo", "zh"):
        texts = source.report["texts"][code]
        assert (texts["read"], texts["dropped"], texts["kept"]) == (3, {"blank": 1}, 2)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leave a data set in the cache of `datasets` as loading it from the hub at some commit does."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def leave(commit: str) -> None:
        write(tmp_path / "texts/train.jsonl", records())
        builder = datasets.load_dataset_builder(str(tmp_path / "texts"))
        builder.download_and_prepare()
        shutil.rmtree(tmp_path / "texts")
        home = tmp_path / "cache/nobody___texts/default/0.0.0" / commit
        home.parent.mkdir(parents=True, exist_ok=True)
        Path(builder.cache_dir).rename(home)
        info = json.loads((home / "dataset_info.json").read_text(encoding="utf-8")) | {"config_name": "default"}
        (home / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")

    return leave


def of_hub(**keys: str) -> dict[str, Any]:
    return FIELDS | {"dataset": {"name": NAME, **keys}}


def test_the_commit_of_a_data_set_is_recorded_without_a_connection(
    opened: Callable[..., Sources], cached: Callable[[str], None]
) -> None:
    cached(NEW)
    branch, commit = opened(branch=of_hub(), commit=of_hub(revision=NEW)).collections
    assert branch.size == commit.size == len(TIBETAN)
    assert branch.report["revision"] == {"asked": "main", "commit": NEW}
    assert commit.report["revision"] == {"asked": NEW, "commit": NEW}


def test_another_commit_than_the_one_asked_for_is_never_read(
    opened: Callable[..., Sources], cached: Callable[[str], None]
) -> None:
    cached(NEW)
    with pytest.raises(UserError, match=rf"{NAME}@{OLD}: .*newest commit in the cache is {NEW}"):
        opened(x=of_hub(revision=OLD))


def test_a_commit_that_the_cache_does_not_name_is_unknown(
    opened: Callable[..., Sources], cached: Callable[[str], None]
) -> None:
    cached("f" * 64)  # the hash of a script, as versions of `datasets` that ran those left it
    (source,) = opened(x=of_hub(revision="v1")).collections
    assert source.size == len(TIBETAN)
    assert source.report["revision"] == {"asked": "v1", "commit": None}


def test_local_records_have_no_revision(
    opened: Callable[..., Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "nobody-texts/train.jsonl", records())
    folder, file = opened(
        folder=FIELDS | {"dataset": {"name": "nobody-texts"}}, file=FIELDS | {"file": "nobody-texts/train.jsonl"}
    ).collections
    assert folder.size == file.size == len(TIBETAN)
    assert "revision" not in folder.report
    assert "revision" not in file.report


def test_a_sample_holds_every_text_of_small_sources(opened: Callable[..., Sources], tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [*records()[:2], {"bo": TIBETAN[2], "zh": ""}])
    write(tmp_path / "y.jsonl", [{"en": text} for text in ENGLISH])
    turns = [
        {"instruction": CHINESE[2], "input": CHINESE[3], "output": TIBETAN[3]},
        {"instruction": "བོད་ཡིག་འབྲི་རོགས།", "output": "འགྲིག་གི་རེད།"},
    ]
    write(tmp_path / "z.jsonl", turns)
    sources = opened(
        x=FIELDS | {"file": "x.jsonl"},
        y={"layout": "fields", "fields": {"en": "en"}, "file": "y.jsonl"},
        z={"layout": "instructions", "languages": ["bo", "zh"], "file": "z.jsonl"},
    )
    assert sample_texts(sources.collections, seed=1) == {
        "bo": [*TIBETAN, "བོད་ཡིག་འབྲི་རོགས།\nའགྲིག་གི་རེད།"],
        "zh": [*CHINESE[:2], "\n".join(CHINESE[2:])],
        "en": ENGLISH,
    }


def test_a_sample_of_large_sources_is_bounded_seeded_and_of_all_alike(
    opened: Callable[..., Sources], tmp_path: Path
) -> None:
    sizes = {"small": 600, "large": 1800}
    for name, size in sizes.items():
        write(tmp_path / f"{name}.jsonl", [{"en": f"{name} text number {n} " + 300 * "word "} for n in range(size)])
    keys = {"layout": "fields", "fields": {"en": "en"}}
    collections = opened(**{name: keys | {"file": f"{name}.jsonl"} for name in sizes}).collections
    texts = sample_texts(collections, seed=1)["en"]
    assert len(texts) == len(set(texts)) == 1000
    assert {len(text) for text in texts} == {500}
    share = sum(text.startswith("small") for text in texts) / 1000
    assert abs(share - 0.25) < 0.05  # 3.7 standard deviations
    assert sample_texts(collections, seed=1)["en"] == texts
    assert sample_texts(collections, seed=2)["en"] != texts


def test_the_share_of_bad_records_is_one_of_all_records(opened: Callable[..., Sources], tmp_path: Path) -> None:
    """Those that were dropped were read well."""
    lines = [*map(json.dumps, records()), *(5 * ['{"bo": "", "zh": " "}']), "{broken"]
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = FIELDS | {"file": "x.jsonl"}
    found = opened(0.1, x=keys)  # 1 of 10
    assert found.collections[0].report["records"] == 10
    assert found.collections[0].report["dropped"] == {"blank in every language": 5, "quarantined: cannot be read": 1}
    assert [(bad.file, bad.line) for bad in found.quarantine] == [(str(tmp_path / "x.jsonl"), 10)]
    with pytest.raises(UserError, match="source x: 1 of 10 records"):
        opened(0.09, x=keys)


def test_the_share_of_bad_lines_is_one_of_the_lines_of_all_languages(
    opened: Callable[..., Sources], tmp_path: Path
) -> None:
    for code, texts in (("bo", TIBETAN), ("zh", CHINESE)):
        (tmp_path / f"{code}.txt").write_bytes(b"\xff\n" + "".join(f"{text}\n" for text in texts).encode())
    keys = {"layout": "lines", "files": {"bo": "bo.txt", "zh": "zh.txt"}, "align": "never"}
    found = opened(0.2, x=keys)  # 2 of 10
    assert [(Path(bad.file).name, bad.line) for bad in found.quarantine] == [("bo.txt", 1), ("zh.txt", 1)]
    with pytest.raises(UserError, match=r"source x: 2 of 10 records(.|\n)*bo\.txt, line 1(.|\n)*zh\.txt, line 1"):
        opened(0.19, x=keys)


def test_files_of_different_length_are_named(opened: Callable[..., Sources], tmp_path: Path) -> None:
    for code, texts in (("bo", TIBETAN), ("zh", CHINESE[:3])):
        (tmp_path / f"x-{code}.txt").write_text("\n".join(texts), encoding="utf-8")
    files = {"bo": "x-bo.txt", "zh": "x-zh.txt"}
    with pytest.raises(UserError, match=r"source some: .*x-bo\.txt 4, x-zh\.txt 3"):
        opened(some={"layout": "lines", "files": files, "align": "never"})


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_a_source_of_many_chunks_keeps_no_file_open(
    opened: Callable[..., Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "CHUNK_BYTES", 200)
    (tmp_path / "x.txt").write_text("".join(f"{k} {TIBETAN[k % 4]}\n" for k in range(400)), encoding="utf-8")
    most = 0
    read = np.load

    def load(*arguments: Any, **keys: Any) -> Any:
        nonlocal most
        found = read(*arguments, **keys)
        most = max(most, len(os.listdir("/proc/self/fd")))
        return found

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(np, "load", load)
    (source,) = opened(x={"layout": "lines", "files": {"bo": "x.txt"}}).collections
    assert len(source.columns["bo"].part_paths) > 100
    assert most < before + 10
