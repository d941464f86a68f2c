"""A LoRA folder as a checkpoint, against the model that PEFT merges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from langadapt.errors import UserError
from langadapt.models.adapters import merge_adapter
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import compare


def adapter(base: Path, folder: Path, **options: object) -> Path:
    """An adapter with random factors."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    made = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **options))
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "rank_pattern": {"up_proj": 2}},
        {"target_modules": ["v_proj", "o_proj"], "alpha_pattern": {"layers.1.self_attn.v_proj": 9}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "embedding", "output"],
)
def test_an_adapter_is_what_it_merges_to(tiny_model: Path, tmp_path: Path, options: dict) -> None:
    lora = adapter(tiny_model, tmp_path / "lora", **options)
    merge_adapter(lora).save_pretrained(tmp_path / "merged")
    apart, merged = (
        compare(*open_checkpoints(str(tiny_model), str(folder), str(folder)), slice_size=100)
        for folder in (lora, tmp_path / "merged")
    )
    assert [tensor["name"] for tensor in apart["tensors"]] == [tensor["name"] for tensor in merged["tensors"]]
    assert apart["total"]["base_cpt"]["l2"] > 0
    for one, other in zip(apart["tensors"], merged["tensors"], strict=True):
        assert one["base_cpt"]["l2"] == pytest.approx(other["base_cpt"]["l2"], rel=1e-4, abs=1e-9), one["name"]
        assert one["cpt_sft"]["l2"] == 0
    assert apart["checkpoints"]["cpt"]["path"] == str(lora)


def test_adapters_that_do_not_fit_are_named(tiny_model: Path, tmp_path: Path) -> None:
    lora = adapter(tiny_model, tmp_path / "lora", target_modules=["q_proj"])
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(UserError, match=r"lora: an adapter \(DoRA\) whose change is no product"):
        open_checkpoints(str(tiny_model), str(lora), str(lora))
    (lora / "adapter_config.json").write_text(json.dumps(config))
    from langadapt.models.building import new_qwen2
    from langadapt.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    other = tmp_path / "other"
    new_qwen2(tokenizer, hidden_size=64, layers=2, heads=2, max_length=512, seed=0).save_pretrained(other)
    (lora / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(UserError, match="Is it the base that the adapter was trained on"):
        open_checkpoints(str(other), str(lora), str(lora))


def test_the_change_is_the_scaled_product(tiny_model: Path, tmp_path: Path) -> None:
    lora = adapter(tiny_model, tmp_path / "lora", target_modules=["q_proj"])
    factors = load_file(lora / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    change = 6 / 4 * factors[f"{prefix}B.weight"].double() @ factors[f"{prefix}A.weight"].double()
    results = compare(*open_checkpoints(str(tiny_model), str(lora), str(lora)))
    tensor = next(t for t in results["tensors"] if t["name"] == "model.layers.0.self_attn.q_proj.weight")
    assert tensor["base_cpt"]["l2"] == pytest.approx(float(change.norm()), rel=1e-9)
