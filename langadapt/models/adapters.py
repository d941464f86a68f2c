"""Opening the folder of an adapter: its base, with what the adapter learned beside it or merged into it.

Merging adds the adapter's change to each weight, so that the merged model computes what base and adapter compute
together. It is done on a base that is not quantised, in float32.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PreTrainedModel

from langadapt.errors import UserError
from langadapt.models.folder import ADAPTER, adapter_base, first_line
from langadapt.models.loading import load_model

# PEFT 0.21 asks models of transformers 5 for this by its old name.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def open_adapter(
    path: str | Path, trust_remote_code: bool = False, is_trainable: bool = False, **options: Any
) -> PeftModel:
    """Return the adapter of a folder on its base, both in float32 on the CPU, in evaluation mode.

    ``options`` go to the base's `from_pretrained`. A generation_config.json beside the adapter takes the place of the
    base's. Raises `UserError` when the base is gone or the adapter does not fit it.
    """
    base = load_model(adapter_base(path), torch.float32, trust_remote_code=trust_remote_code, **options)
    model = put_adapter(base, path, is_trainable=is_trainable)
    if own := adapter_generation_config(path):
        base.generation_config = own
    return model.eval()


def put_adapter(
    model: PreTrainedModel | PeftModel, path: str | Path, name: str = "default", is_trainable: bool = False
) -> PeftModel:
    """Return a model with the adapter of a folder put on it, under a name; on one that has others, beside those.

    Raises `UserError` when it does not fit, or a weight of it is missing.
    """
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(path), adapter_name=name, is_trainable=is_trainable, torch_device=str(model.device))
        else:
            model = PeftModel.from_pretrained(model, str(path), adapter_name=name, is_trainable=is_trainable)
        with safe_open(Path(path) / ADAPTER, framework="pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path}: the adapter could not be put on {model.name_or_path} ({first_line(error)}). Is it the base that "
            "the adapter was trained on?"
        ) from None
    # PEFT leaves at their random start the weights that it does not find.
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if missing := sorted(own.keys() - stored):
        raise UserError(
            f"{path}: {len(missing)} weights of the adapter are missing, first {missing[0]}. Copy it again."
        )
    return model


def adapter_generation_config(path: str | Path) -> GenerationConfig | None:
    """Return the generation config beside an adapter, which takes the place of its base's; None without one."""
    there = (Path(path) / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(str(path)) if there else None


def merge_adapter(path: str | Path, trust_remote_code: bool = False, **options: Any) -> PreTrainedModel:
    """Return the base of an adapter with the adapter merged in, a plain model in float32 on the CPU.

    Embeddings that are tied and were trained whole stay one tensor. Where the adapter adds a change to either use of a
    tied tensor, the merged model has two tensors, and its config says so. Raises `UserError` as `open_adapter` does.
    """
    adapted = open_adapter(path, trust_remote_code, **options)
    base = adapted.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        embedding, head = (end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends)
        if head.weight is embedding.weight:
            # PEFT would add both changes to the one tensor.
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return adapted.merge_and_unload()
