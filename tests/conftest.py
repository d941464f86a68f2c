"""What the tests share: no network, two threads, and a two-layer model with a real tokenizer, built once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

TIBETAN = [
    "བོད་ཀྱི་སྐད་ཡིག་ནི་གལ་ཆེན་པོ་ཡིན།",
    "ང་ཚོས་བོད་ཡིག་སློབ་སྦྱོང་བྱེད་ཀྱི་ཡོད།",
    "དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག",
    "སྤྱི་ལོ་༢༠༢༥ ལོའི་ཟླ་བ་གསུམ་པ།",
]
CHINESE = ["藏语文非常重要。", "我们正在学习藏文。", "今天天气很好。", "2025年3月。"]
ENGLISH = ["The Tibetan language is very important.", "We are learning Tibetan.", "The weather is good.", "March 2025."]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: Qwen2 with two layers and random weights, a trained byte-level BPE with ChatML."""
    from langadapt.models.building import new_qwen2, train_tokenizer

    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = train_tokenizer([*TIBETAN, *CHINESE, *ENGLISH], vocab_size=400)
    new_qwen2(tokenizer, hidden_size=32, layers=2, heads=2, max_length=512, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def translation_request(text: str) -> str:
    return f"请将以下中文翻译成藏文：{text}"


@pytest.fixture(scope="session")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned four questions and four requests for a translation by heart."""
    import torch

    from langadapt.models import encode_conversation, end_of_turn_id, load_tokenizer
    from langadapt.models.building import new_qwen2

    tokenizer = load_tokenizer(str(tiny_model))
    model = new_qwen2(tokenizer, hidden_size=64, layers=2, heads=2, max_length=256, seed=0)
    questions = [*CHINESE, *(translation_request(text) for text in CHINESE)]
    answers = [*TIBETAN, *reversed(TIBETAN)]
    pairs = [
        encode_conversation(
            tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
        for question, answer in zip(questions, answers, strict=True)
    ]
    width = max(len(ids) for ids, _ in pairs)
    inputs = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in pairs])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in pairs])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
    model.generation_config.eos_token_id = end_of_turn_id(tokenizer)
    folder = tmp_path_factory.mktemp("chat") / "checkpoint-150"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PAIRS = [
    ("The weather is good.", "Il fait beau."),
    ("We are learning.", "Nous apprenons."),
    ("A red house.", "Une maison rouge."),
    ("March 2025.", "Mars 2025."),
    ("Where is the station?", "Où est la gare ?"),
    ("The dog is asleep; the cat is not.", "Le chien dort ; le chat, non."),
]


@pytest.fixture(scope="session")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An M2M100 (English and French, both ways) and a Marian (en-fr) that have learned six pairs by heart."""
    import torch

    from langadapt.files import write_json
    from langadapt.models import load_model
    from langadapt.models.small_translator import make_small_translator
    from langadapt.models.translation import TRANSLATION_FILE, load_translation_tokenizer

    folder = tmp_path_factory.mktemp("translators")
    texts = {"en": [source for source, _ in PAIRS], "fr": [target for _, target in PAIRS]}
    for family, directions in (("m2m100", ["fr-en", "en-fr"]), ("marian", ["en-fr"])):
        path = folder / family
        make_small_translator(family, texts, path, vocab_size=120, hidden_size=32, max_length=64)
        model, tokenizer = load_model(str(path)).train(), load_translation_tokenizer(str(path))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(100):
            source, target = directions[step % len(directions)].split("-")
            inputs = tokenizer.encode_source(texts[source], source, target)
            labels = tokenizer.encode_target(texts[target], target)
            width, length = max(map(len, inputs)), max(map(len, labels))
            pad = tokenizer.tokenizer.pad_token_id
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in inputs])
            model(
                input_ids=ids,
                attention_mask=(ids != pad).long(),
                labels=torch.tensor([row + [-100] * (length - len(row)) for row in labels]),
            ).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval().save_pretrained(path)
        if family == "m2m100":
            write_json(path / TRANSLATION_FILE, {"language_tokens": {}, "directions": directions})
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in the repository's root, as a user would: ``run_script("1_preprocess.py", "seed=1")``."""

    def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        program = ["bash"] if str(command[0]).endswith(".sh") else [sys.executable]
        return subprocess.run(
            [*program, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600, **options
        )

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cpt.json and sft.json, a few dozen records each, as stage 1 writes them."""
    from langadapt.files import write_json_array

    texts = [*TIBETAN, *CHINESE, *ENGLISH]
    folder = tmp_path_factory.mktemp("data")
    write_json_array(folder / "cpt.json", [{"text": " ".join(texts[i % 12 : i % 12 + 3])} for i in range(60)])
    pairs = [{"instruction": texts[i % 12], "input": "", "output": texts[(i + 5) % 12]} for i in range(24)]
    write_json_array(folder / "sft.json", pairs)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; a test that asks for it is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
