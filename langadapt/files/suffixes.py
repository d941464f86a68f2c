"""What the name of a file says of it."""

from __future__ import annotations

from pathlib import PurePath

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
CONTAINERS = {
    ".txt": "text",
    ".tsv": "tsv",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


def container_of(name: str) -> str | None:
    """Return what a file name says of the file: text, tsv, csv, json, jsonl or parquet; None for other suffixes."""
    path = PurePath(name)
    return CONTAINERS.get(PurePath(path.stem if path.suffix in COMPRESSED else name).suffix)
