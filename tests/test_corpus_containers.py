"""Every container of records: what is read, and what is set aside."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import CHINESE, ENGLISH, TIBETAN
from hypothesis import given
from hypothesis import strategies as st
from source_files import BO_ZH, RECORDS, WAY_OUT, read, source, write

from langadapt.corpus.reading import Bad, Dropped, TextRow, prepare, read_rows
from langadapt.errors import UserError
from langadapt.files import iter_json_array, json_stream
from langadapt.files.containers import open_bytes


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("container", [".tsv", ".csv", ".json", ".jsonl", ".parquet"])
def test_every_container_gives_the_same_rows(tmp_path: Path, container: str, packing: str) -> None:
    write(tmp_path, f"x{container}{packing}", RECORDS)
    rows = read(tmp_path, file=f"x{container}{packing}", **BO_ZH)
    assert rows == [TextRow(k, r["id"], {c: prepare(r[c], c) for c in ("bo", "zh")}) for k, r in enumerate(RECORDS, 1)]


@pytest.mark.parametrize(
    "layout", [{"layout": "lines", "files": {"en": "x.txt"}}, {"layout": "fields", "file": "x.txt"}]
)
def test_lines_end_at_newlines_only(tmp_path: Path, layout: dict[str, Any]) -> None:
    fields = {"fields": {"en": "text"}} if layout["layout"] == "fields" else {}
    (tmp_path / "x.txt").write_bytes("\ufeffa\u2028b\u0085c\r\n\nd".encode() + b"\n\xe0\xbd\ne\n")
    first, blank, second, bad, last = read(tmp_path, **layout, **fields)
    assert [row.texts["en"] for row in (first, second, last)] == ["a\u2028b\u0085c", "d", "e"]
    assert [row.number for row in (first, blank, second, last)] == [1, 2, 3, 5]
    assert isinstance(blank, Dropped)
    assert isinstance(bad, Bad)
    assert (bad.file, bad.line) == (str(tmp_path / "x.txt"), 4)
    assert "not valid UTF-8 (byte 0 of the line is 0xe0)" in bad.reason


def test_lines_belong_together_by_number_and_must_be_as_many(tmp_path: Path) -> None:
    keys = {"layout": "lines", "files": {"zh": "zh.txt", "en": "en.txt.gz"}, "align": "never"}
    (tmp_path / "zh.txt").write_text("\n".join(CHINESE), encoding="utf-8")
    (tmp_path / "en.txt.gz").write_bytes(gzip.compress("\n".join(ENGLISH).encode()))
    assert [row.texts for row in read(tmp_path, **keys)] == [
        {"zh": zh, "en": en} for zh, en in zip(CHINESE, ENGLISH, strict=True)
    ]
    (tmp_path / "en.txt.gz").write_bytes(gzip.compress("\n".join(ENGLISH[:3]).encode()))
    assert len(read(tmp_path, **keys, limit=3)) == 3
    with pytest.raises(UserError, match=r"en\.txt\.gz ends before line 4"):
        read(tmp_path, **keys)


def test_csv_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    texts = ['a "quoted" word', "two\nlines", "a, b", " spaces ", '"', "x\r\ny", "\u2028", "NA"]
    pd.DataFrame({"id": range(len(texts)), "en": texts}).to_csv(tmp_path / "x.csv", index=False)
    expected = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)["en"]
    rows = read(tmp_path, layout="fields", file="x.csv", fields={"en": "en"})
    assert [row.texts["en"] if isinstance(row, TextRow) else "" for row in rows] == [text.strip() for text in expected]
    assert [row.key for row in rows if isinstance(row, TextRow)][:2] == ["0", "1"]


def test_parquet_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": range(2500), "en": [None if k % 7 == 0 else f"text {k}" for k in range(2500)]})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=1000)
    rows = read(tmp_path, layout="fields", file="x.parquet", fields={"en": "en"})
    for row, (key, text) in zip(rows, pd.read_parquet(tmp_path / "x.parquet").itertuples(index=False), strict=True):
        if isinstance(text, str):
            assert (row.key, row.texts) == (str(key), {"en": text})
        else:
            assert row == Dropped(key + 1, "blank in every language", "")


BROKEN = {
    "x.jsonl": [
        (b'{"en": "x"', "broken JSON"),
        (b'["x"]', "expected a JSON object, found list"),
        (b'{"fr": "x"}', "no column 'en'"),
        (b'{"en": 5}', "`en` is int, expected a text"),
        (b'{"en": "\\ud800"}', r"\ud800 is half a character"),
        (b'{"en": "\xff"}', "not valid UTF-8"),
        (b'{"en": ' + b"[" * 100_000, "nested too deeply"),
    ],
    "x.tsv": [(b"x\ty", "2 cells, expected 1 (en)"), (b"\xff", "not valid UTF-8")],
    "x.csv": [
        (b"x,y", "2 cells, expected 1 (en)"),
        (b"\xff", "not valid UTF-8"),
        (b'"x" y', "broken CSV ("),
        (b'"x\ny" z', "broken CSV ("),
    ],
}
BROKEN["x.json"] = BROKEN["x.jsonl"]


@pytest.mark.parametrize(("name", "broken", "reason"), [(name, *case) for name in BROKEN for case in BROKEN[name]])
def test_a_broken_record_is_set_aside_and_the_rest_is_read(
    tmp_path: Path, name: str, broken: bytes, reason: str
) -> None:
    good = [b'{"en": "a"}', b'{"en": "b"}'] if name.startswith("x.json") else [b"a", b"b"]
    head, between, tail = {"x.json": (b"[\n", b",\n", b"\n]\n"), "x.jsonl": (b"", b"\n", b"\n")}.get(
        name, (b"en\n", b"\n", b"\n")
    )
    before = 0 if name == "x.jsonl" else 1  # lines ahead of the first record
    for position in (1, 2) if name != "x.csv" else (1,):
        records = [*good[:position], broken, *good[position:]]
        (tmp_path / name).write_bytes(head + between.join(records) + tail)
        rows = read(tmp_path, layout="fields", file=name, fields={"en": "en"})
        assert [row.texts["en"] for row in rows if isinstance(row, TextRow)] == ["a", "b"]
        assert [row.number for row in rows if isinstance(row, TextRow)] == ([1, len(rows)] if position == 1 else [1, 2])
        bad = rows[position]
        assert isinstance(bad, Bad)
        assert (bad.file, bad.line) == (str(tmp_path / name), position + 1 + before)
        assert reason in bad.reason


def test_a_parquet_row_that_is_no_utf8_is_set_aside(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2, 3))), pa.py_buffer(b"a\xffb")
    parquet.write_table(pa.table({"en": pa.StringArray.from_buffers(3, offsets, data)}), tmp_path / "x.parquet")
    first, bad, last = read(tmp_path, layout="fields", file="x.parquet", fields={"en": "en"})
    assert (first.texts, last.texts) == ({"en": "a"}, {"en": "b"})
    assert (bad.line, bad.reason) == (2, "not valid UTF-8")


def test_a_quote_that_does_not_close_costs_the_lines_it_takes(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('en,zh\na,b\n"c,d\ne,f\n"g",h\ni,j\n', encoding="utf-8")
    rows = read(tmp_path, layout="fields", file="x.csv", fields={"en": "en"})
    assert [row.texts["en"] for row in rows if isinstance(row, TextRow)] == ["a", "i"]
    assert [(row.line, "lines 3 to 5" in row.reason) for row in rows[1:4]] == [(3, True), (4, True), (5, True)]


json_values = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers() | st.booleans() | st.none() | st.floats(-1, 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a\\"\n é', max_size=3), inner, max_size=3),
)


@given(
    records=st.lists(st.dictionaries(st.text('ab\\"', max_size=3), json_values, max_size=3), max_size=5),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
    block=st.integers(1, 40),
)
def test_arrays_cut_anywhere_into_blocks_are_what_json_says(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    block: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, open(path, "rb") as handle:
        patch.setattr(json_stream, "_BLOCK", block)
        items = list(json_stream.stream_json_array(path, handle, WAY_OUT))
    assert [item[1] for item in items if isinstance(item, tuple)] == records
    assert len(items) == len(records)


def test_reading_a_large_indented_array_takes_little_memory(tmp_path: Path) -> None:
    records = [{"id": k, "text": f"{k} " + TIBETAN[0] * 60} for k in range(3000)]
    write(tmp_path, "x.json", records)
    assert (tmp_path / "x.json").stat().st_size > 15e6
    keys = source(layout="fields", file="x.json", fields={"bo": "text"})
    for items in (iter_json_array(tmp_path / "x.json"), read_rows(keys, str(tmp_path), WAY_OUT)):
        tracemalloc.start()
        assert sum(1 for _ in items) == len(records)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6


@pytest.mark.parametrize("indent", [0, 1, 4])
def test_broken_json_inside_an_indented_array_costs_one_record(tmp_path: Path, indent: int) -> None:
    # Without indentation, an object in a list would look like a record.
    more = [{"x": 1}] if indent else []
    lines = json.dumps([{"id": k, "en": f"text {k}", "more": more} for k in range(4)], indent=indent).split("\n")
    broken = next(number for number, line in enumerate(lines, 1) if '"text 2"' in line)
    lines[broken - 1] = lines[broken - 1].replace('2"', "2")
    (tmp_path / "x.json").write_text("\n".join(lines), encoding="utf-8")
    rows = read(tmp_path, layout="fields", file="x.json", fields={"en": "en"})
    assert [row.key for row in rows if isinstance(row, TextRow)] == ["0", "1", "3"]
    assert rows[2].line == broken - 2
    assert f"line {broken}" in rows[2].reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"en": "a"}, {"en": }, {"en": "c"}]', "line 1: broken JSON .* no line break to go on from"),
        ('[\n{"en": "a"},\n{"en": "b', "cut short, the closing bracket is missing"),
        ('[\n{"en": "a"}\n', "line 3: cut short"),
        ('[{"en": "a"}]\n[{"en": "b"}]', "line 2: the array has ended, but the file goes on"),
        ('{\n "data": [{"en": "a"}]\n}', "neither a JSON array of records nor one record a line"),
        ('"a"', "expected a JSON array of records"),
        ("[]", "no records in it"),
        ("", "the file is empty"),
    ],
)
def test_an_array_that_cannot_be_read_to_its_end_stops_the_run(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"x\.json.*{said}.*{WAY_OUT}"):
        read(tmp_path, layout="fields", file="x.json", fields={"en": "en"})


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.parquet.zst"])
def test_a_damaged_file_stops_the_run_and_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [{"en": f"{k} {k**5}"} for k in range(20_000)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{name}: damaged"):
        read(tmp_path, layout="fields", file=name, fields={"en": "en"})
    (tmp_path / name).write_bytes(b"not what the name says" * 9)
    with pytest.raises(UserError, match=rf"{name}: damaged"):
        read(tmp_path, layout="fields", file=name, fields={"en": "en"})


def test_packed_files_in_several_members_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    with open_bytes(tmp_path / "x.gz") as handle:
        assert list(handle) == [b"a\n", b"b\n"]


def test_several_files_are_numbered_on_but_named_each(tmp_path: Path) -> None:
    for name, text in {"b-2.jsonl": '{"en": "c"}\n{"en"\n', "b-1.jsonl": '{"en": "b"}\n', "a.tsv": "zh\ta\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    keys = {"layout": "fields", "fields": {"en": "en"}}
    rows = read(tmp_path, file=["b-*.jsonl"], **keys)
    assert [row.texts["en"] for row in rows[:2]] == ["b", "c"]
    assert [row.number for row in rows[:2]] == [1, 2]
    assert (rows[2].file, rows[2].line) == (str(tmp_path / "b-2.jsonl"), 2)
    assert len(read(tmp_path, file="b-*.jsonl", limit=1, **keys)) == 1
    assert read(tmp_path, file=str(tmp_path / "a.tsv"), columns=["zh", "en"], **keys) == [TextRow(1, None, {"en": "a"})]
    with pytest.raises(UserError, match=r"a\.tsv: no column 'en'; there are 'zh', 'a'"):
        read(tmp_path, file="a.tsv", **keys)
    with pytest.raises(UserError, match=r"c-\*\.jsonl: no file matches. Fetch it"):
        read(tmp_path, file="c-*.jsonl", **keys)
    with pytest.raises(UserError, match=r"c\.jsonl: no such file. Fetch it"):
        read(tmp_path, file="c.jsonl", **keys)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("hub_cache")
def test_hugging_face_data_sets_are_read_from_folders(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    write(tmp_path / "files", "train.jsonl", [*RECORDS, {"id": "x", "bo": None, "zh": "x"}])
    saved = datasets.Dataset.from_list(RECORDS)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"dev": saved}).save_to_disk(tmp_path / "splits")
    expected = [(k, r["id"], prepare(r["zh"], "zh")) for k, r in enumerate(RECORDS, 1)]
    for name, split in (("files", "train"), ("saved", "train"), ("splits", "dev")):
        rows = read(tmp_path, dataset={"name": name, "split": split}, **BO_ZH)
        assert [(row.number, row.key, row.texts["zh"]) for row in rows[:4]] == expected
        assert [row.texts for row in rows[4:]] == [{"bo": "", "zh": "x"}] * (name == "files")


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"name": "nobody/nothing", "revision": "v1"}, "nobody/nothing@v1: .*hf download"),
        ({"name": "files", "split": "test"}, "files: .*Unknown split"),
        ({"name": "files", "config": "other"}, "files: .*other"),
        ({"name": "broken"}, "broken: .*JSON"),
    ],
)
def test_a_data_set_that_cannot_be_had_says_what_to_do(tmp_path: Path, dataset: dict[str, str], said: str) -> None:
    for name in ("files", "broken"):
        (tmp_path / name).mkdir()
    write(tmp_path / "files", "train.jsonl", RECORDS)
    (tmp_path / "broken" / "train.jsonl").write_text('{"a": 1}\n{"a":\n', encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read(tmp_path, dataset=dataset, **BO_ZH)
