"""Stage 5 on encoder-decoder models: a shared embedding once, encoder and decoder apart, adapters as they merge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from langadapt.models import load_model
from langadapt.models.small_translator import make_small_translator
from langadapt.weights.charts import draw_charts
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import compare
from langadapt.weights.summary import summarise

TEXTS = {
    "en": ["one two three", "the red house", "a small dog"],
    "fr": ["un deux trois", "la maison rouge", "un chien"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An mBART-50, the same with a copy of its embedding and another cross-attention, and a LoRA adapter on it."""
    folder = tmp_path_factory.mktemp("translators")
    base, cpt, adapter = (folder / name for name in ("base", "cpt", "adapter"))
    make_small_translator("mbart50", TEXTS, base, vocab_size=60, hidden_size=32)
    shutil.copytree(base, cpt)
    weights = load_file(cpt / "model.safetensors")
    weights["model.decoder.layers.1.encoder_attn.q_proj.weight"] += 0.5
    weights["model.encoder.embed_tokens.weight"] = weights["model.shared.weight"].clone()
    save_file(weights, cpt / "model.safetensors", metadata={"format": "pt"})
    model = get_peft_model(load_model(str(base)), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(adapter)
    return [str(base), str(cpt), str(adapter)]


def test_what_changed_is_told_by_stack_and_kind(folders: list[str], tmp_path: Path) -> None:
    base, cpt, _ = folders
    results = compare(*open_checkpoints(base, cpt, base))
    assert results["total"]["parameters"] == load_model(base).num_parameters() + _vocabulary(
        base
    )  # final_logits_bias is a buffer
    assert [layer["layer"] for layer in results["layers"]] == ["encoder 0", "encoder 1", "decoder 0", "decoder 1"]
    changed = {kind["type"]: kind["base_cpt"]["l2"] for kind in results["types"]}
    assert changed["cross-attention"] == pytest.approx(0.5 * 32)  # of 32 x 32 weights
    assert sum(changed.values()) == changed["cross-attention"]
    assert [layer["base_cpt"]["l2"] > 0 for layer in results["layers"]] == [False, False, False, True]
    assert "By type, cross-attention changed most" in summarise(results)
    assert all(path.stat().st_size > 10_000 for path in draw_charts(results, tmp_path))


def test_an_adapter_is_what_it_merges_to(folders: list[str]) -> None:
    base, _, adapter = folders
    results = compare(*open_checkpoints(base, base, adapter))
    merged, plain = load_model(adapter).state_dict(), load_model(base).state_dict()
    for tensor in results["tensors"]:
        change = float((merged[tensor["name"]] - plain[tensor["name"]]).norm())
        assert tensor["cpt_sft"]["l2"] == pytest.approx(change, rel=1e-4, abs=1e-6)
    kinds = {kind["type"]: kind["cpt_sft"]["l2"] > 0 for kind in results["types"]}
    assert [name for name, moved in kinds.items() if moved] == ["attention", "cross-attention"]


def _vocabulary(folder: str) -> int:
    return int(load_file(f"{folder}/model.safetensors")["final_logits_bias"].numel())
