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
    places: dict[KeyPath, str] = {}
    if config is not None:
        values, places = read_yaml(config)
    values, overridden = apply_overrides(values, overrides)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_describe(kind, problem, config, places, overridden) for problem in error.errors()]
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
    places: Mapping[KeyPath, str],
    overridden: set[KeyPath],
) -> str:
    owner, path = _resolve(kind, tuple(problem["loc"]))
    name = ".".join(map(str, path))
    place = _place(path, config, places, overridden)
    if problem["type"] == "extra_forbidden":
        key = str(path[-1])
        if key in owner.renamed:
            return f"{place}: unknown key `{name}`. {owner.renamed[key]}"
        known = list(owner.model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(sorted(known)[:30])}."
        return f"{place}: unknown key `{name}`. {hint}"
    if problem["type"] == "missing":
        return f"{place}: the key `{name}` is missing."
    # Of a key with keys of its own, pydantic also names the class, which is nothing to a reader of YAML.
    message = problem["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
    if not path:
        return f"{place}: {message}"
    return f"{place}: `{name}` is {problem['input']!r}: {message[:1].lower()}{message[1:]}."


def _place(path: KeyPath, config: str | Path | None, places: Mapping[KeyPath, str], overridden: set[KeyPath]) -> str:
    """Return where a key was set: the command line, a line of the YAML (or its parent's), or the file."""
    if any(path[: len(given)] == given for given in overridden):
        return "command line"
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return places[path[:length]]
    return str(config) if config is not None else "command line"


def _resolve(kind: type[Settings], location: KeyPath) -> tuple[type[Settings], KeyPath]:
    """Return the settings class that a key belongs to, and its path in the YAML.

    pydantic's ``location`` also names the chosen member of a union by its tag, which no user wrote: the source
    ``sources.mix`` of layout ``lines`` is ``("sources", "mix", "lines")`` there.
    """
    path: list[str | int] = []
    owners, index_comes = [kind], False
    for part in location:
        tagged = [owner for owner in owners if part in _tags(owner)]
        if index_comes:
            index_comes = False
        elif len(owners) > 1 and tagged:
            owners = tagged
            continue
        elif part in owners[0].model_fields and len(path) < len(location) - 1:
            annotation = owners[0].model_fields[str(part)].annotation
            inner = settings_in(annotation)
            owners, index_comes = inner or owners, bool(inner) and typing.get_origin(annotation) in (dict, list)
        path.append(part)
    return owners[0], tuple(path)


def settings_in(annotation: Any) -> list[type[Settings]]:
    """Return the settings classes inside an annotation: none, one, or the members of a union."""
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, Settings) else []
    return [kind for argument in typing.get_args(annotation) for kind in settings_in(argument)]


def _tags(kind: type[Settings]) -> list[Any]:
    """Return the values that tell a class apart from others in a union: those of its Literal fields."""
    literals = (field.annotation for field in kind.model_fields.values())
    return [
        value
        for literal in literals
        if typing.get_origin(literal) is typing.Literal
        for value in typing.get_args(literal)
    ]


def _numbered(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:\n" + "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
