"""Ground: reading records with their line numbers, and writing so that nothing is ever half there."""

from langadapt.files.atomic import atomic_path, staged_folder, write_json, write_text
from langadapt.files.records import (
    iter_json_array,
    read_json_array,
    read_json_file,
    read_jsonl,
    read_lines,
    require_file,
    sha256_of,
    write_json_array,
)

__all__ = [
    "atomic_path",
    "iter_json_array",
    "read_json_array",
    "read_json_file",
    "read_jsonl",
    "read_lines",
    "require_file",
    "sha256_of",
    "staged_folder",
    "write_json",
    "write_json_array",
    "write_text",
]
