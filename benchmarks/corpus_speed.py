"""Stage 1 against the plain way of doing it: time and peak memory on CUTE-shaped data of several sizes.

    python benchmarks/corpus_speed.py TRIPLETS.jsonl MONO.jsonl TOKENIZER FOLDER --sizes 0.25e9 1e9 4e9

Three programs run in turn on the same input, each in a process of its own, ``--repeats`` times:

plain      reads all lines into lists, pairs them by index, routes, splits and samples records, encodes them one by one
same work  stage 1 without re-alignment, filters and deduplication; it still keeps held-out text out of training
full       stage 1 as in the default recipe: re-alignment, all filters, exact and near deduplication

Samples are in proportion to the default recipe's of the whole of CUTE. Memory is the proportional set size of all
processes of a run together, sampled. Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
_CUTE = 29.2e9  # bytes of its bo, zh, en and monolingual bo
_CPT, _SFT = 200_000, 8_000  # records of the default recipe, of the latter for each direction
_PROMPTS = {
    "zh-bo": "请将以下中文翻译成藏文：{text}",
    "en-bo": "Translate the following English text into Tibetan: {text}",
}
_CUTOFF = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path)
    parser.add_argument("mono", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("folder", type=Path, help="for the data and what is made of it")
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.25e9, 1e9, 4e9])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["plain", "same work", "full"])
    arguments = parser.parse_args()
    print("| input | program | seconds | MB/s | against plain | peak MB |\n|---|---|---:|---:|---:|---:|", flush=True)
    for size in arguments.sizes:
        data = arguments.folder / f"data_{size:g}"
        if not data.is_dir():
            generator = [sys.executable, ROOT / "benchmarks/cute_shaped.py", arguments.triplets, arguments.mono]
            subprocess.run([*map(str, generator), str(data), str(size), "0"], check=True)
        total = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.only}
        for _ in range(arguments.repeats):
            for name in arguments.only:
                runs[name].append(_measure(_command(name, data, arguments.tokenizer, arguments.folder, total)))
        seconds = {name: statistics.median(run[0] for run in found) for name, found in runs.items()}
        for name, found in runs.items():
            ratio = f"{seconds['plain'] / seconds[name]:.2f}" if "plain" in seconds else "–"
            memory = max(run[1] for run in found)
            speed = total / 1e6 / seconds[name]
            print(
                f"| {total / 1e9:.2f} GB | {name} | {seconds[name]:.1f} | {speed:.1f} | {ratio} | {memory:.0f} |",
                flush=True,
            )


def _command(name: str, data: Path, tokenizer: str, folder: Path, total: int) -> list[str]:
    if name == "plain":
        return [sys.executable, __file__, "--plain", str(data), tokenizer, str(folder / "plain"), str(total)]
    recipe = folder / f"{name.replace(' ', '_')}.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(name, data, tokenizer, folder, total), allow_unicode=True), "utf-8")
    return [sys.executable, str(ROOT / "1_preprocess.py"), "--config", str(recipe)]


def _recipe(name: str, data: Path, tokenizer: str, folder: Path, total: int) -> dict[str, Any]:
    """Return the default recipe with sizes in proportion; for the same work as the plain way, without the rest."""
    recipe = yaml.safe_load((ROOT / "configs/tibetan_qwen2.5_3b/preprocess.yaml").read_text("utf-8"))
    cpt, sft = _counts(total)
    recipe |= {"data_dir": str(data), "tokenizer": tokenizer, "output_dir": str(folder / name.replace(" ", "_"))}
    recipe["cpt"]["count"] = cpt
    recipe["sft"]["parts"] = [
        {"source": source, "task": "translation", "direction": direction, "count": sft}
        for source, direction in (("mix", "zh-bo"), ("cute", "zh-bo"), ("cute", "en-bo"))
    ]
    recipe["prompts"] = {direction: [prompt] for direction, prompt in _PROMPTS.items()}
    if name == "same work":
        recipe["sources"]["cute"]["align"] = "never"
        recipe["cleaning"] = {"script_share": 0, "min_units": 0, "max_damaged": 1}
        recipe["deduplicate"] = {"exact": False}
        recipe["split_long_pairs"] = False
    return recipe


def _counts(total: int) -> tuple[int, int]:
    return round(_CPT * total / _CUTE), round(_SFT * total / _CUTE)


def _measure(command: list[str]) -> tuple[float, float]:
    """Return seconds and peak megabytes of a command with all its processes."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, cwd=ROOT, stdout=nowhere)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.3)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, peak / 1e6


def _memory(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:  # ended in between
        pass
    return total


def plain_way(data: Path, tokenizer_name: str, output: Path, total: int) -> None:
    """What a short script does: everything in lists, one record at a time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    cpt_count, sft_count = _counts(total)
    chance = random.Random(42)
    parallel = data / "CUTE-Datasets/parallel-corpus"
    lines = {code: (parallel / f"{code}.txt").read_text("utf-8").split("\n") for code in ("bo", "zh", "en")}
    mono = (data / "CUTE-Datasets/non-parallel-corpus/n-bo.txt").read_text("utf-8").split("\n")
    triplets = [
        row for row in zip(lines["bo"], lines["zh"], lines["en"], strict=True) if all(part.strip() for part in row)
    ]
    texts = [row[0].strip() for row in triplets] + [line.strip() for line in mono if line.strip()]
    mix = json.loads((data / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json").read_text("utf-8"))
    routed = [row for row in mix if _is_chinese(row["instruction"]) and not _is_chinese(row["output"])]

    chance.shuffle(texts)
    chance.shuffle(triplets)
    chance.shuffle(routed)
    cpt_test, cpt = texts[:1000], texts[1000 : 1000 + cpt_count]
    pairs = [(row["instruction"], row["output"]) for row in routed[:sft_count]]
    for direction, column in (("zh-bo", 1), ("en-bo", 2)):
        prompt = _PROMPTS[direction]
        pairs += [(prompt.replace("{text}", row[column]), row[0]) for row in triplets[:sft_count]]
    chance.shuffle(pairs)
    sft_test, sft = pairs[:500], pairs[500:]

    def length(asked: str, answered: str) -> int:
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))

    output.mkdir(parents=True, exist_ok=True)
    for name, records in (
        ("cpt_final", cpt),
        ("cpt_test", cpt_test),
        ("cpt_test_filtered", [text for text in cpt_test if len(tokenizer(text)["input_ids"]) <= _CUTOFF]),
        ("sft_final", sft),
        ("sft_test", sft_test),
        ("sft_filtered", [pair for pair in sft if length(*pair) <= _CUTOFF]),
        ("sft_test_filtered", [pair for pair in sft_test if length(*pair) <= _CUTOFF]),
    ):
        (output / f"{name}.json").write_text(json.dumps(records, ensure_ascii=False, indent=2), "utf-8")


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_way(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
