"""YAML with line numbers, in the dialect people expect.

PyYAML reads YAML 1.1, where ``5e-5`` is a string and the language code ``no`` is the value false. Here numbers and
booleans follow YAML 1.2: ``5e-5`` is a float, and only true and false are booleans.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from langadapt.errors import UserError
from langadapt.files import require_file


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars and an error for a key that is written twice."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag
        not in (
            "tag:yaml.org,2002:bool",
            "tag:yaml.org,2002:float",
            "tag:yaml.org,2002:int",
            "tag:yaml.org,2002:timestamp",
        )
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = key_node.value
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands already in line {seen[key]}", key_node.start_mark
            )
        seen[key] = key_node.start_mark.line + 1
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_value(text: str) -> Any:
    """Parse the value of a ``key=value`` override; an empty value is null.

    Lists and mappings in brackets and quoted texts are YAML. Anything else is one number, boolean, null or text, whole:
    no `` #`` in it starts a comment and no ``: `` a mapping, since paths and prompts may hold both.
    """
    text = text.strip()
    if text.startswith(("{", "[", '"', "'")):
        return yaml.load(text, _Loader)
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return loader.construct_object(yaml.ScalarNode(tag, text))


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], str]]:
    """Return the mapping in a YAML file and where every key and list item stands ("FILE, line N"), by its path.

    The key ``defaults`` names another file, from this one's folder, whose keys hold where this one has none; a mapping
    is taken from one file or the other, whole. Raises `UserError` for a missing file, broken YAML, a duplicate key, a
    file that is no mapping, and defaults that have defaults themselves.
    """
    path = Path(path)
    values, lines = _read_file(path)
    places = {key: f"{path}, line {line}" for key, line in lines.items()}
    if "defaults" not in values:
        return values, places
    name, place = values.pop("defaults"), places.pop(("defaults",))
    if not isinstance(name, str):
        raise UserError(f"{place}: `defaults` is {name!r}: expected the path of a YAML file.")
    base = Path(os.path.normpath(path.parent / name))
    if not base.is_file():
        raise UserError(f"{place}: `defaults` names {base}, which is not there.")
    shared, lines = _read_file(base)
    if "defaults" in shared:
        raise UserError(f"{base}, line {lines['defaults',]}: defaults have no defaults themselves.")
    places |= {key: f"{base}, line {line}" for key, line in lines.items() if key[0] not in values}
    return shared | values, places


def _read_file(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    path = require_file(path, "Name an existing YAML file; the recipes stand in configs/.")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, _Loader)
        value = yaml.load(text, _Loader)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid UTF-8. Save the file as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: broken YAML ({error.problem}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: broken YAML ({error}).") from None
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(value).__name__}.")
    lines: dict[tuple[str | int, ...], int] = {}
    _collect_lines(node, (), lines)
    return value, lines


def _collect_lines(
    node: yaml.Node | None, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            here = (*path, index)
            lines[here] = item.start_mark.line + 1
            _collect_lines(item, here, lines)
