"""What more vocabulary does: tokens a unit, bytes a token and speed for several sizes; bits per byte at the start.

    python benchmarks/vocabulary.py MODEL TEXTS SCRIPT [--pieces N] [--steps N] [--documents N]

TEXTS has one JSON object with a `text` a line; every twentieth text is held out. Bits per byte are those of stage 4, on
the first held-out texts, cut at 2,000 characters: with the model as it is, with the rows of new pieces the mean of
those of their old tokens, and distilled.
"""

from __future__ import annotations

import argparse
import time

from transformers import PreTrainedTokenizerBase

from langadapt.evaluation.likelihood import measure_likelihood
from langadapt.files import read_jsonl
from langadapt.models import encode_texts, load_model, load_tokenizer, pick_device
from langadapt.training.vocabulary.extension import measure_fertility, set_new_rows
from langadapt.training.vocabulary.pieces import add_pieces, learn_pieces

SIZES = (1000, 4000, 8000)
HELD_OUT_EVERY, LENGTH, MIN_FREQUENCY = 20, 2000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what more vocabulary does.")
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("script")
    parser.add_argument("--pieces", type=int, default=1000, help="for bits per byte; 0: leave that out")
    parser.add_argument("--steps", type=int, default=400, help="of distillation")
    parser.add_argument("--documents", type=int, default=20, help="for bits per byte")
    arguments = parser.parse_args()

    all_texts = [record["text"] for _, record in read_jsonl(arguments.texts)]
    held_out = all_texts[::HELD_OUT_EVERY]
    texts = [text for number, text in enumerate(all_texts) if number % HELD_OUT_EVERY]
    tokenizer = load_tokenizer(arguments.model)
    print_cut("old", tokenizer, held_out)
    for size in SIZES:
        pieces = learn_pieces(texts, [arguments.script], tokenizer, size, MIN_FREQUENCY)
        print_cut(f"{len(pieces)} new", add_pieces(tokenizer, pieces, held_out), held_out)
    if not arguments.pieces:
        return

    measured = [text[:LENGTH] for text in held_out[: arguments.documents]]
    device = pick_device("auto")
    pieces = learn_pieces(texts, [arguments.script], tokenizer, arguments.pieces, MIN_FREQUENCY)
    extended = add_pieces(tokenizer, pieces, measured)
    documents = encode_texts(extended, texts)
    for name in ("old", "mean", "distillation"):
        start = time.perf_counter()
        model = load_model(arguments.model, device=device)
        if name == "mean":
            set_new_rows(model, tokenizer, pieces, [])
        elif name == "distillation":
            set_new_rows(model, tokenizer, pieces, documents, steps=arguments.steps)
        seconds = time.perf_counter() - start
        cutter = tokenizer if name == "old" else extended
        result = measure_likelihood(model, cutter, measured, max_length=None, token_budget=4096)
        print(
            f"{name:14} {result.bits_per_byte:.3f} bits a byte, {result.tokens:,} tokens, {seconds:.0f} s to make",
            flush=True,
        )


def print_cut(name: str, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Print the fertility and the speed of a tokenizer."""
    encode_texts(tokenizer, texts)
    start = time.perf_counter()
    fertility = measure_fertility(tokenizer, texts)
    speed = sum(len(text.encode()) for text in texts) / (time.perf_counter() - start) / 1e6
    print(
        f"{name:14} {fertility['tokens_per_unit']:.3f} tokens a unit, "
        f"{fertility['bytes_per_token']:.2f} bytes a token, {speed:.2f} MB/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
