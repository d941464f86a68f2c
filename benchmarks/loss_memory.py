"""Peak memory and time of a training step with a vocabulary of 151,936 words: the plain loss against the chunked one.

    python benchmarks/loss_memory.py

Each step is a whole one (forward, backward, Trainer's fused AdamW, in float32) of a Qwen2 with four layers, in a
process of its own, on a GPU where there is one. The peak is of all that the process holds: on a CPU its resident
memory, on a GPU what torch has allocated. Prints the median of each loss over the rounds, and the ratios; that of the
memory is to be at most 0.6.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS, STEPS = 3, 2
LAYERS, WIDTH, WORDS, BATCH, LENGTH = 4, 512, 151_936, 2, 1024


def train(loss_name: str) -> dict[str, float]:
    """Return the last step's loss and seconds, and the peak memory in GiB, of a model trained in this process."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from langadapt.training.loss import ChunkedLoss

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(WORDS, (BATCH, LENGTH), device=device)
    chunked = ChunkedLoss(model)
    for _ in range(STEPS):
        start = time.perf_counter()
        if loss_name == "chunked":
            with chunked:
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()
        seconds = time.perf_counter() - start
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"loss": value, "seconds": seconds, "peak": peak / 2**30}


def train_apart(loss_name: str) -> dict[str, float]:
    """Return what `train` does, in a fresh process."""
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, __file__, "--loss", loss_name],
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure both losses in turn and print the ratios of their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=["plain", "chunked"], help="train with this loss only and print JSON")
    loss_name = parser.parse_args().loss
    if loss_name:
        print(json.dumps(train(loss_name)))
        return
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "chunked": []}
    for _ in range(ROUNDS):
        for name, measured in runs.items():
            measured.append(train_apart(name))
    medians = {
        name: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    print(f"{LAYERS} layers of width {WIDTH}, {WORDS:,} words, {BATCH} x {LENGTH:,} tokens a step")
    for name, measured in runs.items():
        peaks = ", ".join(f"{run['peak']:.2f}" for run in measured)
        median = medians[name]
        print(f"{name:8} {median['peak']:.2f} GiB ({peaks})   {median['seconds']:.1f} s   loss {median['loss']:.5f}")
    for key, what in (("peak", "peak memory"), ("seconds", "time")):
        print(f"{what} of chunked over plain: {medians['chunked'][key] / medians['plain'][key]:.2f}")
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
