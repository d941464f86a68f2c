"""The command line that all stages share: ``[--config FILE] [flags of the stage] [key=value ...]``."""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from langadapt.recipe.settings import Settings


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
        nested = next((a for a in (field.annotation, *typing.get_args(field.annotation)) if _is_settings(a)), None)
        if nested is not None:
            item = "N." if typing.get_origin(field.annotation) is list else ""
            lines.append(describe_keys(nested, f"{prefix}{name}.{item}"))
    return "\n".join(lines)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("langadapt.recipe.", "").replace("NoneType", "None")


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
