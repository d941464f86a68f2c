"""From a YAML file and ``key=value`` overrides to one checked, typed object.

Every problem is collected and reported in one error: unknown keys with the nearest right name, wrong types, values out
of range, keys that contradict each other, each with its file and line.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from langadapt.errors import UserError
from langadapt.recipe.yaml_file import parse_value, read_yaml

KeyPath = tuple[str | int, ...]


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, objects do not change after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), arbitrary_types_allowed=True)

    # What to say for a key that used to exist, or that means something else elsewhere.
    renamed: ClassVar[Mapping[str, str]] = {}


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], config: str | Path | None, overrides: Sequence[str] = ()) -> S:
    """Read ``config`` (a YAML file, or None for the defaults), apply ``key=value`` overrides, check, return.

    Raises `UserError` listing every problem at once.
    """
    values: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {}
    if config is not None:
        values, lines = read_yaml(config)
    values, overridden = apply_overrides(values, overrides)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_describe(kind, problem, config, lines, overridden) for problem in error.errors()]
        raise UserError(_numbered(problems)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], set[KeyPath]]:
    """Return a copy of ``values`` with each ``a.b=value`` set, and the paths that were set.

    Items of a list are reached by number, from 0: ``sources.0.path=...``.
    """
    result = copy.deepcopy(dict(values))
    overridden: set[KeyPath] = set()
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name or name.startswith("-"):
            raise UserError(f"{override!r} on the command line: expected key=value, for example seed=1. See --help.")
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        try:
            value = parse_value(text)
        except Exception as error:
            raise UserError(f"{override!r} on the command line: the value is not valid YAML ({error}).") from None
        _set(result, path, value, override)
        overridden.add(path)
    return result, overridden


def _set(target: Any, path: KeyPath, value: Any, override: str) -> None:
    for position, part in enumerate(path):
        last = position == len(path) - 1
        if isinstance(target, list):
            if not isinstance(part, int) or part >= len(target):
                raise UserError(f"{override!r} on the command line: the list has items 0 to {len(target) - 1}.")
        elif not isinstance(target, dict):
            raise UserError(f"{override!r} on the command line: {'.'.join(map(str, path[:position]))} is no mapping.")
        if last:
            target[part] = value
        else:
            if isinstance(target, dict) and target.get(part) is None:
                target[part] = {}
            target = target[part]


def _describe(
    kind: type[Settings],
    problem: Any,
    config: str | Path | None,
    lines: Mapping[KeyPath, int],
    overridden: set[KeyPath],
) -> str:
    path: KeyPath = tuple(problem["loc"])
    name = ".".join(map(str, path))
    place = _place(path, config, lines, overridden)
    if problem["type"] == "extra_forbidden":
        owner = _settings_at(kind, path[:-1])
        key = str(path[-1])
        if owner is not None and key in owner.renamed:
            return f"{place}: unknown key `{name}`. {owner.renamed[key]}"
        known = list(owner.model_fields) if owner is not None else []
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(sorted(known)[:30])}."
        return f"{place}: unknown key `{name}`. {hint}"
    if problem["type"] == "missing":
        return f"{place}: the key `{name}` is missing."
    message = problem["msg"].removeprefix("Value error, ")
    if not path:
        return f"{place}: {message}"
    return f"{place}: `{name}` is {problem['input']!r}: {message[:1].lower()}{message[1:]}."


def _place(path: KeyPath, config: str | Path | None, lines: Mapping[KeyPath, int], overridden: set[KeyPath]) -> str:
    """Return where a key was set: the command line, a line of the YAML (or its parent's), or the file."""
    if any(path[: len(given)] == given for given in overridden):
        return "command line"
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return f"{config}, line {lines[path[:length]]}"
    return str(config) if config is not None else "command line"


def _settings_at(kind: type[Settings], path: KeyPath) -> type[Settings] | None:
    """Return the settings class that stands at a path inside ``kind``; list indexes and union tags are stepped over."""
    current: type[Settings] | None = kind
    for part in path:
        if current is None or part not in current.model_fields:
            continue
        current = _settings_in(current.model_fields[str(part)].annotation)
    return current


def _settings_in(annotation: Any) -> type[Settings] | None:
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return annotation if issubclass(annotation, Settings) else None
    for argument in typing.get_args(annotation):
        found = _settings_in(argument)
        if found is not None:
            return found
    return None


def _numbered(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:\n" + "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
