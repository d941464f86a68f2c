"""Training speed with sleeping and with spinning OpenMP threads, on a machine that something else uses too.

    python benchmarks/openmp_waiting.py

Trains the quickstart's model on all cores while one other process keeps a core busy, in turn with OMP_WAIT_POLICY
PASSIVE (what langadapt sets) and ACTIVE, and prints the median tokens a second of each and their ratio.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS, STEPS, BATCH, LENGTH = 3, 4, 8, 256
CHILD = f"""
import time, torch
from langadapt.models.building import new_qwen2, train_tokenizer
model = new_qwen2(train_tokenizer(["a b c"], 300), 128, 5, 4, 512, 0).train()
optimizer = torch.optim.AdamW(model.parameters())
ids = torch.randint(0, 256, ({BATCH}, {LENGTH}))
for step in range({STEPS} + 1):
    if step == 1:
        start = time.perf_counter()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print({STEPS * BATCH * LENGTH} / (time.perf_counter() - start))
"""


def tokens_per_second(policy: str) -> float:
    """Return the training speed of a fresh process under an OpenMP wait policy."""
    environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def keep_busy() -> None:
    """Use one core until killed."""
    while True:
        pass


def main() -> None:
    """Measure both policies in turn and print the ratio of their medians."""
    neighbour = multiprocessing.Process(target=keep_busy, daemon=True)
    neighbour.start()
    speeds: dict[str, list[float]] = {"PASSIVE": [], "ACTIVE": []}
    for _ in range(ROUNDS):
        for policy, measured in speeds.items():
            measured.append(tokens_per_second(policy))
    neighbour.terminate()
    medians = {policy: statistics.median(measured) for policy, measured in speeds.items()}
    for policy, median in medians.items():
        print(f"{policy:8} {median:8,.0f} tokens/s   ({', '.join(f'{speed:,.0f}' for speed in speeds[policy])})")
    print(f"PASSIVE is {medians['PASSIVE'] / medians['ACTIVE']:.1f} times as fast as ACTIVE")
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
