"""The files of stage 1 with what is in each. Records wait on disk until it is known which are used, in which order."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langadapt.corpus.drawing import Draw, cut_to_share
from langadapt.corpus.lengths import Cutoff, cutoff_suffix
from langadapt.corpus.pools import Pool
from langadapt.corpus.progress import Advance
from langadapt.errors import UserError
from langadapt.files import atomic_path, sha256_of
from langadapt.files.records import Record
from langadapt.recipe.preprocess import PreprocessSettings

_AT_ONCE = 256  # records given to the tokenizer together

Parts = dict[str, list[int]]  # by part of the mixture: numbers of records in a spool


def write_dataset(
    folder: Path,
    settings: PreprocessSettings,
    draw: Draw,
    mixtures: Mapping[str, Sequence[Pool]],
    cutoff: Cutoff,
    work: Path,
    advance: Advance,
) -> dict[str, Any]:
    """Draw the training sets and write every data file of stage 1 into ``folder``, with ``work`` for what has to wait.

    ``mixtures`` holds the pools of cpt, sft and, where the recipe has it, dpo. Returns the report: counts of each draw,
    what the token limit and the share limits cost, and each file's content.
    """
    filtered = f"filtered_{cutoff_suffix(settings.cutoff_len)}"
    held_out = {"cpt": {"test": draw.cpt_test}, "sft": {"test": draw.sft_test}, "dpo": {"test": draw.dpo_test}}
    if settings.validation is not None:
        held_out["sft"]["valid"] = draw.sft_valid
    files: dict[str, Any] = {}
    longer: dict[str, Any] = {}
    cut: dict[str, dict[str, int]] = {}
    whole = sum(pool.expected_bytes for pools in mixtures.values() for pool in pools) or 1
    for kind, pools in mixtures.items():
        for use, records in held_out[kind].items():
            waiting = Spool(work / f"{kind}_{use}.jsonl")
            numbers = waiting.add(records, cutoff)
            short = waiting.short(numbers)
            files |= waiting.write(folder / f"{settings.name}_{kind}_{use}.json", numbers)
            files |= waiting.write(folder / f"{settings.name}_{kind}_{use}_{filtered}.json", short)
            longer[f"{kind}_{use}_{filtered}"] = len(numbers) - len(short)

        spool = Spool(work / f"{kind}_final.jsonl")
        filters = kind != "cpt"  # documents are cut and packed in training
        shares = {pool.name: pool.max_share for pool in pools if pool.max_share < 1}
        parts: Parts = {}
        for pool in pools:
            training = _reported(draw.training(pool), advance, pool.expected_bytes / whole / max(1, pool.budget.amount))
            parts[pool.name] = spool.add(training, cutoff if filters else None)
        cut[f"{kind}_final"] = cut_to_share(parts, shares)
        files |= spool.write(folder / f"{settings.name}_{kind}_final.json", _shuffled(parts, settings.seed))
        if filters:
            fitting = {name: spool.short(numbers) for name, numbers in parts.items()}
            too_long = {name: len(parts[name]) - len(fitting[name]) for name in parts}
            longer.setdefault("by part", {}).update(too_long)
            longer[f"{kind}_{filtered}"] = sum(too_long.values())
            cut[f"{kind}_{filtered}"] = cut_to_share(fitting, shares)
            files |= spool.write(folder / f"{settings.name}_{kind}_{filtered}.json", _shuffled(fitting, settings.seed))
        for name, file in files.items():
            use = name.removeprefix(f"{settings.name}_{kind}_")
            if pools and use != name and not use.startswith(("test", "valid")) and not file["records"]:
                raise UserError(
                    f"no record is left for {name}. See `cutoff_len`={settings.cutoff_len}, the max_share of the parts "
                    "and what the filters dropped."
                )
    return {
        "draws": draw.report,
        "held out": draw.held_out_report,
        "longer than cutoff_len": longer,
        "cut to max_share": {name: {k: n for k, n in lost.items() if n} for name, lost in cut.items()},
        "files": files,
    }


class Spool:
    """Records on disk by number, at some 50 bytes of memory each; written anew by every run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets = [0]
        self._parts: list[str] = []
        self._long: set[int] = set()
        path.write_bytes(b"")

    def add(self, records: Iterable[Record], cutoff: Cutoff | None) -> list[int]:
        """Add records and return their numbers; those longer than ``cutoff`` are noted."""
        first = len(self._parts)
        with open(self._path, "ab") as handle:
            for batch in _batched(records):
                if cutoff is not None:
                    excess = cutoff.excess(batch)
                    self._long |= {len(self._parts) + k for k, tokens in enumerate(excess) if tokens}
                for record in batch:
                    line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
                    handle.write(line)
                    self._offsets.append(self._offsets[-1] + len(line))
                    direction = record.get("language") or f"{record['source_lang']}-{record['target_lang']}"
                    self._parts.append(sys.intern(f"{record['source']} {record['task']} {direction}"))
        return list(range(first, len(self._parts)))

    def short(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers of records that are not longer than the cutoff."""
        return [number for number in numbers if number not in self._long]

    def write(self, target: Path, numbers: Sequence[int]) -> dict[str, Any]:
        """Write some records as a JSON array, one a line, atomically; return what is in the file, by its name."""
        by_part: dict[str, int] = {}
        with (
            atomic_path(target) as temporary,
            open(temporary, "wb") as output,
            open(self._path, "rb") as handle,
        ):
            output.write(b"[")
            for position, number in enumerate(numbers):
                start, stop = self._offsets[number], self._offsets[number + 1]
                output.write(b",\n" if position else b"\n")
                output.write(os.pread(handle.fileno(), stop - start, start))
                by_part[self._parts[number]] = by_part.get(self._parts[number], 0) + 1
            output.write(b"\n]\n")
        described = {
            "records": len(numbers),
            "by part": dict(sorted(by_part.items())),
            "bytes": target.stat().st_size,
            "sha256": sha256_of(target),
        }
        return {target.name: described}


def _batched(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(itertools.islice(iterator, _AT_ONCE)):
        yield batch


def _reported(records: Iterable[Record], advance: Advance, share: float) -> Iterator[Record]:
    for record in records:
        advance(share)
        yield record


def _shuffled(parts: Parts, seed: int) -> list[int]:
    """Return the numbers of all parts in one order that the seed decides."""
    numbers = [number for part in parts.values() for number in part]
    random.Random(seed).shuffle(numbers)
    return numbers
