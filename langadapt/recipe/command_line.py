"""The command line that all stages share: ``[--config FILE] [flags of the stage] [key=value ...]``."""

from __future__ import annotations

import argparse
import json
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic_core import PydanticUndefined

from langadapt.recipe.settings import Settings, settings_in


def stage_parser(description: str, kind: type[Settings], default_config: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--config`` and ``key=value`` overrides; ``--help`` lists every key with its meaning.

    Flags of the stage are added by the caller. Parse with `parse_intermixed_args`, so that overrides may stand
    anywhere on the line.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=describe_keys(kind),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", default=default_config, help=f"recipe (default: {default_config})")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, e.g. seed=1 or a.b=2")
    return parser


def describe_keys(kind: type[Settings], prefix: str = "") -> str:
    """Return one line a key: its dotted name, type, default and description."""
    lines = [] if prefix else ["keys of the recipe file, each also key=value on the command line:"]
    for name, field in kind.model_fields.items():
        if field.description is None:
            continue
        required = field.default is PydanticUndefined and field.default_factory is None
        default = "" if required or field.default is PydanticUndefined else f" (default: {_plain(field.default)})"
        lines.append(f"  {prefix}{name}: {_type_name(field.annotation)}{default}\n      {field.description}")
        origin: Any = typing.get_origin(field.annotation)
        item = {list: "N.", dict: "NAME."}.get(origin, "")
        members = settings_in(field.annotation)
        for member in members:
            if len(members) > 1:
                lines.append(f"  {prefix}{name}.{item[:-1]}, one of: {(member.__doc__ or '').splitlines()[0]}")
            lines.append(describe_keys(member, f"{prefix}{name}.{item}"))
    return "\n".join(lines)


def _type_name(annotation: Any) -> str:
    """Return an annotation as a user reads it: names without modules, unions with bars, no pydantic details."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(_plain, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, arguments))
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(map(_type_name, arguments))}]"
    if annotation is type(None):
        return "null"
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def split_flags(arguments: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Return the flags of a stage that were given, as overrides, ahead of the ``key=value`` ones.

    The value of a text flag is quoted, so that ``--cpt 2024`` names a folder and no number.
    """
    values = {name: getattr(arguments, name) for name in names}
    given = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None]
    return [*given, *arguments.overrides]
