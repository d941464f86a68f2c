"""What training costs in arithmetic, and how much of it a device can do: the two sides of MFU.

Model FLOPs utilisation is the share of a device's peak that goes into arithmetic the model needs, recomputation not
counted (Chowdhery et al. 2022, appendix B, https://arxiv.org/abs/2204.02311). Attention is counted as it is: a token
sees itself and the tokens of its document before it. Where others count the whole square, theirs is the higher figure.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch

# Dense bf16 tensor-core peaks in TFLOP/s, from the makers' data sheets (fp16 for the GPUs without bf16); the first name
# that is part of the device's counts.
_PEAKS = {
    "B200": 2250, "H200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "H800": 989, "H20": 148, "A100": 312,
    "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A10G": 70, "A10": 125, "RTX 6000 Ada": 364,
    "RTX A6000": 155, "RTX 4090": 165, "RTX 4080": 97, "RTX 3090": 71, "V100": 125, "T4": 65,
}  # fmt: skip


def flops_of_step(model: Any, tokens: int, attended_pairs: int) -> float:
    """Return the floating-point operations that forward and backward over ``tokens`` tokens need.

    Two a weight and token forward, two backward for the gradient that is passed on, and two more where the weight is
    trained; below the first weight that is trained there is no backward. ``attended_pairs`` is the number of (token,
    token it sees) pairs, the token itself included. A table that is only looked up costs nothing; one that is the
    output layer too is counted as that. Of a mixture of experts all are counted, though a token meets only some.
    """
    config = model.config.get_text_config()
    forward_only = not any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters())
    flops, below = 0, config.num_hidden_layers if forward_only else 0  # layers without a backward
    for name, parameter in _multiplied(model):
        if parameter.requires_grad and forward_only:
            forward_only, layer = False, re.search(r"\.(\d+)\.", name)
            below = int(layer.group(1)) if layer else below
        flops += size_of(parameter) * (6 if parameter.requires_grad else 2 if forward_only else 4)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    # Scores and their product with the values: 2 x 2 operations an element of the head, three times with backward.
    attention = heads * width * (12 * config.num_hidden_layers - 8 * below)
    return float(flops * tokens + attention * attended_pairs)


def flops_of_translations(model: Any, source_tokens: float, target_tokens: float, pairs: float) -> float:
    """Return the floating-point operations of forward and backward of an encoder-decoder model, as `flops_of_step`.

    What reads the source is multiplied by its tokens: the encoder, and of cross-attention keys and values. ``pairs``
    are those of `pairs_of_translations`.
    """
    flops = 0.0
    trains = any(parameter.requires_grad for name, parameter in model.named_parameters() if ".encoder." in name)
    for name, parameter in _multiplied(model):
        reads = ".encoder." in name or re.search(r"\.encoder_attn\.[kv]_proj\.", name) is not None
        passed_on = trains or ".encoder." not in name
        per_weight = 6 if parameter.requires_grad else 4 if passed_on else 2
        flops += size_of(parameter) * per_weight * (source_tokens if reads else target_tokens)
    return float(flops + 12 * model.config.d_model * pairs)


def pairs_of_translations(model: Any, sources: Any, targets: Any) -> Any:
    """Return the (token, token it sees) pairs of texts with so many tokens each, summed over the layers."""
    config = model.config
    decoder = targets * (targets + 1) // 2 + targets * sources
    return config.encoder_layers * sources**2 + config.decoder_layers * decoder


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the operations a second that a device can do at most; None for a GPU that is not known here.

    For a GPU the bf16 peak of its data sheet; for the CPU what a product of matrices of ``dtype`` reaches here and now.
    """
    return _measured_peak(dtype) if device.type == "cpu" else peak_of_gpu(torch.cuda.get_device_name(device))


def peak_of_gpu(name: str) -> float | None:
    """Return the bf16 operations a second of the GPU whose name is, or has in it, one of a data sheet known here."""
    return next((peak * 1e12 for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def size_of(parameter: torch.Tensor) -> int:
    """Return how many numbers a parameter has: also where ZeRO-3 has taken it apart, or 4 bits share a byte."""
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def checkpoint_size(model: Any, deepspeed: bool) -> int:
    """Return about how many bytes a checkpoint takes: the weights as they are, and the optimizer's state."""
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    saved = trained if hasattr(model, "peft_config") else parameters
    weights: int = sum(size_of(parameter) * parameter.element_size() for parameter in saved)
    # Two float32 moments; DeepSpeed adds float32 master weights, and writes its own copy of the weights.
    states = sum(size_of(parameter) for parameter in trained) * (12 if deepspeed else 8)
    return weights * (2 if deepspeed else 1) + states


def _multiplied(model: Any) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield every parameter once, in order, but the input embedding's only if the output layer shares it."""
    looked_up = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    output = model.get_output_embeddings()
    looked_up -= {id(parameter) for parameter in output.parameters()} if output is not None else set()
    return (named for named in model.named_parameters() if id(named[1]) not in looked_up)


def _measured_peak(dtype: torch.dtype, size: int = 1024, repeats: int = 5) -> float:
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])
