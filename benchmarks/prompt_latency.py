"""What the prompt adds to bare `generate`: the time to the first token, and tokens a second.

    OMP_NUM_THREADS=1 python benchmarks/prompt_latency.py MODEL [--tokens 128] [--rounds 9] [--prompt TEXT]

Both ways get the same prompt and write the same number of tokens, in turns, in one run; the prompt's way goes to a
terminal of its own, so that every piece is settled, made printable and written. The first token of bare `generate` is
the time that it takes for one token, from the call on. Shown are medians, and the median of the ratios of a round.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import statistics
import subprocess
import sys
import time

import torch
from transformers import GenerationConfig

from langadapt.inference.output import write_answer
from langadapt.inference.streaming import stream_answer
from langadapt.models import encode_text, load_model, load_tokenizer, pick_device, pick_dtype
from langadapt.recipe.inference import Sampling


def main() -> None:
    """Print both ways, their ratios, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prompt", default="请将以下中文翻译成藏文：2025年3月1日，星期六。")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    model = load_model(arguments.model, pick_dtype("auto", device), device)
    tokenizer = load_tokenizer(arguments.model)
    prompt = encode_text(tokenizer, arguments.prompt)
    ids = torch.tensor([prompt], device=device)
    mask = torch.ones_like(ids)

    def bare(count: int) -> float:
        """Return the seconds that `generate` takes for a number of tokens."""
        config = GenerationConfig(do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, generation_config=config)
        out[0].tolist()  # on a GPU, wait for it
        return time.perf_counter() - start

    def ours() -> tuple[float, float]:
        """Return the seconds to the first token and to the end."""
        sampling = Sampling(max_new_tokens=arguments.tokens)
        answer = stream_answer(
            model, tokenizer, prompt, stop_ids=[], sampling=sampling, emit=write_answer, stop_requested=lambda: False
        )
        assert answer.token_count == arguments.tokens, answer.token_count
        return answer.first_token_seconds, answer.seconds

    model.generation_config = GenerationConfig()
    first, whole = [], []
    with _Terminal():
        for number in range(arguments.rounds + 1):
            # Either way comes first in half of the rounds.
            if number % 2:
                mine, theirs = ours(), (bare(1), bare(arguments.tokens))
            else:
                theirs, mine = (bare(1), bare(arguments.tokens)), ours()
            if number:  # the first round warms up
                first.append((theirs[0], mine[0]))
                whole.append((arguments.tokens / theirs[1], arguments.tokens / mine[1]))
    print(f"{arguments.model}: {len(prompt)} tokens of prompt, {arguments.tokens} of answer, {arguments.rounds} rounds")
    _line("first token, ms", [(1000 * a, 1000 * b) for a, b in first])
    _line("tokens a second", whole)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{torch.get_num_threads()} threads of {len(os.sched_getaffinity(0))} cores, {name}")


def _line(title: str, pairs: list[tuple[float, float]]) -> None:
    bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{title}: bare generate {bare:.2f}, the prompt {ours:.2f}, ratio {ratio:.3f}")


class _Terminal:
    """Standard output is a pseudo-terminal, which another process reads, while the block runs."""

    def __enter__(self) -> None:
        reader, writer = pty.openpty()
        self._before, sys.stdout = sys.stdout, open(writer, "w", encoding="utf-8")
        self._reading = subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(reader)

    def __exit__(self, *error: object) -> None:
        sys.stdout.close()
        sys.stdout = self._before
        self._reading.wait()


if __name__ == "__main__":
    main()
