"""The files of stage 1: written together or not at all, and proven free of leaks from what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from langadapt.corpus.drawing import Draw, cut_to_share, shuffled
from langadapt.corpus.lengths import cutoff_suffix, token_length, within
from langadapt.corpus.pools import Pool, comparable_texts
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import TwinIndex
from langadapt.errors import UserError
from langadapt.files import iter_json_array, sha256_of, write_json_array
from langadapt.files.records import Record
from langadapt.models import user_turn
from langadapt.recipe.preprocess import PreprocessSettings


def write_dataset(
    folder: Path,
    settings: PreprocessSettings,
    draw: Draw,
    cpt: Pool,
    sft: list[Pool],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Draw the training sets and write every data file of stage 1 into ``folder``.

    Returns the report: counts of each draw, what the token limit and the share limits cost, and each file's content.
    """
    prefix, cutoff = settings.name, settings.cutoff_len
    filtered = f"filtered_{cutoff_suffix(cutoff)}"
    files: dict[str, Any] = {}
    longer: dict[str, int] = {}

    def write(name: str, records: Iterable[Record]) -> None:
        files[f"{prefix}_{name}.json"] = _write_counted(folder / f"{prefix}_{name}.json", records)

    def length(record: Record) -> int:
        return token_length(tokenizer, record)

    write("cpt_final", tqdm(draw.training(cpt), desc="cpt", total=min(cpt.wanted, cpt.size), unit="text", disable=None))
    for name, records in (("cpt_test", draw.cpt_test), ("sft_test", draw.sft_test)):
        kept, longer[f"{name}_{filtered}"] = within(records, cutoff, length)
        write(name, records)
        write(f"{name}_{filtered}", kept)

    parts = {pool.name: list(draw.training(pool)) for pool in tqdm(sft, desc="sft", unit="part", disable=None)}
    shares = {pool.name: pool.max_share for pool in sft if pool.max_share < 1}
    cut = {"sft_final": cut_to_share(parts, shares)}
    write("sft_final", shuffled(parts, settings.seed))
    fitting: dict[str, list[Record]] = {}
    too_long: dict[str, int] = {}
    for name, records in tqdm(parts.items(), desc="token lengths", unit="part", disable=None):
        fitting[name], too_long[name] = within(records, cutoff, length)
    cut[f"sft_{filtered}"] = cut_to_share(fitting, shares)
    longer[f"sft_{filtered}"] = sum(too_long.values())
    write(f"sft_{filtered}", shuffled(fitting, settings.seed))
    return {
        "draws": draw.report,
        "held out": draw.held_out_report,
        "longer than cutoff_len": {**longer, "by part": too_long},
        "cut to max_share": {name: {k: n for k, n in lost.items() if n} for name, lost in cut.items()},
        "files": files,
    }


def prove_disjoint(folder: Path, settings: PreprocessSettings, templates: Templates) -> dict[str, Any]:
    """Read the written files again and look for held-out text in the training files.

    Returns what was compared. Raises `UserError` naming both records if any training record is a twin of a held-out
    one: nothing of such a dataset must be used.
    """
    index = TwinIndex()
    held_out = 0
    for name in ("cpt_test", "sft_test"):
        for record in iter_json_array(folder / f"{settings.name}_{name}.json"):
            index.add(f"{record['id']} of {name}", comparable_texts(record, templates))
            held_out += 1
    compared = 0
    for name in ("cpt_final", "sft_final"):
        records = iter_json_array(folder / f"{settings.name}_{name}.json")
        for record in tqdm(records, desc=f"checking {name}", unit="record", disable=None):
            prompt = user_turn(record) if "instruction" in record else ""
            twin = index.find([*comparable_texts(record, templates), prompt])
            if twin is not None:
                raise UserError(
                    f"leak: record {record['id']} of {name} is a twin of {twin}. Nothing was written. "
                    "This is a defect of stage 1; please report it with the settings and both records."
                )
            compared += 1
    return {"held-out records": held_out, "training records compared with them": compared, "twins found": 0}


def _write_counted(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    parts: Counter[str] = Counter()

    def counted() -> Iterator[Record]:
        for record in records:
            direction = record.get("language") or f"{record['source_lang']}-{record['target_lang']}"
            parts[f"{record['source']} {record['task']} {direction}"] += 1
            yield record

    count = write_json_array(path, counted())
    return {
        "records": count,
        "by part": dict(sorted(parts.items())),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
