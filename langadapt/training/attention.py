"""Attention document by document: torch's own kernels for causal attention, and no mask.

A mask that keeps packed documents apart is as large as the square of a block, and with any mask at all torch's fast
kernels compute both triangles of it. Here every document is a call of its own, of its own length.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from langadapt.errors import UserError
from langadapt.models.folder import first_line

BY_DOCUMENT = "sdpa_by_document"


def attend_by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of causal documents that begin where ``position_ids`` are 0: [batch, tokens, heads, width].

    ``query`` is [batch, heads, tokens, width]; ``key`` and ``value`` may have fewer heads, each for a group of the
    query's. What transformers calls as a model's attention function, when it is set to `BY_DOCUMENT`.
    """
    if attention_mask is not None or position_ids is None:
        raise UserError("this model does not tell its attention where documents begin: set attn_implementation: sdpa.")
    lengths = _lengths(position_ids.expand(len(query), query.shape[2]))
    return attend_within(lengths, query, key, value, dropout, scaling), None


def attend_within(
    lengths: list[int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    """Return the attention of documents of these ``lengths``, all rows of the batch one after the other."""
    batch, heads, tokens, _ = query.shape
    grouped = key.shape[1] != heads
    rows = (tensor.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for tensor in (query, key, value))
    attended = [
        functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(*(torch.split(row, lengths, dim=2) for row in rows), strict=True)
    ]
    return torch.cat(attended, dim=2)[0].transpose(0, 1).reshape(batch, tokens, heads, -1)


def set_attention(model: Any, name: str, isolated: bool) -> None:
    """Set the attention of a model; where `BY_DOCUMENT` cannot be had, torch's own with a mask, or the model's own.

    With ``isolated``, a block of two documents is tried: raises `UserError` when the second is not the same whatever
    the first says, as in models that hand on a state beside attention (convolutions, state spaces). Raises it as well
    for models that know no positions. Weights that ZeRO-3 has taken apart cannot be tried.
    """
    kind = f"{model.name_or_path}: a {model.config.model_type} model"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UserError(f"{kind}, which takes no positions of tokens, by which documents are told apart; take another.")
    names = [name] if name != BY_DOCUMENT else [BY_DOCUMENT, "sdpa", "eager"]
    if name == BY_DOCUMENT and not can_attend_by_document(model):
        del names[0]
    for position, chosen in enumerate(names):
        try:
            model.set_attn_implementation(chosen)
            leaks = _leaks(model)
            break
        except (UserError, ValueError) as error:
            if position == len(names) - 1:
                raise UserError(f"{kind} without {chosen} attention ({first_line(error)}).") from None
    if isolated and leaks:
        raise UserError(
            f"{kind}, in which the documents of a block see each other. Set packing: none (one record a sequence), or "
            "packing: joined if they may."
        )


def _leaks(model: Any) -> bool:
    """Say whether the second document of a block comes out differently under another first one."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return False
    device, was_training, attention = model.device, model.training, model.config._attn_implementation
    if attention.startswith(("flash", "flex")) and device.type == "cpu":  # where it is still to be moved from
        model.set_attn_implementation("sdpa")
    ids = torch.tensor([[3, 4, 5, 6, 5, 6, 7, 8], [9, 8, 7, 9, 5, 6, 7, 8]], device=device)
    positions = torch.arange(4, device=device).repeat(2, 2)
    # For evaluation bitsandbytes packs 4-bit weights anew on the CPU, and could not train with them afterwards.
    model.train(getattr(model, "is_quantized", False))
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 4:].float()
    model.train(was_training)
    model.set_attn_implementation(attention)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-3
    return bool((logits[0] - logits[1]).abs().max() > tolerance * logits.std())


def can_attend_by_document(model: Any) -> bool:
    """Say whether a model's attention is plain causal attention in every layer, and one that can be replaced."""
    config = model.config.get_text_config()
    windows = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return model._supports_attention_backend and not windows and not capped and kinds == {"full_attention"}


_last: tuple[torch.Tensor, list[int]] | None = None


def _lengths(position_ids: torch.Tensor) -> list[int]:
    """Return the lengths of the documents; every layer of a model asks for those of the same batch."""
    global _last  # holds the tensor, so that no other can have its address
    if _last is None or _last[0].data_ptr() != position_ids.data_ptr() or _last[0].shape != position_ids.shape:
        flat = position_ids.flatten()
        starts = torch.cat([(flat == 0).nonzero().flatten(), flat.new_tensor([len(flat)])])
        _last = position_ids, starts.diff().tolist()
    return _last[1]


AttentionInterface.register(BY_DOCUMENT, attend_by_document)
AttentionMaskInterface.register(BY_DOCUMENT, lambda *_, **__: None)
