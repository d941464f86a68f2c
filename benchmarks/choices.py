"""Multiple choice by likelihood: each question's context read once, against once for every choice.

    PYTHONPATH=. python benchmarks/choices.py [MODEL_FOLDER]

Questions of the shape of reading comprehension (Belebele: a passage, four short choices) and of grammar (MM-Eval's
syntax: no context). Both ways run through the same code under the same token budget; for the plain way every choice is
an item of its own. Without a folder the model is a Qwen2 with random weights. Prints the median seconds of each, their
ratio, and the largest difference between a log-likelihood of one and of the other.
"""

from __future__ import annotations

import platform
import random
import statistics
import sys
import time

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from langadapt.evaluation.choices.continuing import Continuations, log_likelihoods
from langadapt.models import load_model

ROUNDS, QUESTIONS, BUDGET = 3, 24, 16384
SHAPES = {"reading comprehension": (400, 15), "grammar": (1, 25)}  # tokens of a context, tokens of a choice, about


def small_model() -> PreTrainedModel:
    """Return a Qwen2 of 25 million parameters with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=16_000, hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval().to("cuda" if torch.cuda.is_available() else "cpu")


def questions(vocabulary: int, context: int, choice: int) -> list[Continuations]:
    """Return random questions whose lengths vary by a third about those given."""
    draw = random.Random(0)

    def tokens(about: int) -> list[int]:
        return draw.choices(range(vocabulary), k=max(1, round(about * draw.uniform(0.67, 1.33))))

    return [Continuations(tokens(context), [tokens(choice) for _ in range(4)]) for _ in range(QUESTIONS)]


def timed(model: PreTrainedModel, items: list[Continuations]) -> tuple[float, list[float]]:
    """Return the seconds that all items took, and every log-likelihood in the order of the items."""
    start = time.perf_counter()
    found = dict(log_likelihoods(model, items, BUDGET))
    return time.perf_counter() - start, [value for index in range(len(items)) for value in found[index]]


def main() -> None:
    """Time both ways in turns and print their medians."""
    model = load_model(sys.argv[1]) if len(sys.argv) > 1 else small_model()
    size = f"{model.num_parameters() / 1e6:.0f}M parameters"
    print(f"{size}, {model.device} ({platform.machine()}), {torch.get_num_threads()} threads")
    for name, (context, choice) in SHAPES.items():
        shared = questions(model.config.vocab_size, context, choice)
        plain = [Continuations(item.context, [choice]) for item in shared for choice in item.choices]
        seconds: dict[str, list[float]] = {"shared": [], "plain": []}
        for _ in range(ROUNDS):
            taken, once = timed(model, shared)
            seconds["shared"].append(taken)
            taken, each = timed(model, plain)
            seconds["plain"].append(taken)
        once_s, each_s = (statistics.median(seconds[way]) for way in ("shared", "plain"))
        apart = max(abs(a - b) for a, b in zip(once, each, strict=True))
        print(
            f"{name}: context once {once_s:.2f} s, for every choice {each_s:.2f} s, ratio {each_s / once_s:.2f}; "
            f"largest difference {apart:.1e} nats"
        )


if __name__ == "__main__":
    main()
