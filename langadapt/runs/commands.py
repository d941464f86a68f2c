"""The commands of a recipe, from ``configs/RECIPE/commands.yaml``: a block of shell lines for each of its two sizes.

A block is plain shell, so that it can be read, copied and run by hand: variables (``NAME=value``), commands, comments,
and lines that go on after a backslash. Two things are more than shell. A command behind ``-`` may fail, as in a
Makefile: the rest is run, and the failure told at the end. And a command that ends in a variable makes what it names
(a command of this room by ``$NAME`` or ``${NAME}_untrained``, any by ``output_dir=$NAME``); whoever gives that variable
a value has made it, and the command is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pydantic import Field

from langadapt.errors import UserError
from langadapt.recipe.settings import Settings, load_settings
from langadapt.recipe.yaml_file import read_yaml

CONFIGS = Path("configs")
_ASSIGNMENT = re.compile(r"([A-Z]+)=(.*)")
_MAKES = re.compile(r"python -m langadapt\.runs\..* \$\{?([A-Z]+)\}?\w*|.* output_dir=\$([A-Z]+)")


class RecipeCommands(Settings):
    """The file ``commands.yaml``."""

    full: str | None = Field(None, description="the commands of the size that the recipe is written for")
    small: str | None = Field(None, description="the same chain in minutes on a CPU, from text that needs no download")


@dataclass(frozen=True)
class Command:
    """One line to run. ``made`` says that it is not needed; ``mark`` stands for it and all before it."""

    line: str
    may_fail: bool
    made: bool
    mark: str

    @property
    def is_recipe(self) -> bool:
        """Whether it runs another recipe, which knows itself what it has done."""
        return self.line.startswith("python -m langadapt.runs ")


def recipe_commands(recipe: str, small: bool, given: Mapping[str, str]) -> tuple[list[Command], Path]:
    """Return the commands of a recipe and the folder that its outputs share, with ``given`` values of variables.

    Raises `UserError` for a recipe without such commands, and for a variable that they do not have.
    """
    path = CONFIGS / recipe / "commands.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.parent.name for each in CONFIGS.glob("*/commands.yaml")))
        raise UserError(f"{path}: no such file. Recipes with commands: {known}.")
    settings = load_settings(RecipeCommands, path)
    block = settings.small if small else settings.full
    if block is None:
        other = "`full` alone: leave out SMALL=1" if small else "`small` alone: add SMALL=1"
        raise UserError(f"{path} has {other}.")
    return parse(block, given, str(path))


def parse(block: str, given: Mapping[str, str], path: str) -> tuple[list[Command], Path]:
    """Return the commands of a block, and the folder that its variable OUT names; see `recipe_commands`."""
    variables: dict[str, str] = {}
    commands: list[Command] = []
    mark = ""
    for line in block.replace("\\\n", " ").splitlines():
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        if match := _ASSIGNMENT.fullmatch(line):
            words = shlex.split(_filled(match[2], variables, path), comments=True)
            variables[match[1]] = given.get(match[1], " ".join(words))
            continue
        makes = _MAKES.fullmatch(line)
        made = makes is not None and (makes[1] or makes[2]) in given
        filled = _filled(line.removeprefix("-"), variables, path)
        mark = hashlib.sha256("\0".join([mark, filled, *_settings_in(filled)]).encode()).hexdigest()
        commands.append(Command(filled, line.startswith("-"), made, mark))
    if unknown := given.keys() - variables.keys():
        raise UserError(f"{path}: it has no {', '.join(sorted(unknown))}. To be set are {', '.join(variables)}.")
    if "OUT" not in variables:
        raise UserError(f"{path}: no line OUT=FOLDER, which says where its outputs lie.")
    return commands, Path(variables["OUT"])


def _filled(text: str, variables: Mapping[str, str], path: str) -> str:
    try:
        return Template(text).substitute(variables)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {text!r} uses the variable {error}, which no line before it sets.") from None


def _settings_in(command: str) -> Sequence[str]:
    """Return what the YAML files of a command say, defaults included: with other settings it is another command."""
    files = (Path(word) for word in shlex.split(command) if word.endswith(".yaml"))
    return [json.dumps(read_yaml(file)[0]) for file in files if file.is_file()]
