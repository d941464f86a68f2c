"""Stage 5's pass over three checkpoints: against reading alone, and against the plain way; and the memory it takes.

    PYTHONPATH=. python benchmarks/weights_speed.py CONFIG FOLDER [--layers 36] [--plain_layers 6] [--rounds 2] [--cold]

Three bfloat16 models of the shape that the config.json CONFIG gives (Qwen2 or alike) are written under FOLDER, the
second and third with a part of their weights one step away from those before, and deleted at the end. Of each round:
the pass; the same bytes read and cast to float32, a slice at a time into fresh memory; and read and cast a piece at a
time into memory that stays in the cache, as the pass does, to float32, and to float64; all by the same workers over the
same slices. --cold drops the files from the page cache before each. The plain way, on the first --plain_layers
layers: load the three checkpoints whole, in float32, and ask torch for the same figures of each tensor.
Peak memory is that of all processes together, shared pages counted once, seen ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from langadapt.weights import one_pass
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.measuring import PIECE, SLICE, Source, Sums
from langadapt.weights.stored import as_real

ROLES = ("base", "cpt", "sft")
SHARD = 4_000_000_000  # bytes


def main() -> None:
    """Write, measure, print, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--plain_layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--one", choices=["pass", "slices", "float32", "float64", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.folder, arguments.workers)
        return
    config = json.loads(arguments.config.read_text())
    config["num_hidden_layers"] = arguments.layers or config["num_hidden_layers"]
    print(f"{platform.processor() or platform.machine()}, {arguments.workers} workers, cold" if arguments.cold else "")
    ways = (
        (config["num_hidden_layers"], ["pass", "slices", "float32", "float64"]),
        (arguments.plain_layers, ["pass", "plain"]),
    )
    for layers, names in ways:
        try:
            size = write_models(arguments.folder, config | {"num_hidden_layers": layers})
            print(f"{layers} layers, {size / 1e9:.1f} GB in three checkpoints")
            compare_ways(arguments, names, size)
        finally:
            for role in ROLES:
                shutil.rmtree(arguments.folder / role, ignore_errors=True)


