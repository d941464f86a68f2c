"""Files of records, and how stage 1 reads them, for the tests of its reading."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from conftest import CHINESE, TIBETAN
from pydantic import TypeAdapter

from langadapt.corpus.reading import read_rows
from langadapt.recipe.sources import Source

WAY_OUT = "Fetch it."
RECORDS = [{"id": f"r{k}", "bo": bo, "zh": zh} for k, (bo, zh) in enumerate(zip(TIBETAN, CHINESE, strict=True))]
BO_ZH = {"layout": "fields", "fields": {"bo": "bo", "zh": "zh"}}


def source(**keys: Any) -> Any:
    return TypeAdapter(Source).validate_python(keys)


def read(folder: Path, **keys: Any) -> list[Any]:
    return list(read_rows(source(**keys), str(folder), WAY_OUT))


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> None:
    """Write records with the standard library, pandas and Arrow, packed as the name says."""
    plain = folder / name.removesuffix(".gz").removesuffix(".zst")
    frame = pd.DataFrame(records)
    match plain.suffix:
        case ".tsv":
            rows = [list(records[0]), *(list(record.values()) for record in records)]
            plain.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            frame.to_csv(plain, index=False)
        case ".json":
            plain.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
        case ".jsonl":
            plain.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        case ".parquet":
            frame.to_parquet(plain, row_group_size=3)
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(plain.read_bytes()))
    if name.endswith(".zst"):
        with pa.CompressedOutputStream(str(folder / name), "zstd") as packed:
            packed.write(plain.read_bytes())
