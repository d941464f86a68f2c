"""What a rank holds by rule, from the number of weights: those in 4 bits, optimizer states, sharding's buffers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from langadapt.files import read_json_object
from langadapt.recipe.training import TrainingSettings
from langadapt.training.methods import layer_stacks

# Numbers that an optimizer keeps for each weight; the others, as Adam, two.
_STATES = {"adafactor": 0, "sgd": 0, "adagrad": 1, "lion": 1, "rmsprop": 1, "ademamix": 3}
_LIVE = 10**9  # DeepSpeed's stage3_max_live_parameters where it is not set


def weight_bytes(model: Any, settings: TrainingSettings) -> int:
    """Return the bytes of all weights, those that ``finetuning_type: qlora`` keeps in 4 bits counted as such."""
    quantised = _quantised(model, settings)
    # Half a byte, and a float32 scale for each 64 weights; or one byte for it, and a float32 for each 256 of those.
    bits = 0.5 + (1 / 64 + 4 / (64 * 256) if settings.double_quantization else 4 / 64)
    return sum(
        int(parameter.numel() * bits) if id(parameter) in quantised else parameter.nbytes
        for parameter in model.parameters()
    )


def _quantised(model: Any, settings: TrainingSettings) -> dict[int, torch.Tensor]:
    """Return by id the weights that bitsandbytes keeps in 4 bits: of every linear layer but the output layer."""
    if settings.finetuning_type != "qlora":
        return {}
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return {id(layer.weight): layer.weight for layer in layers if not layer.weight.requires_grad}


def dequantised(model: Any, settings: TrainingSettings) -> int:
    """Return the bytes of the largest weight in 4 bits, as it stands in full for the moment in which it is used."""
    return max((weight.nbytes for weight in _quantised(model, settings).values()), default=0)


def optimizer_bytes(name: str, model: Any) -> int:
    """Return the bytes of an optimizer's state for the trained weights; ``name`` is a value of the key optim."""
    states = next((count for part, count in _STATES.items() if part in name), 2)
    size = 1 if "8bit" in name else 0.5 if "4bit" in name else 4
    sizes = {id(weight): weight.numel() * size for weight in model.parameters() if weight.requires_grad}
    if "8bit" in name and not name.startswith(("adamw_torch", "galore")):
        # transformers has bitsandbytes keep the states of embeddings in 32 bits.
        tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        sizes |= {id(table): 4 * table.numel() for table in tables if table.requires_grad}
    return int(states * sum(sizes.values()))


def _zero(settings: TrainingSettings) -> dict[str, Any]:
    zero: dict[str, Any] = read_json_object(str(settings.deepspeed)).get("zero_optimization", {})
    return zero


def reduction_buffers(settings: TrainingSettings, config: PreTrainedConfig, size: int) -> int:
    """Return the bytes of the buckets in which DeepSpeed brings gradients together, of numbers of ``size`` bytes."""
    zero = _zero(settings)
    bucket = zero.get("reduce_bucket_size", 500_000_000)
    if bucket == "auto":
        bucket = config.get_text_config().hidden_size ** 2  # as transformers fills it in
    buffers = 2 if zero.get("overlap_comm") else 1
    return int(bucket) * buffers * size if zero.get("contiguous_gradients", True) else 0


def gathered_bytes(settings: TrainingSettings, model: Any) -> int:
    """Return the bytes of the weights that a sharded model holds whole at a time."""
    total = weight_bytes(model, settings)
    if settings.deepspeed is not None:
        live = _zero(settings).get("stage3_max_live_parameters", _LIVE)
        size: int = next(model.parameters()).element_size()
        return min(total, int(live) * size)
    # FSDP2: the layer in use and the next one, and the vocabulary; in the type that they are computed in.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    depth = sum(map(len, layer_stacks(base)))
    ends = {id(end.weight): end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    vocabulary: int = sum(weight.nbytes for weight in ends.values())
    gathered: int = vocabulary + 2 * (total - vocabulary) // depth
    return gathered // 2 if settings.bf16 else gathered
