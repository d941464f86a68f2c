"""Results as stage 4 writes them, made up: any number of models, directions and test sets, without a model."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.evaluation.results import (
    Choices,
    Contamination,
    Diagnostics,
    Document,
    Evaluation,
    Interval,
    Likelihood,
    Measured,
    Prediction,
    Prompt,
    Score,
    Slice,
    Translation,
    write_results,
)

SIGNATURES = {
    "bleu": "nrefs:1|case:mixed|eff:no|tok:tsheg-syllables|smooth:exp|version:2.6.0",
    "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "chrf++": "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:2.6.0",
}
TEXTS = {"bo": TIBETAN, "zh": CHINESE, "en": ENGLISH}
SHARED = Prompt(format="few_shot", asked=4, examples={4: 20}, first="中文: 西藏\n藏文: བོད།\n\n中文: 你好\n藏文:")
CHAT = Prompt(format="chat", asked=0, examples={0: 20}, first="<|im_start|>user\n请翻译：你好<|im_end|>\n")


def likelihood(bits: float, language: str = "bo", test_set: str = "held_out", **changes: Any) -> Likelihood:
    values = {
        "test_set": test_set, "language": language, "bits_per_byte": bits,
        "interval": Interval(low=bits * 0.97, high=bits * 1.03), "bits_per_character": 2.9 * bits,
        "bits_per_unit": 9.5 * bits, "unit": "syllables", "token_perplexity": 2 ** (2.19 * bits), "bytes": 2000,
        "characters": 700, "units": 200, "tokens": 900, "documents": 20, "max_length": 2048, "stride": 2048,
        "items_sha256": f"text-{test_set}-{language}", "tokenization_sha256": "qwen",
    }  # fmt: skip
    return Likelihood(**(values | changes))


def documents(of: Likelihood, seed: int) -> list[Document]:
    """As many as the likelihood has, of equal size, their bits about its mean."""
    draw, size = random.Random(seed), of.bytes // of.documents
    parts = [draw.gauss(1, 0.02) for _ in range(of.documents)]
    mean = sum(parts) / len(parts)
    return [
        Document(test_set=of.test_set, language=of.language, id=str(n), bytes=size, characters=35, units=10, tokens=45,
                 bits=of.bits_per_byte * size * part / mean)
        for n, part in enumerate(parts)
    ]  # fmt: skip


def score(value: float, name: str = "chrf", **changes: Any) -> Score:
    values = {
        "score": value, "signature": SIGNATURES[name], "interval": Interval(low=value * 0.95, high=value * 1.05),
        "floors": {"shuffled": value * 0.3, "copied_source": 0.4, "neighbour": 11.0},
    }  # fmt: skip
    return Score(**(values | changes))


def translation(chrf: float, direction: str = "zh-bo", prompt: Prompt = SHARED, **changes: Any) -> Translation:
    scores = {"bleu": score(0.6 * chrf, "bleu"), "chrf": score(chrf, "chrf"), "chrf++": score(0.9 * chrf, "chrf++")}
    values = {
        "test_set": "held_out", "direction": direction, "prompt": prompt, "n": 20, "scores": scores,
        "diagnostics": Diagnostics(empty=1, cut_off=2, looping=3, copied=0, off_script=1, off_language=None, broken=0,
                                   length_ratio=1.07),
        "slices": [Slice(by="length", name="1-10", n=12, scores={"bleu": 20.0, "chrf": 41.0}),
                   Slice(by="source", name="cute", n=8, scores={"bleu": 10.0, "chrf": 31.0})],
        "contamination": Contamination(ngram=8, threshold=0.5, contaminated=2, clean=18,
                                       scores={"bleu": 9.0, "chrf": 30.0}),
        "items_sha256": f"pairs-{direction}",
    }  # fmt: skip
    return Translation(**(values | changes))


def predictions(of: Translation, quality: float, seed: int) -> list[Prediction]:
    """Hypotheses that keep each unit of the reference with the probability ``quality``."""
    draw = random.Random(seed)
    source, target = of.direction.split("-")
    made = []
    for n in range(of.n):
        reference = " ".join(TEXTS[target][(n + k) % 4] for k in range(1 + n % 3))
        pieces = [piece for piece in reference.replace("་", "་\0").replace(" ", " \0").split("\0") if piece]
        hypothesis = "".join(piece if draw.random() < quality else "ཀ་" for piece in pieces)
        made.append(
            Prediction(test_set=of.test_set, id=f"item:{n}", direction=of.direction, prompt_name=of.prompt.name,
                       source=TEXTS[source][n % 4], reference=reference, hypothesis=hypothesis, prompt=of.prompt.first,
                       examples=of.prompt.asked, stop_reason="length" if n % 7 == 3 else "stop", tokens=30,
                       origin="cute" if n % 2 else "mix")
        )  # fmt: skip
    return made


def choices(accuracy: float, **changes: Any) -> Choices:
    values = {
        "test_set": "mm_eval", "language": "mn", "method": "likelihood", "num_fewshot": 0, "n": 50,
        "accuracy": accuracy, "interval": Interval(low=accuracy - 0.1, high=accuracy + 0.1),
        "normalised": accuracy + 0.02,
        "normalised_interval": Interval(low=accuracy - 0.08, high=accuracy + 0.12), "chance": 0.25, "unmatched": 0,
        "items_sha256": "questions", "signature": "mm_eval|v1|likelihood|0-shot",
    }  # fmt: skip
    return Choices(**(values | changes))


def save(folder: Path, name: str, age: int = 0, **changes: Any) -> Evaluation:
    """Write a model's results, ``age`` seconds older than the newest; items follow from the figures."""
    quality = changes.pop("quality", 0.5)
    values = {
        "model_name": name, "model_path": f"saves/{name}", "likelihoods": [], "translations": [], "choices": [],
        "missing": {}, "data": {}, "plan": {},
        "settings": {"limit": None, "language": "bo", "training_files": ["cpt.json"]},
        "dtype": "float32", "device": "cpu", "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "versions": {},
    }  # fmt: skip
    evaluation = Evaluation(**(values | changes))
    seed = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    texts = [document for x in evaluation.likelihoods for document in documents(x, seed)]
    made = [prediction for t in evaluation.translations for prediction in predictions(t, quality, seed)]
    path, *_ = write_results(folder, Measured(evaluation, texts, made, []))
    os.utime(path, (2_000_000_000 - age, 2_000_000_000 - age))
    return evaluation


def save_stages(folder: Path, models: Sequence[str], directions: Sequence[str] = ("zh-bo",)) -> None:
    """Write one better model after another: few-shot prompts for all, chat as well for those called sft."""
    for n, model in enumerate(models):
        step = n / len(models)
        prompts = [SHARED, CHAT] if model.startswith("sft") else [SHARED]
        save(
            folder,
            model,
            len(models) - n,
            quality=0.2 + 0.7 * step,
            likelihoods=[likelihood(1.5 - step), likelihood(1.2 + 0.1 * step, "zh")],
            translations=[
                translation(max(1.5, 5 + 50 * step - 3 * k) + 4 * (prompt is CHAT), direction, prompt)
                for prompt in prompts
                for k, direction in enumerate(directions)
            ],
            choices=[choices(0.25 + 0.3 * step)],
        )
