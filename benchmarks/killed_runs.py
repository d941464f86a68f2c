"""Kill a training run at random moments, start it again each time, and compare it with one that was never killed.

    PYTHONPATH=. python benchmarks/killed_runs.py [--kills 50] [--ranks 1]

A small Qwen2 is trained by 2_train_cpt.sh with a checkpoint every third step. Each start is ended with SIGKILL, all its
processes at once: every third at a moment of its beginning, before it takes a step, the others within 0.4 s of
their first step. Prints how many steps each start was ahead of the newest whole checkpoint when it was killed, what was
found damaged, and whether losses and weights are those of the run that was left alone, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

SAVE_STEPS, STEPS_A_KILL = 3, 12
TEXT = "སྐད་ཡིག་ནི་མི་རིགས་ཀྱི་རིག་གནས་ཡིན། The weather is good today. 我们正在学习。 "


def main() -> None:
    """Run once without and once with kills; print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        steps = arguments.kills * STEPS_A_KILL
        started = time.monotonic()
        straight = start(build(folder, "straight", steps), arguments.ranks)
        wait_for_step(straight, folder / "straight", 1)
        beginning = time.monotonic() - started
        output, _ = straight.communicate()
        if straight.returncode:
            sys.exit(output)

        config = build(folder, "killed", steps)
        lost: list[int] = []
        phases: Counter[str] = Counter()
        damaged = 0
        while len(lost) < arguments.kills:
            run = start(config, arguments.ranks)
            if len(lost) % 3 == 0:
                time.sleep(draw.uniform(0, beginning))
            else:
                wait_for_step(run, folder / "killed", newest_checkpoint(folder / "killed") + 1)
                time.sleep(draw.uniform(0, 0.4))
            if run.poll() is not None:
                break  # it came to its end
            os.killpg(run.pid, signal.SIGKILL)
            output, _ = run.communicate()
            damaged += output.count("is damaged")
            lost.append(max(0, last_step(folder / "killed") - newest_checkpoint(folder / "killed")))
            phases["while saving" if (folder / "killed" / ".saving").exists() else "otherwise"] += 1
        while not (folder / "killed" / "config.json").exists():
            run = start(config, arguments.ranks)
            output, _ = run.communicate()
            damaged += output.count("is damaged")
            if run.returncode:
                sys.exit(output)
        same_losses = logged(folder / "straight") == logged(folder / "killed")
        weights = [(folder / name / "model.safetensors").read_bytes() for name in ("straight", "killed")]
    print(f"{len(lost)} kills of a run of {steps} steps on {arguments.ranks} ranks, {dict(phases)}")
    print(f"steps beyond the newest checkpoint when killed: {sorted(Counter(lost).items())} (step: kills)")
    print(
        f"at most {max(lost, default=0)} steps were lost, with a checkpoint every {SAVE_STEPS}; {damaged} were damaged"
    )
    print(f"losses equal to the last bit: {same_losses}; weights: {weights[0] == weights[1]}")


def build(folder: Path, name: str, steps: int) -> Path:
    """Write model, data and recipe; return the recipe."""
    from langadapt.files import write_json_array
    from langadapt.models.building import new_qwen2, train_tokenizer

    if not (folder / "model").exists():
        tokenizer = train_tokenizer([TEXT] * 10, vocab_size=300)
        tokenizer.save_pretrained(folder / "model")
        new_qwen2(tokenizer, 64, 2, 2, max_length=256, seed=0).save_pretrained(folder / "model")
        draw = random.Random(0)
        records = [{"text": " ".join(draw.choices(TEXT.split(), k=draw.randint(3, 30)))} for _ in range(500)]
        write_json_array(folder / "cpt.json", records)
    keys = {
        "stage": "pt",
        "model_name_or_path": str(folder / "model"),
        "dataset": str(folder / "cpt.json"),
        "output_dir": str(folder / name),
        "cutoff_len": 64,
        "per_device_train_batch_size": 2,
        "max_steps": steps,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def start(config: Path, ranks: int) -> subprocess.Popen[str]:
    """Start 2_train_cpt.sh in a process group of its own."""
    environment = os.environ | {"PYTHON": sys.executable, "NPROC_PER_NODE": str(ranks), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", "2_train_cpt.sh", str(config)],
        env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for_step(run: subprocess.Popen[str], output: Path, step: int) -> None:
    """Wait until a run has logged a step since now, or has ended."""
    path, since = output / "training_log.jsonl", time.time()
    while run.poll() is None and not (path.exists() and path.stat().st_mtime > since and last_step(output) >= step):
        time.sleep(0.02)


def logged(output: Path) -> list[tuple[int, float]]:
    """Return step and loss of every line of a run's log."""
    lines = (output / "training_log.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def last_step(output: Path) -> int:
    """Return the last step that a run has logged, 0 where there is none; a kill may have cut the last line short."""
    path = output / "training_log.jsonl"
    steps = [0]
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            continue
    return steps[-1]


def newest_checkpoint(output: Path) -> int:
    """Return the step of the newest checkpoint that is whole, 0 where there is none."""
    from langadapt.training.checkpoints import steps_of
    from langadapt.training.saving import find_damage

    return max((step for step in steps_of(output) if find_damage(output / f"checkpoint-{step}") is None), default=0)


if __name__ == "__main__":
    main()
