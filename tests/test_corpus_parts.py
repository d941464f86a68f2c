"""The folder of finished parts: who may work in it, what a part depends on, what is read of one, what stays bounded."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from pydantic import TypeAdapter

from langadapt.corpus import duplicates, parts, storing, templates
from langadapt.corpus.duplicates import find_clusters
from langadapt.corpus.parts import work_folder
from langadapt.corpus.scan import BANDS
from langadapt.corpus.storing import StoredSource, source_files, store
from langadapt.corpus.templates import Templates
from langadapt.errors import UserError
from langadapt.recipe import language
from langadapt.recipe.cleaning import DeduplicationSettings
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings
from langadapt.recipe.sources import Source

QUICKSTART = REPOSITORY / "configs/quickstart/preprocess.yaml"
FIELDS = {"layout": "fields", "fields": {"en": "en"}}


def settings_for(output_dir: Path | str, data_dir: Path | str = ".") -> PreprocessSettings:
    return load_settings(PreprocessSettings, QUICKSTART, [f"output_dir={output_dir}", f"data_dir={data_dir}"])


def source(**keys: Any) -> Any:
    return TypeAdapter(Source).validate_python(keys)


def test_the_folder_stands_beside_the_output_and_goes_when_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for name in (".", "../out", str(tmp_path / "out")):
        with work_folder(settings_for(name)) as folder:
            assert folder == tmp_path / ".out.parts"
        assert not folder.exists()
    with pytest.raises(UserError, match="stop"), work_folder(settings_for(".")) as folder:
        raise UserError(f"stop with {len(list(folder.iterdir()))} file")
    assert folder.is_dir()


def test_only_one_run_at_a_time_works_on_an_output_folder(tmp_path: Path) -> None:
    """A killed run leaves its parts, but not its lock."""
    recipe = tmp_path / "recipe.yaml"
    keys = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")) | {"output_dir": str(tmp_path / "out")}
    recipe.write_text(yaml.safe_dump(keys), encoding="utf-8")
    program = (
        "from langadapt.corpus.parts import work_folder\n"
        "from langadapt.recipe.preprocess import PreprocessSettings\n"
        "from langadapt.recipe.settings import load_settings\n"
        f"with work_folder(load_settings(PreprocessSettings, {str(recipe)!r})):\n"
        "    print('at work', flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "at work\n"
        refused = pytest.raises(UserError, match=f"output_dir={tmp_path / 'out'}: another run")
        with refused, work_folder(settings_for(tmp_path / "out")):
            pass
        assert (tmp_path / ".out.parts").is_dir()
        with work_folder(settings_for(tmp_path / "elsewhere")):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with work_folder(settings_for(tmp_path / "out")) as folder:
        assert folder.is_dir()


def test_of_a_part_only_what_is_asked_for_is_read_and_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    parts.keep(path, {"first": np.arange(1000), "second": np.arange(2000, 3000)})
    assert {key: len(array) for key, array in parts.load(path).items()} == {"first": 1000, "second": 1000}
    path.write_bytes(path.read_bytes().replace(np.int64(2500).tobytes(), np.int64(-1).tobytes()))
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    loaded = parts.load(path, "first")
    assert loaded.keys() == {"first"}
    assert loaded["first"].tolist() == list(range(1000))
    if before:
        assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(Exception, match="CRC"):  # the damage is there, for whoever reads it
        parts.load(path, "second")


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., StoredSource]:
    """Return a source as it is stored: the names of its parts tell what they depend on."""

    def run(**keys: Any) -> StoredSource:
        settings = settings_for(tmp_path / "out", tmp_path)
        return store("x", source(**keys), settings, "way out", tmp_path)

    return run


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"file": "texts/**/*.jsonl"}, "texts/deep/deeper/a.jsonl"),
        ({"file": "texts/[ab].jsonl"}, "texts/b.jsonl"),
        ({"dataset": {"name": "texts"}}, "texts/data/a.jsonl"),
    ],
)
def test_a_changed_file_makes_another_part(
    stored: Callable[..., StoredSource], tmp_path: Path, keys: dict[str, Any], name: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text('{"en": "one"}\n', encoding="utf-8")
    assert source_files(source(**FIELDS, **keys), str(tmp_path)) == [tmp_path / name]
    names = [stored(**FIELDS, **keys).counts]
    names.append(stored(**FIELDS, **keys).counts)
    assert names[0] == names[1]
    (tmp_path / name).write_text('{"en": "another"}\n', encoding="utf-8")
    names.append(stored(**FIELDS, **keys).counts)
    (tmp_path / name).with_name("a2.jsonl").write_text('{"en": "two"}\n', encoding="utf-8")
    names.append(stored(**FIELDS, **keys).counts)
    assert names[2] not in names[:2]
    assert (names[3] == names[2]) == ("[ab]" in str(keys))


def test_another_language_profile_or_format_makes_another_part(
    stored: Callable[..., StoredSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"en": "one"}\n', encoding="utf-8")
    first = stored(**FIELDS, file="a.jsonl").counts
    shutil.copytree(language.PROFILES, tmp_path / "languages")
    profile = tmp_path / "languages/en.yaml"
    profile.write_text(profile.read_text(encoding="utf-8").replace("segmentation: words", "segmentation: characters"))
    monkeypatch.setattr(language, "PROFILES", tmp_path / "languages")
    language.load_language.cache_clear()
    second = stored(**FIELDS, file="a.jsonl").counts
    monkeypatch.undo()
    language.load_language.cache_clear()
    assert stored(**FIELDS, file="a.jsonl").counts == first
    monkeypatch.setattr(parts, "_FORMAT", -1)
    third = stored(**FIELDS, file="a.jsonl").counts
    assert len({first, second, third}) == 3


def test_records_that_cannot_be_read_are_counted_and_bounded(
    stored: Callable[..., StoredSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "QUARANTINED", 5)
    monkeypatch.setattr(storing, "_TELLING", 50)
    lines = ['{"en": "text"}' if k % 10 or k < 100 else "{broken" for k in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    part = stored(**FIELDS, file="a.jsonl").parts[0]
    *arguments, _ = part.arguments
    parts.keep(part.path, part.work(*arguments, 0.5))
    found = storing.recorded_unreadable(part.path)
    assert (found.count, found.records, [bad.line for bad in found.first]) == (90, 1000, [101, 111, 121, 131, 141])
    found.check("x", 0.09)
    with pytest.raises(UserError, match=r"source x: 90 of 1,000 records cannot be read(.|\n)*a\.jsonl, line 101"):
        found.check("x", 0.08)


def test_reading_ends_early_where_hardly_anything_can_be_read(
    stored: Callable[..., StoredSource], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(5_000 * '{"en": "text"}\n' + 20_000 * "{broken\n", encoding="utf-8")
    part = stored(**FIELDS, file="a.jsonl").parts[0]
    with pytest.raises(UserError, match=r"source x: 5,000 of 10,000 records cannot be read, more than max_bad_ratio"):
        part.work(*part.arguments)
    assert not list(tmp_path.glob("x-*"))


def test_refuted_pairs_are_merged_once_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging them at every batch takes time with the square of their number."""
    monkeypatch.setattr(duplicates, "_VERIFIED_AT_ONCE", 10)
    number = 500
    merges = []

    def union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        merges.append(len(second))
        return np.unique(np.concatenate([first, second]))

    monkeypatch.setattr(duplicates.np, "union1d", union)

    def read(numbers: Sequence[int]) -> list[str]:
        return [" ".join(f"w{k}x{step}" for step in range(6)) for k in numbers]

    keys = np.ones(number, np.uint64)  # all are candidates, and none are near
    exact = np.arange(1, number + 1, dtype=np.uint64)
    clusters, report = find_clusters(exact, lambda b: keys, read, DeduplicationSettings(near=0.8), lambda share: None)
    assert clusters.tolist() == list(range(number))
    pairs = {(0, k) for k in range(1, number)} | {(k - 1, k) for k in range(1, number)}
    assert report["candidates refuted"] == report["candidates compared"] == len(pairs)
    assert len(merges) <= BANDS


