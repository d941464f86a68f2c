"""Stage 1: read, clean, deduplicate, pair, hold out, draw, filter by length, write, and prove that nothing leaks.

Names are loaded when they are asked for: the processes that scan text import this package and need no tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Progress": "progress",
    "Templates": "templates",
    "byte_tokenizer": "new_tokenizer",
    "check_sources_are_kept": "outputs",
    "describe_inputs": "report",
    "download_sources": "download",
    "draw_sets": "drawing",
    "expected_seconds": "duration",
    "learn_tokenizer": "new_tokenizer",
    "measure_tokenizers": "tokenizer_report",
    "open_sources": "sources",
    "open_tokenizer": "lengths",
    "open_tokenizers": "tokenizer_report",
    "prompts_of": "records",
    "prove_disjoint": "check",
    "publish_tokenizer": "new_tokenizer",
    "read_test_sets": "check",
    "sample_texts": "sampling",
    "shortfalls": "report",
    "work_folder": "parts",
    "write_dataset": "dataset",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
