"""What a tensor is, read from its name in a Hugging Face checkpoint."""

from __future__ import annotations

TYPES = ("embedding", "position", "attention", "cross-attention", "mlp", "norm", "bias", "output", "other")

_EMBEDDINGS = ("embed", "wte")
_POSITIONS = ("embed_positions", "position_embeddings", "wpe")
_OUTPUTS = ("lm_head", "embed_out")
_CROSS_ATTENTION = ("encoder_attn", "cross_attn", "crossattention", "encdecattention")
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
    if own == "shared":  # not the shared experts of a mixture
        return "embedding"
    for type_, marks in (
        ("position", _POSITIONS),
        ("embedding", _EMBEDDINGS),
        ("cross-attention", _CROSS_ATTENTION),
        ("attention", _ATTENTION),
        ("mlp", _MLP),
    ):
        if any(mark in module for module in modules for mark in marks):
            return type_
    return "other"


def layer_of(name: str) -> int | str | None:
    """Return the layer number in a tensor's name, counted from 0; None for tensors outside the layers.

    Encoder and decoder count apart, where a name tells them: ``encoder 0``, ``decoder 0``.
    """
    number, stack = _number(name), _stack(name)
    return number if number is None or stack is None else f"{stack} {number}"


def model_order(name: str) -> tuple[float, float, str]:
    """Return a sort key that puts tensors in the order in which text passes through them: the encoder's first."""
    number, stack = _number(name), _stack(name)
    if number is not None:
        return float(stack == "decoder"), number, name
    if tensor_type(name) in ("embedding", "position"):
        return -1.0, 0.0, name
    return (0.0 if stack == "encoder" else 1.0), float("inf"), name


def _number(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _stack(name: str) -> str | None:
    return next((part for part in name.split(".") if part in ("encoder", "decoder")), None)
