"""Translation step by step, from one text at a time with 4 beams to what stage 4 does: time, chrF, and exactness.

    OMP_NUM_THREADS=1 python benchmarks/generation_speed.py MODEL DATA.json [--items 64] [--direction zh-bo]

DATA holds records of stage 1; a chat model is asked through its template, another with a line to continue. All ways get
the same prompts and the same limits, in one run. Beside each stands how many texts are other than those of one at a
time, greedily, and how far its tokens are from the plain forward pass in float32 over the same tokens, without cache or
padding: the share that is not the likeliest token there, and by how many logits such a token is behind at most. For
beam search that is no error: it looks for the likeliest text, not for the likeliest next token.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sacrebleu import corpus_chrf

from langadapt.evaluation.generation.prompts import ask
from langadapt.files import read_json_array
from langadapt.inference.decoding import decode_with_transformers, rounding_margin
from langadapt.inference.generation import Generation, Stop, generate_batched
from langadapt.models import is_chat_model, load_model, load_tokenizer, stop_token_ids

Answers = dict[int, Generation]


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for every way."""
    tokenizer, model = load_tokenizer(arguments.model), load_model(arguments.model)
    chat = is_chat_model(tokenizer, model.generation_config)
    source, target = arguments.direction.split("-")
    records = [
        record
        for record in read_json_array(arguments.data)
        if record["task"] == "translation" and (record["source_lang"], record["target_lang"]) == (source, target)
    ][: arguments.items]
    window = model.config.max_position_embeddings
    shape = {"examples": [], "prompt_language": "zh", "length_ratio": 1.5, "window": window}
    questions = [ask(tokenizer, record, "chat" if chat else "few_shot", **shape) for record in records]
    prompts = [question.ids for question in questions]
    limits = [min(question.max_new_tokens, arguments.max_new_tokens) for question in questions]
    stop = Stop(tokenizer, stop_token_ids(tokenizer, model.generation_config, chat), None if chat else "\n")
    references = [record["output"] for record in records]

    def with_transformers(order: Sequence[int], budget: int, beams: int = 1) -> Answers:
        """Batches of transformers' generate, in the given order, under the budget that all ways have."""
        answers: Answers = {}
        while order:
            size = 1
            while size < len(order) and (size + 1) * _width(order[: size + 1]) <= budget:
                size += 1
            batch, order = order[:size], order[size:]
            rows = decode_with_transformers(
                model, [prompts[i] for i in batch], [limits[i] for i in batch], stop.ended, stop.ids, beams
            )
            answers |= {i: stop.cut(row) for i, row in zip(batch, rows, strict=True)}
        return answers

    def _width(batch: Sequence[int]) -> int:
        return max(len(prompts[i]) for i in batch) + max(limits[i] for i in batch)

    def batched(model: Any, **options: Any) -> Answers:
        return dict(
            generate_batched(
                model,
                tokenizer,
                prompts,
                stop_ids=stop.ids,
                stop_text=stop.text,
                max_new_tokens=limits,
                token_budget=arguments.token_budget,
                **options,
            )
        )

    in_order = range(len(prompts))
    by_length = sorted(in_order, key=lambda i: len(prompts[i]) + limits[i], reverse=True)
    alone: Counter[str] = Counter()
    ways: dict[str, Callable[[], Answers]] = {
        "one at a time, 4 beams": lambda: with_transformers(in_order, 1, beams=4),
        "one at a time, greedy": lambda: with_transformers(in_order, 1),
        "batches, file order": lambda: with_transformers(in_order, arguments.token_budget),
        "batches, by length": lambda: with_transformers(by_length, arguments.token_budget),
        "ended rows dropped": lambda: batched(model),
        "strict": lambda: batched(model, strict=True, counts=alone),
    }
    if arguments.bfloat16:
        half = load_model(arguments.model, torch.bfloat16)
        ways["bfloat16"] = lambda: batched(half)

    with_transformers(in_order[:1], 1)  # so that what only the first call takes is in no line
    print(f"{arguments.model}: {len(records)} {arguments.direction} records of {arguments.data.name}, ", end="")
    print(f"{'chat' if chat else 'plain'} prompts, {sum(map(len, prompts)) / len(prompts):.0f} tokens each")
    print(f"{'':24} seconds   times  tokens  chrF  other text  not likeliest  behind at most")
    first: tuple[float, Answers] | None = None
    single: Answers = {}
    for name, way in ways.items():
        start = time.perf_counter()
        answers = way()
        seconds = time.perf_counter() - start
        first = first or (seconds, answers)
        if name == "one at a time, greedy":
            single = answers
        chrf = corpus_chrf([answers[i].text.strip() for i in in_order], [references]).score
        tokens = sum(len(answers[i].ids) for i in in_order)
        other = sum(answers[i].text != single[i].text for i in in_order) if single else "-"
        unlikely, behind = _exactness(model, prompts, answers)
        print(
            f"{name:24} {seconds:7.1f} {first[0] / seconds:7.1f} {tokens:7,} {chrf:5.1f}  {other:>10}"
            f"  {unlikely:12.2%}  {behind:14.5f}",
            flush=True,
        )
    margin = rounding_margin(model, [prompts[i] for i in by_length])
    print(f"strict: {alone['alone']} generated alone, for a lead of at most {margin:.1e} logits")


@torch.inference_mode()
def _exactness(model: Any, prompts: Sequence[Sequence[int]], answers: Answers) -> tuple[float, float]:
    """Return the share of tokens that a plain forward pass finds less likely than another, and by how much at most."""
    behind = []
    for index, answer in answers.items():
        if answer.ids:
            ids = torch.tensor([[*prompts[index], *answer.ids]])
            logits = model(ids, use_cache=False, logits_to_keep=len(answer.ids) + 1).logits[0, :-1]
            behind.append(logits.max(-1).values - logits.gather(1, torch.tensor(answer.ids)[:, None])[:, 0])
    gaps = torch.cat(behind)
    return float((gaps > 0).float().mean()), float(gaps.max())


def main() -> None:
    """Print the comparison and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="a file of stage 1")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--direction", default="zh-bo")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--token_budget", type=int, default=4096)
    parser.add_argument("--bfloat16", action="store_true", help="a last line in that dtype")
    measure(parser.parse_args())
    print(f"{torch.get_num_threads()} threads of {len(os.sched_getaffinity(0))} cores, {platform.machine()}")


if __name__ == "__main__":
    main()
