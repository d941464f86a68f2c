"""The runner behind make recipe: what a block of commands means, what is run, and what is not run again."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from langadapt.errors import UserError
from langadapt.runs.__main__ import DONE, run_all
from langadapt.runs.commands import CONFIGS, parse, recipe_commands

FILES = sorted(REPOSITORY.glob("configs/*/commands.yaml"))
FORMS = [(path.parent.name, size) for path in FILES for size in yaml.safe_load(path.read_text(encoding="utf-8"))]


def lines(block: str, **given: str) -> list[str]:
    return [command.line for command in parse(block, given, "x.yaml")[0] if not command.made]


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(("recipe", "size"), FORMS)
def test_every_command_names_files_that_exist(recipe: str, size: str) -> None:
    commands, folder = recipe_commands(recipe, size == "small", {})
    assert folder.parts[0] == "saves"
    for command in commands:
        for word in shlex.split(command.line):
            stem = Path(word).stem
            if word.endswith((".py", ".sh", ".yaml")) and stem != "train":  # of the translators, from here on
                assert Path(word).is_file(), command.line


@pytest.mark.parametrize(("recipe", "size"), FORMS)
def test_a_block_means_in_the_shell_what_it_means_here(recipe: str, size: str) -> None:
    block = yaml.safe_load((CONFIGS / recipe / "commands.yaml").read_text(encoding="utf-8"))[size]
    printing = re.sub(r"^-?(python|bash) ", r"show \1 ", block, flags=re.MULTILINE)
    script = "show() { printf '%s\\0' \"$@\"; echo; }\n" + printing
    shown = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\0")[:-1] for line in shown] == [shlex.split(line) for line in lines(block)]


def test_the_recipes_page_has_the_same_commands() -> None:
    page = (REPOSITORY / "docs" / "RECIPES.md").read_text(encoding="utf-8")
    compared = 0
    for recipe, size in FORMS:
        section = page.partition(f"\n## {recipe}\n")[2].partition("\n## ")[0]
        title = {"full": "Full size", "small": "On a laptop"}[size]
        if block := section.partition(f"### {title}\n\n```bash\n")[2].partition("```")[0]:
            assert block == yaml.safe_load((CONFIGS / recipe / "commands.yaml").read_text(encoding="utf-8"))[size]
            compared += 1
    assert compared >= 6


def test_variables_are_filled_in_and_may_be_given() -> None:
    block = 'OUT=saves/x # here\nMORE="a=1 b=2"\npython one.py \\\n    $OUT/data $MORE\n# nothing\n'
    assert lines(block) == ["python one.py saves/x/data a=1 b=2"]
    assert lines(block, OUT="/disk") == ["python one.py /disk/data a=1 b=2"]
    with pytest.raises(UserError, match=r"it has no STEPS\. To be set are OUT, MORE"):
        lines(block, STEPS="1")
    with pytest.raises(UserError, match="uses the variable 'DATA'"):
        lines("OUT=x\npython one.py $DATA")


def test_what_a_user_brings_is_not_made() -> None:
    block = "OUT=x\nDATA=$OUT/text\nBASE=$OUT/base\npython -m langadapt.runs.text csas $DATA\npython one.py $DATA\n"
    assert len(lines(block)) == 2
    assert lines(block, DATA="mine") == ["python one.py mine"]
    assert len(lines(block, BASE="mine")) == 2


def run(folder: Path, block: str) -> tuple[list[str], str]:
    """Run a block whose commands append a letter to a file; return what failed, and the letters."""
    commands, _ = parse(f"OUT={folder}\n{block}", {}, "x.yaml")
    try:
        failed = run_all(commands, folder / DONE)
    except UserError as error:
        failed = [str(error)]
    written = folder / "letters"
    return failed, written.read_text() if written.is_file() else ""


def test_a_run_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    a, b, c = (f"bash -c 'printf {letter} >> $OUT/letters'\n" for letter in "abc")
    failing = "bash -c 'test -e $OUT/mended'\n"
    failed, letters = run(tmp_path, a + failing + b)
    assert "exit code 1" in failed[0]
    assert letters == "a"
    (tmp_path / "mended").touch()
    assert run(tmp_path, a + failing + b) == ([], "ab")
    assert run(tmp_path, a + failing + b) == ([], "ab")
    assert run(tmp_path, a + failing + c + b) == ([], "abcb"), "what comes after a new command is done again"


def test_a_command_is_printed_letter_for_letter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "bash -c true 'a=[/x, /y]' [bold]"
    for _ in range(2):
        assert run(tmp_path, line) == ([], "")
        assert line in capsys.readouterr().out


def test_settings_that_changed_are_another_command(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 1")
    block = "bash -c 'printf a >> $OUT/letters' $OUT/x.yaml\n"
    assert run(tmp_path, block)[1] == run(tmp_path, block)[1] == "a"
    (tmp_path / "x.yaml").write_text("seed: 2")
    assert run(tmp_path, block)[1] == "aa"


def test_defaults_that_changed_are_another_command(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("seed: 1")
    (tmp_path / "x.yaml").write_text("defaults: defaults.yaml")
    block = "bash -c 'printf a >> $OUT/letters' $OUT/x.yaml\n"
    assert run(tmp_path, block)[1] == "a"
    (tmp_path / "defaults.yaml").write_text("seed: 2")
    assert run(tmp_path, block)[1] == "aa"


def test_what_a_recipe_inside_has_done_stays_done(tmp_path: Path) -> None:
    """As csas_all and its members, which share a folder."""
    inner = "bash -c 'printf b >> $OUT/letters'\n"
    (tmp_path / "inner.py").write_text(
        f"from pathlib import Path\nfrom test_runs_commands import run\nrun(Path({str(tmp_path)!r}), {inner!r})\n"
    )
    failed, _ = run(tmp_path, f"env PYTHONPATH={REPOSITORY / 'tests'}:{REPOSITORY} {sys.executable} $OUT/inner.py\n")
    assert failed == []
    failed, letters = run(tmp_path, inner)
    assert (failed, letters) == ([], "b")


def test_a_command_that_may_fail_does_not_end_the_run(tmp_path: Path) -> None:
    failed, letters = run(tmp_path, "-bash -c 'exit 3'\nbash -c 'printf b >> $OUT/letters'\n")
    assert (failed, letters) == (["bash -c 'exit 3'"], "b")


def test_the_command_shows_names_and_ends_as_it_should(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    shown = run_script("-m", "langadapt.runs", "mongolian_qwen_lora", "--small", "--show", "STEPS=7")
    assert "max_steps=7" in shown.stdout
    unknown = run_script("-m", "langadapt.runs", "nowhere")
    assert unknown.returncode == 2
    assert "Recipes with commands: classical_chinese_qwen3_4b_qlora, csas_all" in unknown.stderr
    no_full = run_script("-m", "langadapt.runs", "quickstart")
    assert "has `small` alone: add SMALL=1" in no_full.stderr


def test_all_five_translators_are_in_csas_all() -> None:
    for small in (False, True):
        commands, _ = recipe_commands("csas_all", small, {})
        named = [command for command in commands if command.is_recipe]
        assert all(command.may_fail for command in named)
        models = sorted(path.parent.name for path in FILES if re.match(r"csas_(?!all)", path.parent.name))
        assert sorted(shlex.split(command.line)[3] for command in named) == models
        first, *_ = (command for command in commands if "1_preprocess" in command.line)
        members = [recipe_commands(model, small, {})[0] for model in models]
        assert all(first.mark in [command.mark for command in some] for some in members), "stage 1 is done once"
