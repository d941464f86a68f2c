"""What the tests share: no network, two threads, and a two-layer model with a real tokenizer, built once."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
