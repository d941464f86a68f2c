"""Real tokens a second of training: this project against LLaMA-Factory and against the plain Trainer with padding.

    PYTHONPATH=. python benchmarks/training_speed.py --pt CPT.json --sft SFT.json [--llamafactory PYTHON] [--rounds 3]

CPT.json and SFT.json are files of stage 1. All train the same Qwen2 of 6.8M parameters, in float32 on the CPU, on the
same text with the same batches: --batch sequences of --length tokens. Padding counts for nothing. Each round runs every
system once, in a process of its own; the medians are compared. Loading, tokenising and compiling are left out: the
steps alone are timed, the first few not.

LLaMA-Factory 0.9.5 needs an environment of its own, for other versions of the same libraries:

    python -m venv lf && lf/bin/pip install torch==2.13.0
    lf/bin/pip install transformers==5.6.0 trl==0.24.0 peft==0.18.1 accelerate==1.11.0 datasets==4.0.0 einops pandas \
        scipy sentencepiece tiktoken modelscope hf-transfer fire omegaconf pyyaml pydantic uvicorn fastapi \
        sse-starlette matplotlib tyro av librosa
    lf/bin/pip install --no-deps llamafactory==0.9.5

It imports torchaudio when it starts and does not use it here; an empty module in its place is enough, and this script
makes one. Without --llamafactory lf/bin/python it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

WORDS, WIDTH, LAYERS, HEADS = 8000, 256, 4, 4
WARMUP = 3  # steps that are not timed


def main() -> None:
    """Run every system and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pt", type=Path, required=True, metavar="CPT.json")
    parser.add_argument("--sft", type=Path, required=True, metavar="SFT.json")
    parser.add_argument("--llamafactory", metavar="PYTHON", help="the python of its environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--worker", nargs=2, metavar=("SYSTEM", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        {"plain": train_plain}[arguments.worker[0]](Path(arguments.worker[1]))
        return

    systems = {"this project": run_ours, "plain Trainer, padded": run_plain}
    if arguments.llamafactory:
        systems["LLaMA-Factory 0.9.5"] = run_llamafactory
    else:
        print("LLaMA-Factory is left out: --llamafactory names no environment of it")
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder, arguments)
        measured: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for stage in ("pt", "sft"):
                for name, run in systems.items():
                    measured.setdefault((stage, name), []).append(run(folder, stage, arguments))
    report(measured)


def report(measured: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    """Print real tokens a second, their spread, and how many times the others' ours is."""
    print(f"\n{'stage':6}{'system':24}{'tokens/s':>10}{'lowest':>9}{'highest':>9}{'padding':>9}{'ours is':>9}")
    for (stage, name), runs in measured.items():
        speeds = [run["tokens_per_second"] for run in runs]
        ours = statistics.median(run["tokens_per_second"] for run in measured[stage, "this project"])
        padding = statistics.median(run["padding"] for run in runs)
        print(
            f"{stage:6}{name:24}{statistics.median(speeds):10,.0f}{min(speeds):9,.0f}{max(speeds):9,.0f}"
            f"{padding:9.1%}{ours / statistics.median(speeds):8.2f}x"
        )
        if name.startswith("plain"):
            positions = statistics.median(speeds) / (1 - padding)
            print(f"{'':6}{'  times 1/(1 - padding)':24}{positions:10,.0f}{'':27}{ours / positions:8.2f}x")


def build(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the model, and of both files a shuffled part that lasts for the steps, in each system's format."""
    from langadapt.files import read_json_array, write_json_array
    from langadapt.models import user_turn
    from langadapt.models.building import new_qwen2, train_tokenizer

    data = {stage: read_json_array(getattr(arguments, stage)) for stage in ("pt", "sft")}
    for records in data.values():
        random.Random(0).shuffle(records)
    texts = [record["text"] for record in data["pt"]] + [record["output"] for record in data["sft"]]
    tokenizer = train_tokenizer(texts[:20000], vocab_size=WORDS)
    tokenizer.save_pretrained(folder / "model")
    new_qwen2(tokenizer, WIDTH, LAYERS, HEADS, max_length=4096, seed=0).save_pretrained(folder / "model")
    write_json_array(folder / "pt.json", data["pt"])
    # Longer conversations would be left out here and cut by the others.
    short = [
        record
        for record in data["sft"]
        if len(tokenizer(f"{user_turn(record)}{record['output']}")["input_ids"]) < arguments.length - 20
    ]
    write_json_array(folder / "sft.json", short)
    information = {
        "pt": {"file_name": "pt.json", "columns": {"prompt": "text"}},
        "sft": {"file_name": "sft.json"},
    }
    (folder / "dataset_info.json").write_text(json.dumps(information))


def run_ours(folder: Path, stage: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train with the command of stages 2 and 3; read its log."""
    output = Path(tempfile.mkdtemp(dir=folder))
    shared = _shared(folder, stage, output, arguments)
    recipe = {
        **shared,
        "dataset": str(folder / f"{stage}.json"),
        "template": "chatml" if stage == "sft" else None,
        "logging_steps": 4,
    }
    _run([sys.executable, "-m", "langadapt.training.launch", _write(output / "recipe.yaml", recipe)])
    log = [json.loads(line) for line in (Path(shared["output_dir"]) / "training_log.jsonl").read_text().splitlines()]
    log = [record for record in log if record["step"] > WARMUP]  # the first only says where the timed steps begin
    seen = [record["tokens_seen"] for record in log]
    tokens = [after - before for before, after in pairwise(seen)]
    seconds = sum(count / record["tokens_per_second"] for count, record in zip(tokens, log[1:], strict=True))
    padding = statistics.mean(record["padding"] for record in log)
    return {"tokens_per_second": sum(tokens) / seconds, "padding": padding}


def run_llamafactory(folder: Path, stage: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train with its own command and its defaults, through a wrapper that times the steps."""
    output = Path(tempfile.mkdtemp(dir=folder))
    recipe = {
        **_shared(folder, stage, output, arguments),
        "do_train": True,
        "dataset_dir": str(folder),
        "dataset": stage,
        "template": "chatml",
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1000,  # what it logs is not timed here either
    }
    (output / "torchaudio").mkdir()
    (output / "torchaudio" / "__init__.py").touch()
    timer, result = str(Path(__file__).with_name("step_timer.py")), str(output / "result.json")
    command = [arguments.llamafactory, timer, _write(output / "recipe.yaml", recipe), result, str(WARMUP)]
    _run(command, PYTHONPATH=str(output))
    return json.loads((output / "result.json").read_text())


def run_plain(folder: Path, stage: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Train with transformers' Trainer and its own collator, one record a sequence, padded to the longest."""
    output = Path(tempfile.mkdtemp(dir=folder))
    (output / "options.json").write_text(json.dumps(_shared(folder, stage, output, arguments)))
    script = [str(Path(__file__).resolve()), "--pt", "-", "--sft", "-", "--worker", "plain", str(output)]
    _run([sys.executable, *script])
    return json.loads((output / "result.json").read_text())


def train_plain(output: Path) -> None:
    """Train in this process as ``options.json`` says; write ``result.json``."""
    from step_timer import StepTimer
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from langadapt.files import read_json_array
    from langadapt.models import conversation, encode_conversation, encode_texts, load_tokenizer

    options = json.loads((output / "options.json").read_text())
    stage, length = options.pop("stage"), options.pop("cutoff_len")
    model = options.pop("model_name_or_path")
    del options["finetuning_type"]
    tokenizer = load_tokenizer(model)
    records = read_json_array(Path(model).parent / f"{stage}.json")
    if stage == "pt":
        encoded = encode_texts(tokenizer, [record["text"] for record in records])
        pieces = [ids[i : i + length] for ids in encoded for i in range(0, len(ids), length)]
        examples = [{"input_ids": ids, "labels": ids} for ids in pieces]
    else:
        pairs = [encode_conversation(tokenizer, conversation(record)) for record in records[:4000]]
        examples = [{"input_ids": ids, "labels": labels} for ids, labels in pairs]
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=TrainingArguments(**options, include_num_input_tokens_seen="non_padding", disable_tqdm=True),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[StepTimer(str(output / "result.json"), WARMUP)],
    )
    trainer.train()


def _shared(folder: Path, stage: str, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "stage": stage,
        "finetuning_type": "full",
        "model_name_or_path": str(folder / "model"),
        "output_dir": str(output / "saves"),
        "cutoff_len": arguments.length,
        "per_device_train_batch_size": arguments.batch,
        "max_steps": arguments.steps,
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "seed": 1,
    }


def _write(path: Path, recipe: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def _run(command: list[str], **environment: str) -> None:
    threads = str(len(os.sched_getaffinity(0)))
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
