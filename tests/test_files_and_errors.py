"""Reading with line numbers, writing all or nothing, and how commands end."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from langadapt.errors import UserError, describe_os_error
from langadapt.files import (
    atomic_path,
    check_vouched,
    iter_json_array,
    probe_folder,
    read_json_array,
    read_jsonl,
    read_lines,
    sha256_of,
    staged_folder,
    write_json,
    write_json_array,
)


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\u2028b\u0085c\r\nd\n\ne".encode())
    assert list(read_lines(path)) == [(1, "a\u2028b\u0085c"), (2, "d"), (3, ""), (4, "e")]


def test_broken_records_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n', encoding="utf-8")
    with pytest.raises(UserError, match="line 3: broken JSON"):
        list(read_jsonl(path))
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        list(read_jsonl(path))


@pytest.mark.parametrize("layout", [{}, {"indent": 2}])
def test_half_a_character_is_named_by_record(tmp_path: Path, layout: dict[str, int]) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"a": "\U0001f600"}, {"a": ["x\ud800"]}], **layout), encoding="utf-8")
    for read in (read_json_array, iter_json_array):
        with pytest.raises(UserError, match=r"x\.json, record 2: \\ud800"):
            list(read(path))
    path.write_text('[\n{"a": "\\ud83d\\ude00"},\n{"\\udc00": 1}\n]\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3: .*udc00"):
        list(iter_json_array(path))


def test_arrays_have_one_record_a_line_and_read_back(tmp_path: Path) -> None:
    records = [{"text": "བོད\n\u2028"}, {"text": ""}]
    assert write_json_array(tmp_path / "x.json", iter(records)) == 2
    assert (tmp_path / "x.json").read_text(encoding="utf-8").count("\n") == 4
    assert read_json_array(tmp_path / "x.json") == records
    assert list(iter_json_array(tmp_path / "x.json")) == records
    assert write_json_array(tmp_path / "empty.json", []) == 0
    assert list(iter_json_array(tmp_path / "empty.json")) == []
    assert read_json_array(tmp_path / "empty.json") == []


def test_arrays_in_other_layouts_read_alike_and_cut_ones_are_refused(tmp_path: Path) -> None:
    path, records = tmp_path / "x.json", [{"a": 1}, {"b": [2]}]
    for indent in (None, 0, 2):
        path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
        assert list(iter_json_array(path)) == read_json_array(path) == records
    write_json_array(path, records)
    path.write_text(path.read_text(encoding="utf-8").removesuffix("\n]\n"), encoding="utf-8")
    with pytest.raises(UserError, match="cut short"):
        list(iter_json_array(path))


def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    with pytest.raises(ZeroDivisionError):
        write_json_array(path, ({"n": 1 // (1 - k)} for k in range(3)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    with pytest.raises(OSError, match="full"):
        _fill_the_disk(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert "old" in path.read_text(encoding="utf-8")


def _fill_the_disk(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_that_names_no_file_gets_the_target(tmp_path: Path, code: int) -> None:
    for writer in (lambda: atomic_path(tmp_path / "x"), lambda: staged_folder(tmp_path / "x", last="a")):
        with pytest.raises(OSError, match="full") as caught, writer():
            raise OSError(code, "full")
        said = describe_os_error(caught.value)
        assert said is not None
        assert said.startswith(f"{tmp_path / 'x'}: no space left on the disk")


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    probe_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(OSError, match="file") as caught:
            probe_folder(bad)
        assert "choose another output_dir" in str(describe_os_error(caught.value))


def test_only_what_the_last_report_lists_is_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_array(path, [{"a": 1}])
    assert check_vouched(path) == sha256_of(path)
    write_json(tmp_path / "data_report.json", {"files": {"a.json": {"sha256": sha256_of(path)}}})
    assert check_vouched(path) == sha256_of(path)
    (tmp_path / "old_4k.json").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"old_4k\.json: not what the last run of stage 1 wrote"):
        check_vouched(tmp_path / "old_4k.json")
    write_json_array(path, [{"a": 2}])
    with pytest.raises(UserError, match="run stage 1 again"):
        check_vouched(path)
    write_json(tmp_path / "data_report.json", ["broken"])
    with pytest.raises(UserError, match="expected a JSON object"):
        check_vouched(path)


def test_a_staged_folder_moves_in_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(letter: str, fail: bool) -> None:
        with staged_folder(tmp_path / "out", last="report") as folder:
            (folder / "data").write_text(letter, encoding="utf-8")
            if fail:
                raise UserError("stop")
            (folder / "report").write_text(letter, encoding="utf-8")

    fill("a", fail=False)
    with pytest.raises(UserError):
        fill("b", fail=True)
    assert {file.name: file.read_text() for file in (tmp_path / "out").iterdir()} == {"data": "a", "report": "a"}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise UserError('mend it')", 2, "error: mend it\n"),
        ("raise OSError(errno.ENOSPC, 'x', 'out/file')", 2, "out/file: no space left"),
        ("raise PermissionError(errno.EACCES, 'Permission denied', 'f')", 2, "f: not allowed"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("raise ValueError('a defect')", 1, "Traceback"),
        ("pass", 0, ""),
    ],
)
def test_how_commands_end(body: str, code: int, said: str) -> None:
    program = (
        f"import errno\nfrom langadapt.errors import UserError, run_command\ndef main():\n    {body}\nrun_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)
