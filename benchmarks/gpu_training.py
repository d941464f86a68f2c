"""Tokens a second, MFU and peak memory of full-parameter training on one GPU, for each choice of kernels.

    PYTHONPATH=. python benchmarks/gpu_training.py [--steps 12] [--batch 1] [--length 8192] [--shape qwen2.5-3b]

The model has the shape of Qwen2.5-3B and random weights; the text is drawn from made-up words, in documents of the
lengths that real ones have, packed into blocks of --length tokens. Everything runs through 2_train_cpt.sh, as it would
for a user: bf16 with float32 master weights (DeepSpeed on one rank), activation checkpointing where the choice says so,
the chunked loss or Liger's. The medians of the steps after the first four are printed. MFU is that of
langadapt.training.costs: attention counted inside documents only, recomputation not at all.

Where no GPU is visible it says so and measures nothing; --shape tiny --cpu tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

WARMUP = 4
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-3b": {
        "model_type": "qwen2", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rope_theta": 1000000.0, "tie_word_embeddings": True,
    },
    "tiny": {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
CHOICES: dict[str, dict[str, Any]] = {
    "sdpa, recomputed": {"attn_implementation": "sdpa", "activation_checkpointing": True},
    "flex, recomputed": {"attn_implementation": "flex_attention", "activation_checkpointing": True},
    "flash, recomputed": {"attn_implementation": "flash_attention_2", "activation_checkpointing": True},
    "flash, recomputed, Liger": {
        "attn_implementation": "flash_attention_2", "activation_checkpointing": True, "use_liger_kernel": True,
    },
    "flash, recomputed, compiled": {
        "attn_implementation": "flash_attention_2", "activation_checkpointing": True, "torch_compile": True,
    },
    "flash, Liger": {"attn_implementation": "flash_attention_2", "use_liger_kernel": True},
}  # fmt: skip


def main() -> None:
    """Train with each choice and print one line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-3b")
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.cpu:
        print("no GPU is visible here; nothing was measured")
        return
    print("the CPU" if arguments.cpu else torch.cuda.get_device_name(), f"torch {torch.__version__}", sep=", ")
    print(f"\n{'':30}{'tokens/s':>10}{'MFU':>8}{'GiB':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder, arguments)
        for name, choice in CHOICES.items():
            print(f"{name:30}{train(folder, choice, arguments)}", flush=True)


def build(folder: Path, arguments: argparse.Namespace) -> None:
    """Write a tokenizer, and documents enough for the steps."""
    from langadapt.files import write_json_array
    from langadapt.models.building import train_tokenizer

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    tokenizer = train_tokenizer([" ".join(words)], vocab_size=1000)
    tokenizer.save_pretrained(folder / "tokenizer")
    wanted = 3 * arguments.steps * arguments.batch * arguments.length
    records, total = [], 0
    while total < wanted:
        length = min(int(draw.lognormvariate(6.5, 1)) + 8, 3 * arguments.length)
        records.append({"text": " ".join(draw.choices(words, k=length // 2))})
        total += length
    write_json_array(folder / "cpt.json", records)


def train(folder: Path, choice: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Return what a run with these kernels measured, as the rest of a line; or why there was none."""
    output = Path(tempfile.mkdtemp(dir=folder))
    recipe = {
        "stage": "pt",
        "model": {"config": SHAPES[arguments.shape], "tokenizer": str(folder / "tokenizer")},
        "dataset": str(folder / "cpt.json"),
        "output_dir": str(output / "saves"),
        "cutoff_len": arguments.length,
        "per_device_train_batch_size": arguments.batch,
        "max_steps": arguments.steps,
        "learning_rate": 1e-5,
        "bf16": True,
        "deepspeed": "configs/deepspeed/zero2.json",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": arguments.cpu,
        **choice,
    }
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = os.environ | {"PYTHON": sys.executable, "NPROC_PER_NODE": "1"}
    command = ["bash", "2_train_cpt.sh", str(output / "recipe.yaml")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "rror" in line]
        return f"  failed: {(errors or [run.stderr[-200:]])[0][:150]}"
    missing = [line.strip() for line in run.stdout.splitlines() if "; using " in line or "; not compiling" in line]
    log = [json.loads(line) for line in (output / "saves" / "training_log.jsonl").read_text().splitlines()][WARMUP:]
    tokens, mfu = (statistics.median(record[key] or 0 for record in log) for key in ("tokens_per_second", "mfu"))
    peak = max(record["peak_memory_gib"] for record in log)
    return f"{tokens:10,.0f}{mfu:8.1%}{peak:8.1f}" + "".join(f"  ({line})" for line in missing)


if __name__ == "__main__":
    main()
