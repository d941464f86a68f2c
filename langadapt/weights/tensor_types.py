"""What a tensor is, read from its name in a Hugging Face checkpoint."""

from __future__ import annotations

TYPES = ("embedding", "attention", "mlp", "norm", "bias", "output", "other")

_EMBEDDINGS = ("embed", "wte", "wpe", "shared")
_OUTPUTS = ("lm_head", "embed_out")
_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "ffn", "feed_forward", "expert", "moe", "fc1", "fc2", "densereludense")


def tensor_type(name: str) -> str:
    """Return which of `TYPES` a tensor belongs to.

    A bias is a bias wherever it stands, and a norm is told by its own module's name: ``post_attention_layernorm``
    and Qwen3's ``self_attn.q_norm`` are norms, not attention.
    """
    *modules, kind = name.lower().split(".")
    own = modules[-1] if modules else ""
    if kind.endswith("bias"):
        return "bias"
    if "norm" in own or own.startswith("ln_"):
        return "norm"
    if own in _OUTPUTS:
        return "output"
    for type_, marks in (("embedding", _EMBEDDINGS), ("attention", _ATTENTION), ("mlp", _MLP)):
        if any(mark in module for module in modules for mark in marks):
            return type_
    return "other"


def layer_of(name: str) -> int | None:
    """Return the layer number in a tensor's name, counted from 0; None for tensors outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def model_order(name: str) -> tuple[float, str]:
    """Return a sort key that puts tensors in the order in which text passes through them."""
    layer = layer_of(name)
    if layer is None:
        layer_position = -1.0 if tensor_type(name) == "embedding" else float("inf")
        return layer_position, name
    return float(layer), name
