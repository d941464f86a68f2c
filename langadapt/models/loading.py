"""Opening a model folder: safetensors only, no code from the folder unless the recipe says so."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from langadapt.errors import UserError
from langadapt.models.folder import find_model

DeviceName = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
_WAY_OUT = "Check the path, or download the model: python 1_preprocess.py --download."
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


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub name, exactly as its tokenizer.json states it.

    `AutoTokenizer` would choose a class by the model type, and some classes put their own way of cutting text in the
    place of the file's, without a word. Raises `UserError` when there is no tokenizer.json to be had.
    """
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name}: no tokenizer in it ({_first_line(error)}). {_WAY_OUT}") from None
    return tokenizer


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Return a causal language model in evaluation mode on ``device`` (default: left where it is loaded, the CPU).

    ``options`` go to `from_pretrained`. Raises `UserError` when the folder is no model, or none that is known here.
    """
    find_model(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name}: the model could not be loaded ({_first_line(error)}). {_WAY_OUT}") from None
    return model.to(device).eval() if device is not None else model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
