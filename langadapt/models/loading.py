"""Opening a model folder: safetensors only, no code from the folder unless the recipe says so."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from langadapt.errors import UserError
from langadapt.models.folder import WAY_OUT, find_model, first_line, is_adapter
from langadapt.models.translation import is_encoder_decoder, model_type

DeviceName = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
_NAMED = 3  # how many tensors an error lists before it only counts
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: DeviceName | str = "auto") -> torch.device:
    """Return the device to use; ``auto`` is the first GPU, else the CPU. Raises `UserError` where there is no GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(name).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name}: no GPU is visible here. Use device=cpu, or check CUDA_VISIBLE_DEVICES.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: expected auto, cpu, cuda or cuda:N.") from None


def pick_dtype(name: DTypeName, device: torch.device) -> torch.dtype:
    """Return the torch dtype of a name; ``auto`` is bfloat16 on a GPU and float32 on the CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _DTYPES[name]


def device_map(name: str, wanted: torch.device | str) -> dict[str, torch.device] | str | None:
    """Return the map by which `from_pretrained` is to place a model: one device, or a way to spread it; None: no map.

    A Marian model (OPUS-MT) is never placed by a map, and none is under a distributed launch, in which every rank has
    its own device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or model_type(name) == "marian":
        return None
    return {"": wanted} if isinstance(wanted, torch.device) else wanted


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Return a causal language model, or an encoder-decoder model, in evaluation mode on ``device`` (default: the CPU).

    The folder of an adapter gives its base with the adapter merged in, in float32, then brought to ``dtype``.
    ``options`` go to `from_pretrained`. Raises `UserError` when the folder is no model, none that is known here, or
    does not hold every weight in the size that its config.json asks for.
    """
    find_model(name)
    disable_progress_bar()  # of seconds, and in the way of the stages' own
    if is_adapter(name):
        from langadapt.models.adapters import merge_adapter

        merged = merge_adapter(name, trust_remote_code, **options).to(dtype)
        return merged.to(device) if device is not None else merged
    kind = AutoModelForSeq2SeqLM if is_encoder_decoder(name, trust_remote_code) else AutoModelForCausalLM
    try:
        model, loading = kind.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{name}: the model could not be loaded ({first_line(error)}). {WAY_OUT}") from None
    # transformers fills what it does not find with random numbers. Tied weights are not among the missing.
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{name}: weights are missing: {_some(missing)}. Copy or download the model again.")
    if mismatched := sorted(key for key, *_ in loading["mismatched_keys"]):
        raise UserError(
            f"{name}: a checkpoint of another size than its config.json says: {_some(mismatched)}. "
            "Take config.json and weights from the same model."
        )
    return model.to(device).eval() if device is not None else model.eval()


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")
