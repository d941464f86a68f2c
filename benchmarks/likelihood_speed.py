"""Likelihood of real texts: this project against one text at a time, and what each step brings.

    PYTHONPATH=. python benchmarks/likelihood_speed.py MODEL TEXTS [--field text] [--limit 100] [--rounds 5]

TEXTS is a .json, .jsonl, .csv, .tsv or .parquet file with a text under --field in each record; --limit of them are
drawn. The plain way is one window after the other through the model, with the logits of all positions and their
cross-entropy, in float32. Then one step is taken after the other: logits of a part of the positions at a time; windows
in batches, in the order of the texts; batches of windows of like length, which is what stage 4 does; and the same in
bfloat16. All predict the same tokens. Each round runs every way once; medians are compared.

"off" is how far the bits of a way are from those of the plain forward pass with its logits in float64 from there on:
all together, and the text that is furthest off. The cross-entropy of PyTorch in float32 is itself some 3e-6 off where
the vocabulary is large.
"CPU s" counts the processor's time of this process alone, for machines with other work to do.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from langadapt.files.containers import read_records
from langadapt.models import encode_texts, load_model, load_tokenizer, pick_device
from langadapt.models.likelihood import (
    Window,
    batch_log_likelihoods,
    document_log_likelihoods,
    longest_sequence,
    prefix_token_id,
    split_output_layer,
    windows,
)


def main() -> None:
    """Run every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model folder")
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("--field", default="text")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_length", type=int, default=None, help="tokens a window (default: as stage 4)")
    parser.add_argument("--token_budget", type=int, default=None, help="tokens a batch (default: 1,024 on a CPU)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    device = pick_device(arguments.device)
    tokenizer = load_tokenizer(arguments.model)
    model = load_model(arguments.model, torch.float32, device)
    texts = [record[arguments.field] for _, record in read_records(arguments.texts, "", [arguments.field])]
    texts = random.Random(0).sample(texts, min(arguments.limit, len(texts)))
    documents = encode_texts(tokenizer, texts)
    max_length = arguments.max_length or min(longest_sequence(model) or 2048, 2048)
    budget = arguments.token_budget or (1024 if device.type == "cpu" else 16384)
    describe(model, documents, max_length, budget)

    options: dict[str, Any] = {"prefix_id": prefix_token_id(tokenizer), "max_length": max_length, "stride": max_length}
    todo = [window for number, ids in enumerate(documents) for window in windows(number, ids, *options.values())]
    half = copy.deepcopy(model).bfloat16()
    layer = split_output_layer(model, documents[0][:2])

    def batched(batches: Sequence[Sequence[Window]]) -> list[float]:
        totals = [0.0] * len(documents)
        for batch in batches:
            for window, value in zip(batch, batch_log_likelihoods(model, layer, batch), strict=True):
                totals[window.document] += value
        return totals

    ways: dict[str, Callable[[], list[float]]] = {
        "one text at a time": lambda: one_at_a_time(model, todo, len(documents), torch.float32),
        "+ logits in parts": lambda: batched([[window] for window in todo]),
        "+ batches": lambda: batched(in_order(todo, budget)),
        "+ of like length (stage 4)": lambda: document_log_likelihoods(
            model, documents, token_budget=budget, **options
        ),
        "+ bfloat16": lambda: document_log_likelihoods(half, documents, token_budget=budget, **options),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    values: dict[str, list[float]] = {}
    for _ in range(arguments.rounds + 1):  # the first is not timed
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            values[name] = way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            runs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    exact = one_at_a_time(model, todo, len(documents), torch.float64)
    report({name: timed[1:] for name, timed in runs.items()}, values, exact, documents, texts)


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, todo: Sequence[Window], documents: int, dtype: torch.dtype) -> list[float]:
    """Return the log-likelihood of each document by the plain forward pass of each window; ``dtype``: of the logits."""
    totals = [0.0] * documents
    for window in todo:
        logits = model(torch.tensor([window.inputs], device=model.device)).logits[0, -len(window.targets) :]
        targets = torch.tensor(window.targets, device=model.device)
        totals[window.document] -= cross_entropy(logits.to(dtype), targets, reduction="sum").item()
    return totals


def in_order(todo: Sequence[Window], budget: int) -> list[list[Window]]:
    """Return batches of at most ``budget`` tokens with padding, the windows as they come."""
    batches: list[list[Window]] = [[]]
    for window in todo:
        width = max(len(other.inputs) for other in [*batches[-1], window])
        if batches[-1] and width * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(window)
    return batches


def describe(model: PreTrainedModel, documents: Sequence[Sequence[int]], max_length: int, budget: int) -> None:
    """Print what is measured, and on what machine."""
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else platform.machine()
    lengths = sorted(map(len, documents))
    print(f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{model.num_parameters():,} parameters, vocabulary of {model.config.get_text_config().vocab_size:,}")
    middle = statistics.median(lengths)
    print(f"{len(documents):,} texts of {lengths[0]:,} to {lengths[-1]:,} tokens, median {middle:,.0f}")
    print(f"windows of {max_length:,} tokens, batches of {budget:,}\n")


def report(
    runs: dict[str, list[tuple[float, float]]],
    values: dict[str, list[float]],
    exact: Sequence[float],
    documents: Sequence[Sequence[int]],
    texts: Sequence[str],
) -> None:
    """Print a line a way: medians over the rounds, and how far its figures are from ``exact``."""
    size, tokens = sum(len(text.encode()) for text in texts), sum(map(len, documents))
    first, *_ = runs
    medians = {name: [statistics.median(column) for column in zip(*timed, strict=True)] for name, timed in runs.items()}
    head = f"{'':27}{'s':>8}{'tokens/s':>10}{'faster':>8}{'CPU s':>8}{'faster':>8}"
    print(f"{head}{'bits/byte':>12}{'off':>9}{'furthest':>10}")
    for name, (wall, cpu) in medians.items():
        off = abs(sum(values[name]) / sum(exact) - 1)
        furthest = max(abs(ours / plain - 1) for ours, plain in zip(values[name], exact, strict=True))
        bits = -sum(values[name]) / math.log(2) / size
        print(
            f"{name:27}{wall:8.2f}{tokens / wall:10,.0f}{medians[first][0] / wall:8.2f}{cpu:8.2f}"
            f"{medians[first][1] / cpu:8.2f}{bits:12.6f}{off:9.0e}{furthest:10.0e}"
        )


if __name__ == "__main__":
    main()
