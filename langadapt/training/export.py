"""The finished model: a plain Hugging Face folder that is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.files import staged_folder, write_json, write_text
from langadapt.recipe.training import TrainingSettings
from langadapt.training.checkpoints import RUN_FILE, Run
from langadapt.training.data import Tokens
from langadapt.training.progress import LOG_FILE, read_log

SETTINGS_FILE = "training_settings.yaml"
_METHODS = {"pt": "continual pretraining", "sft": "supervised fine-tuning"}


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings, run: Run, tokens: Tokens
) -> None:
    """Write the model, its tokenizer, its settings and its card into ``settings.output_dir``.

    Trained in bf16, the model is saved as bf16: half the size, at the cost of changes to a weight that are smaller than
    1/256 of it; the float32 master weights stay in the last checkpoint. Else it is saved as float32.

    config.json comes last: a folder without it is no model.
    """
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    for parameter in model.parameters():
        # DeepSpeed's parameters are views of one flat buffer, which safetensors takes for tied weights.
        parameter.data = parameter.data.to("cpu", dtype, copy=True)
    with staged_folder(settings.output_dir, last="config.json") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_text(folder / SETTINGS_FILE, _settings_as_yaml(settings))
        write_text(folder / "README.md", _model_card(settings, run, tokens))
        write_json(folder / RUN_FILE, run)


def _settings_as_yaml(settings: TrainingSettings) -> str:
    text: str = yaml.safe_dump(settings.resolved(), allow_unicode=True, sort_keys=False)
    return "# The settings this model was trained with; itself a recipe.\n" + text


def _model_card(settings: TrainingSettings, run: Run, tokens: Tokens) -> str:
    """Return a model card whose metadata the Hugging Face hub reads."""
    base = settings.model_name_or_path
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if not Path(base).exists():
        metadata["base_model"] = base
    log = read_log(settings.output_dir)
    last = f"{log[-1]['loss']:.4f} at step {log[-1]['step']}, {log[-1]['tokens_seen']:,} tokens seen" if log else "none"
    skipped = f"; {tokens.skipped:,} longer than cutoff_len left out" if tokens.skipped else ""
    return str(
        ModelCard(
            f"---\n{ModelCardData(**metadata).to_yaml()}\n---\n\n"
            f"# {Path(settings.output_dir).resolve().name}\n\n"
            f"{base}, adapted by {_METHODS[settings.stage]}, every parameter trained.\n\n"
            f"- Data: `{settings.dataset}` (SHA-256 `{run['dataset_sha256']}`): {len(tokens.ends):,} records, "
            f"{len(tokens.ids):,} tokens, {int(tokens.learned.sum()):,} of them learned{skipped}.\n"
            f"- Last logged loss: {last} ({LOG_FILE}).\n"
            f"- Ranks: {run['world_size']}. Settings: {SETTINGS_FILE}.\n"
        )
    )
