"""Instruction records as they lie in a column: a JSON text each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TURNS = "turns"  # the name of their column, where columns of texts have a language code


def answers_of(record: Mapping[str, Any]) -> list[str]:
    """Return the answers of a written record to its last question: of a preference the chosen and the rejected one."""
    keys = ("chosen", "rejected") if record["task"] == "preference" else ("output",)
    return [record[key] for key in keys]


def spoken_in(record: str) -> str:
    """Return what is said in a stored record: all that filters and deduplication look at.

    The system prompt is left out. Thousands of records may share a long one and have nothing else in common.
    """
    turns = json.loads(record)
    said = [text for turn in turns.get("history", ()) for text in turn]
    said += [turns.get("instruction"), turns.get("input"), turns["output"], turns.get("rejected")]
    return "\n".join(text for text in said if text)
