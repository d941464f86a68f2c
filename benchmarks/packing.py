"""Best-fit packing against cutting the stream of tokens, and how fast a corpus is encoded and packed.

    python benchmarks/packing.py [TOKENIZER DATA.json] [--stage pt|sft] [--cutoff_len 8192]

First a million documents of which only the lengths are drawn (lognormal), laid out in three ways: packed best-fit; as
one stream that is cut every ``cutoff_len`` tokens; and one piece a sequence, padded to the longest of eight. Filled is
the share of real tokens; cut, that of the documents which would have fitted into a block but do not stand in one piece.

Then, where a file of stage 1 is given, the same for its records, and the speed of `prepare_tokens`, which encodes,
packs and writes, against encoding record by record, which is all that the other way does.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langadapt.files import read_json_array
from langadapt.models import conversation, encode_conversation, encode_text, load_tokenizer
from langadapt.recipe.training import load_training_settings
from langadapt.training.best_fit import pack
from langadapt.training.data import prepare_tokens

ROUNDS = 3
DOCUMENTS, MEDIAN, SIGMA = 1_000_000, 800, 1.2
BATCH = 8


def compare_layouts(lengths: NDArray[np.int64], cutoff: int) -> None:
    """Print how full blocks are, and which share of the documents that fit into one are cut all the same."""
    pieces = _pieces(lengths, cutoff)
    start = time.perf_counter()
    _, bounds = pack(pieces, cutoff, seed=0)
    seconds = time.perf_counter() - start
    total = lengths.sum()
    ends = np.cumsum(lengths)
    fits = lengths <= cutoff
    broken = fits & ((ends - 1) // cutoff != (ends - lengths) // cutoff)
    batches = np.random.default_rng(0).permutation(pieces)[: len(pieces) // BATCH * BATCH].reshape(-1, BATCH)
    rows = {
        "best-fit": (total / ((len(bounds) - 1) * cutoff), 0.0),
        "cut stream": (total / (-(-total // cutoff) * cutoff), broken.sum() / fits.sum()),
        f"padded, {BATCH} a batch": (batches.sum() / (batches.max(1) * BATCH).sum(), 0.0),
    }
    print(f"{len(lengths):,} documents, {total:,} tokens, {len(pieces):,} pieces of at most {cutoff:,}")
    for name, (filled, cut) in rows.items():
        print(f"  {name:18} {filled:8.3%} filled  {cut:6.2%} cut")
    print(f"  packed in {seconds:.2f} s")


def compare_encoding(tokenizer_name: str, data: Path, stage: str, cutoff: int) -> NDArray[np.int64]:
    """Print documents a second of both ways, taken in turn; return the tokens of every record."""
    tokenizer = load_tokenizer(tokenizer_name)
    records = read_json_array(data)
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "stage": stage,
            "model_name_or_path": tokenizer_name,
            "dataset": data,
            "cutoff_len": cutoff,
            "output_dir": folder,
        }
        settings = load_training_settings(None, [f"{key}={value}" for key, value in keys.items()])
        lengths = np.zeros(0, np.int64)

        def one_by_one() -> None:
            nonlocal lengths
            if stage == "pt":
                # A document stands between a start and an end.
                found = [len(encode_text(tokenizer, record["text"])) + 2 for record in records]
            else:
                found = [len(encode_conversation(tokenizer, conversation(record))[0]) for record in records]
            lengths = np.array(found)

        def prepared() -> None:
            prepare_tokens(str(data), settings, tokenizer, Path(folder) / f"tokens-{time.monotonic_ns()}")

        ways: dict[str, Callable[[], None]] = {"record by record": one_by_one, "prepare_tokens": prepared}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{data.name}: {len(records):,} records, {lengths.sum():,} tokens")
    for name, median in medians.items():
        print(f"  {name:18} {len(records) / median:8,.0f} records/s  {lengths.sum() / median:10,.0f} tokens/s")
    print(f"  prepare_tokens is {medians['record by record'] / medians['prepare_tokens']:.2f} times as fast")
    return lengths


def _pieces(lengths: NDArray[np.int64], cutoff: int) -> NDArray[np.int64]:
    whole, rest = lengths // cutoff, lengths % cutoff
    return np.concatenate([np.full(whole.sum(), cutoff), rest[rest > 0]])


def main() -> None:
    """Print both comparisons and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", nargs="?")
    parser.add_argument("data", nargs="?", type=Path, help="a file of stage 1")
    parser.add_argument("--stage", choices=["pt", "sft"], default="pt")
    parser.add_argument("--cutoff_len", type=int, default=8192)
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), SIGMA, DOCUMENTS)
    compare_layouts(np.maximum(drawn.astype(np.int64), 2), arguments.cutoff_len)
    if arguments.data is not None:
        lengths = compare_encoding(arguments.tokenizer, arguments.data, arguments.stage, arguments.cutoff_len)
        if arguments.stage == "sft":
            lengths = lengths[lengths <= arguments.cutoff_len]  # longer conversations are left out
        compare_layouts(lengths, arguments.cutoff_len)
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