def compare_ways(arguments: argparse.Namespace, names: Sequence[str], size: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks = dict.fromkeys(names, 0.0)
    for _ in range(arguments.rounds):
        for name in names:
            if arguments.cold:
                drop_from_cache(arguments.folder)
            took, peak = in_a_process(arguments, name)
            seconds[name].append(took)
            peaks[name] = max(peaks[name], peak)
    ours = statistics.median(seconds["pass"])
    for name, times in seconds.items():
        took = statistics.median(times)
        print(
            f"  {name:8} {took:7.1f} s ({min(times):.1f}-{max(times):.1f})  {size / took / 1e9:5.2f} GB/s  "
            f"peak {peaks[name]:6.0f} MB  pass at {took / ours:.2f} of its speed",
            flush=True,
        )


def in_a_process(arguments: argparse.Namespace, name: str) -> tuple[float, float]:
    """Return the seconds that a way says it took, and the peak MB of it and its children."""
    command = [sys.executable, __file__, str(arguments.config), str(arguments.folder), "--one", name]
    process = subprocess.Popen([*command, "--workers", str(arguments.workers)], stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(proportional_mb(pid) for pid in family(process.pid)))
        time.sleep(0.1)
    assert process.stdout is not None
    assert process.returncode == 0, name
    return float(process.stdout.read().split()[-1]), peak


def run_one(name: str, folder: Path, workers: int) -> None:
    start = time.perf_counter()
    if name == "plain":
        plain(folder)
    else:
        checkpoints, *_ = open_checkpoints(*(str(folder / role) for role in ROLES))
        names = sorted(checkpoints[0].tensors)
        triples = [[checkpoint.tensors[tensor] for checkpoint in checkpoints] for tensor in names]
        if name != "pass":
            ways = {"slices": cast_slices, "float32": cast_to_float32, "float64": cast_to_float64}
            one_pass.measure_slice = ways[name]
        one_pass.measure_all(triples, SLICE, workers)
    print(time.perf_counter() - start)


def cast_slices(triple: Sequence[Source], first: int, last: int) -> one_pass.Measured:
    """Read a slice whole, then cast it."""
    into = numpy.empty(2**15, numpy.float32)
    for tensor in triple:
        values = tensor.read(first, last).reshape(-1)
        for start in range(0, values.size, into.size):
            piece = values[start : start + into.size]
            as_real(piece, tensor.dtype, into[: piece.size])
    return one_pass.Measured(Sums(values=values.size), [numpy.empty(0), numpy.empty(0)])


def cast_to_float32(triple: Sequence[Source], first: int, last: int) -> one_pass.Measured:
    """Read and cast in pieces that stay in the cache, as the pass does."""
    return _cast(triple, first, last, numpy.float32)


def cast_to_float64(triple: Sequence[Source], first: int, last: int) -> one_pass.Measured:
    """Read and cast in pieces that stay in the cache, as the pass does."""
    return _cast(triple, first, last, numpy.float64)


def _cast(triple: Sequence[Source], first: int, last: int, kind: type[numpy.floating]) -> one_pass.Measured:
    into = numpy.empty(max(PIECE, triple[0].columns), kind)
    for tensor in triple:
        for piece in tensor.pieces(first, last, max(1, PIECE // tensor.columns)):
            as_real(piece.reshape(-1), tensor.dtype, into[: piece.size])
    return one_pass.Measured(Sums(values=(last - first) * triple[0].columns), [numpy.empty(0), numpy.empty(0)])


def plain(folder: Path) -> None:
    """Load all in float32; norms, distances, cosines, largest and identical of each tensor and stage."""
    from safetensors.torch import load_file

    whole = [
        {
            name: tensor.float()
            for file in sorted((folder / role).glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        for role in ROLES
    ]
    for name in whole[0]:
        base, cpt, sft = (weights[name].flatten() for weights in whole)
        for before, after in ((base, cpt), (cpt, sft), (base, sft)):
            change = after - before
            _ = change.norm(), before.norm(), after.norm(), before @ after, change.abs().max(), (before == after).sum()
        _ = (cpt - base) @ (sft - cpt)


def write_models(folder: Path, config: dict[str, Any]) -> int:
    """Write the three checkpoints, sharded; return their bytes."""
    chance = numpy.random.default_rng(0)
    size = 0
    for role in ROLES:
        (folder / role).mkdir(parents=True)
        (folder / role / "config.json").write_text(json.dumps(config))
    shapes = list(tensor_shapes(config))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in shapes:
        if filled > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += 2 * int(numpy.prod(shape))
    noise = chance.integers(0, 2, 2**22, dtype=numpy.uint16)
    names = [f"model-{place + 1:05}-of-{len(shards):05}.safetensors" for place in range(len(shards))]
    for shard_name, shard in zip(names, shards, strict=True):
        header: dict[str, Any] = {}
        end = 0
        for name, shape in shard:
            start, end = end, end + 2 * int(numpy.prod(shape))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        files = [open(folder / role / shard_name, "wb") for role in ROLES]  # noqa: SIM115 - closed below
        for file in files:
            file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in shard:
            left = int(numpy.prod(shape))
            while left:
                count = min(left, noise.size)
                values = chance.integers(0x3C00, 0x3D00, count, dtype=numpy.uint16)  # about 0.01 to 0.03
                for file in files:
                    file.write(values.tobytes())
                    values ^= numpy.roll(noise[:count], int(chance.integers(count)))
                    size += 2 * count
                left -= count
        for file in files:
            file.close()
    weight_map = {name: shard_name for shard_name, shard in zip(names, shards, strict=True) for name, _ in shard}
    for role in ROLES:
        (folder / role / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    os.sync()
    return size


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", hidden), ("k", narrow), ("v", narrow)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{prefix}self_attn.{name}_proj.bias", (rows,)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
        yield f"{prefix}input_layernorm.weight", (hidden,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def drop_from_cache(folder: Path) -> None:
    for path in folder.glob("*/*.safetensors"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in family(int(child)))]


def proportional_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


if __name__ == "__main__":
    main()
