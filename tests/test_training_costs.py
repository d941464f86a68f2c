"""The arithmetic of a step, against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from langadapt.training.costs import flops_of_step, peak_of_gpu


def model_of(trained: str, tied: bool) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    return model


@pytest.mark.parametrize(
    ("trained", "tied"),
    [("", True), ("", False), ("layers.6", True), ("layers.0", False), ("lm_head", False), ("embed_tokens", True)],
)
def test_flops_are_those_that_torch_counts(trained: str, tied: bool) -> None:
    """Two sequences of 64 tokens; eager attention computes the whole square."""
    model, ids = model_of(trained, tied), torch.randint(500, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    counted = counter.get_total_flops()
    assert flops_of_step(model, tokens=128, attended_pairs=2 * 64 * 64) == pytest.approx(counted, rel=0.06)


def test_a_gpu_is_known_by_its_whole_name() -> None:
    assert peak_of_gpu("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of_gpu("NVIDIA H100 PCIe") == 756e12
    assert peak_of_gpu("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of_gpu("NVIDIA RTX A4000") is None