def test_templates_of_many_prompts_are_found_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_SAMPLE", 500)

    def prompts(number: int) -> Iterator[str]:
        chance = random.Random(0)
        for _ in range(number):
            body = ", ".join(f"{chance.random():.12f}" for _ in range(60))
            yield f"Translate into Tibetan: {body}" if chance.random() < 0.3 else f"{body}. In Tibetan, please."

    def measured(number: int) -> tuple[Templates, int]:
        tracemalloc.start()
        try:
            return Templates(prompts(number)), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, at_first = measured(600)
    many, later = measured(6000)
    assert later < 1.5 * at_first
    assert few.known == many.known == Templates(list(prompts(400))).known
    assert many.content("Translate into Tibetan: hello") == "hello"
    assert Templates(prompts(6000)).known == many.known


def test_templates_of_many_prompts_are_those_of_all_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_SAMPLE", 500)
    openings = ["First kind:", "Second kind:", "Third kind:"]
    prompts = [f"{opening} {number}" for opening in openings for number in range(1000)]
    assert Templates(prompts).known["openings"] == sorted(openings)


def test_long_prompts_give_the_same_templates_as_their_ends() -> None:
    def prompt(number: int) -> str:
        return f"Please translate: {number} {'word ' * 20_000}{number}. Answer in Tibetan."

    tracemalloc.start()
    found = Templates(map(prompt, range(50)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(prompt(3))
    assert found.known == {"openings": ["Please translate:"], "closings": [". Answer in Tibetan."]}
    assert found.content(prompt(3)) == f"3 {'word ' * 20_000}3"
