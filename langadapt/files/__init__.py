"""Ground: reading records with their line numbers, and writing so that nothing is ever half there."""

from langadapt.files.atomic import (
    atomic_path,
    give_default_permissions,
    lock,
    probe_folder,
    staged_folder,
    sync_to_disk,
    write_json,
    write_text,
)
from langadapt.files.json_stream import Bad, excerpt, is_text, parse_record, stream_json_array
from langadapt.files.provenance import check_vouched, files_vouched_for
from langadapt.files.records import (
    iter_json_array,
    read_json_array,
    read_json_file,
    read_json_object,
    read_jsonl,
    read_lines,
    require_file,
    sha256_of,
    strings_in,
    write_json_array,
)

__all__ = [
    "Bad",
    "atomic_path",
    "check_vouched",
    "excerpt",
    "files_vouched_for",
    "give_default_permissions",
    "is_text",
    "iter_json_array",
    "lock",
    "parse_record",
    "probe_folder",
    "read_json_array",
    "read_json_file",
    "read_json_object",
    "read_jsonl",
    "read_lines",
    "require_file",
    "sha256_of",
    "staged_folder",
    "stream_json_array",
    "strings_in",
    "sync_to_disk",
    "write_json",
    "write_json_array",
    "write_text",
]
