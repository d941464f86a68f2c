"""Faster kernels where they are to be had: what a recipe asks for and the machine lacks is left out, and said."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from langadapt.recipe.training import TrainingSettings
from langadapt.training.attention import BY_DOCUMENT


@dataclass(frozen=True)
class Kernels:
    """What a run uses; ``missing`` has one sentence for each thing that was asked for and is not to be had."""

    attention: str
    compile: bool
    liger: bool
    missing: list[str] = field(default_factory=list)

    @property
    def wants_flat_batches(self) -> bool:
        """Say whether packed documents are kept apart only in a batch of one row, as under flash attention."""
        return self.attention.startswith("flash")


def choose_kernels(settings: TrainingSettings) -> Kernels:
    """Return the kernels of a recipe that run on this machine."""
    on_gpu = torch.cuda.is_available() and not settings.use_cpu
    asked = settings.model_dump(include={"torch_compile", "use_liger_kernel"})
    attention: str = settings.attn_implementation
    missing: list[str] = []
    if attention == "auto":
        half = settings.bf16 or settings.fp16
        flash = on_gpu and half and is_flash_attn_2_available()
        # Compiled code would be compiled anew for every number of documents. The answers of dpo are padded, and an
        # encoder reads one text a row.
        padded = asked["torch_compile"] or settings.stage in ("dpo", "seq2seq")
        attention = "flash_attention_2" if flash else "sdpa" if padded else BY_DOCUMENT
    elif reason := next(_attention_lacks(attention, settings, on_gpu), None):
        missing.append(f"attn_implementation: {attention} {reason}; using sdpa")
        attention = "sdpa"
    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if asked["torch_compile"] and compiler is None:
        missing.append("torch_compile: needs a C++ compiler (g++); not compiling")
    liger = importlib.util.find_spec("liger_kernel") is not None and on_gpu
    if settings.fsdp and not on_gpu:
        missing.append("fsdp: needs GPUs; every rank holds the whole model")
    if asked["use_liger_kernel"] and not liger:
        missing.append(
            "use_liger_kernel: needs a GPU and liger-kernel (pip install liger-kernel); using torch's kernels"
        )
    return Kernels(
        attention,
        compile=bool(asked["torch_compile"]) and compiler is not None,
        liger=bool(asked["use_liger_kernel"]) and liger,
        missing=missing,
    )


def _attention_lacks(name: str, settings: TrainingSettings, on_gpu: bool) -> Iterator[str]:
    installed = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if name in (*installed, "flex_attention") and not on_gpu:
        yield "needs a GPU"
    if name not in installed:
        return
    if not (settings.bf16 or settings.fp16):
        yield "needs bf16 or fp16"
    if not installed[name]():
        yield "is not installed (pip install flash-attn)"
