"""Run a recipe from raw text to report, as a user would: one command after the other, each printed first.

    make recipe R=mongolian_qwen_lora               or: python -m langadapt.runs mongolian_qwen_lora
    make recipe R=mongolian_qwen_lora SMALL=1       or: python -m langadapt.runs mongolian_qwen_lora --small
    python -m langadapt.runs mongolian_qwen_lora --small DATA=FOLDER STEPS=200        other values of its variables
    python -m langadapt.runs mongolian_qwen_lora --show                               the commands alone

The commands stand in configs/RECIPE/commands.yaml. What was done is not done again: a command is left out if it and all
before it ended well, with the same settings files (what is in a folder given by DATA is not looked at); one that was
ended goes on where its stage can. --again forgets that, and deletes what the small form wrote.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from langadapt.errors import UserError, run_command
from langadapt.files import read_json_object, write_json
from langadapt.runs.commands import Command, recipe_commands

REPOSITORY = Path(__file__).resolve().parents[2]
DONE = "commands_done.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a folder below configs/")
    parser.add_argument(
        "variables", nargs="*", metavar="NAME=value", help="other values of the variables of its commands"
    )
    parser.add_argument("--small", action="store_true", help="the small form, in minutes on a CPU")
    parser.add_argument("--again", action="store_true", help="from the beginning, whatever was done before")
    parser.add_argument("--show", action="store_true", help="print the commands and run none")
    arguments = parser.parse_intermixed_args()
    os.chdir(REPOSITORY)
    given = dict(_variable(each) for each in arguments.variables)
    commands, folder = recipe_commands(arguments.recipe, arguments.small, given)
    if arguments.show:
        print("\n".join(command.line for command in commands if not command.made))
        return
    if arguments.again:
        (folder / DONE).unlink(missing_ok=True)
        if arguments.small and "OUT" not in given:  # a folder that was named may hold what is somebody else's
            shutil.rmtree(folder, ignore_errors=True)
    failed = run_all(commands, folder / DONE)
    if failed:
        print("failed: " + "\nfailed: ".join(failed), file=sys.stderr)
        sys.exit(1)


def run_all(commands: Sequence[Command], record: Path) -> list[str]:
    """Run the commands that are not done; return those that failed and may. Raises `UserError` at any other failure.

    ``record`` is the file that says what is done.
    """
    console = Console(highlight=False)
    done = read_json_object(record) if record.is_file() else {}
    failed = []
    started = time.monotonic()
    for command in commands:
        if command.made or (command.mark in done and not command.is_recipe):
            why = "given" if command.made else "done before"
            console.print(f"{why}: {command.line}", style="dim", markup=False, soft_wrap=True)
            continue
        console.print(f"\n$ {command.line}", style="bold", markup=False, soft_wrap=True)
        code = _run(command.line)
        if code and not command.may_fail:
            raise UserError(
                f"the command above ended with exit code {code}; see its message. When that is mended, run the same "
                "again: it goes on from there."
            )
        if code:
            failed.append(command.line)
            continue
        # Read anew: a recipe run by this one may have put its own commands into the same file.
        done = (read_json_object(record) if record.is_file() else {}) | {command.mark: command.line}
        write_json(record, done)
    console.print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")
    return failed


def _run(command: str) -> int:
    """Run a command with this interpreter; return its exit code."""
    program, *arguments = shlex.split(command)
    interpreter = [sys.executable] if program == "python" else [program]
    return subprocess.run(
        [*interpreter, *arguments], env=os.environ | {"PYTHON": sys.executable}, check=False
    ).returncode


def _variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise UserError(f"{given}: expected NAME=value, such as STEPS=200.")
    return name, value


if __name__ == "__main__":
    run_command(main)
