"""The files of stage 1 with what is in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from langadapt.corpus.drawing import Draw, cut_to_share, shuffled
from langadapt.corpus.lengths import cutoff_suffix, fitting
from langadapt.corpus.pools import Pool
from langadapt.files import sha256_of, write_json_array
from langadapt.files.records import Record
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

    def within(records: list[Record]) -> tuple[list[Record], int]:
        fits = fitting(tokenizer, records, cutoff)
        return [record for record, fit in zip(records, fits, strict=True) if fit], fits.count(False)

    write("cpt_final", tqdm(draw.training(cpt), desc="cpt", total=min(cpt.wanted, cpt.size), unit="text", disable=None))
    for name, records in (("cpt_test", draw.cpt_test), ("sft_test", draw.sft_test)):
        kept, longer[f"{name}_{filtered}"] = within(records)
        write(name, records)
        write(f"{name}_{filtered}", kept)

    parts = {pool.name: list(draw.training(pool)) for pool in tqdm(sft, desc="sft", unit="part", disable=None)}
    shares = {pool.name: pool.max_share for pool in sft if pool.max_share < 1}
    cut = {"sft_final": cut_to_share(parts, shares)}
    write("sft_final", shuffled(parts, settings.seed))
    short: dict[str, list[Record]] = {}
    too_long: dict[str, int] = {}
    for name, records in tqdm(parts.items(), desc="token lengths", unit="part", disable=None):
        short[name], too_long[name] = within(records)
    cut[f"sft_{filtered}"] = cut_to_share(short, shares)
    longer[f"sft_{filtered}"] = sum(too_long.values())
    write(f"sft_{filtered}", shuffled(short, settings.seed))
    return {
        "draws": draw.report,
        "held out": draw.held_out_report,
        "longer than cutoff_len": {**longer, "by part": too_long},
        "cut to max_share": {name: {k: n for k, n in lost.items() if n} for name, lost in cut.items()},
        "files": files,
    }


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
