"""The finished model: a plain Hugging Face folder that is whole or not there."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import PreTrainedModel

from langadapt.errors import UserError
from langadapt.files import atomic_path, staged_folder, write_json, write_text
from langadapt.models.adapters import merge_adapter
from langadapt.recipe.training import TrainingSettings
from langadapt.training.averaging import average_checkpoints
from langadapt.training.card import model_card
from langadapt.training.checkpoints import Run, is_complete, steps_of
from langadapt.training.data import AnyTokenizer, Tokens
from langadapt.training.methods import count_parameters, reopen_model
from langadapt.training.saving import RUN_FILE

SETTINGS_FILE = "training_settings.yaml"
ADAPTER_FOLDER, ARCHIVE = "adapter", "adapter.zip"


def export_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: AnyTokenizer,
    settings: TrainingSettings,
    run: Run,
    tokens: Tokens,
    chosen_step: int | None = None,
) -> None:
    """Write the model, its tokenizer, its settings and its card into ``settings.output_dir``.

    An adapter goes into the folder `ADAPTER_FOLDER` there, and the model is its base, opened anew without quantisation,
    with the adapter merged in.

    Trained in bf16, the model is saved as bf16 unless ``export_dtype`` says otherwise: half the size, at the cost of
    changes to a weight that are smaller than 1/256 of it. Else it is saved as float32. Raises `UserError` when a weight
    is no finite number.

    ``chosen_step`` is the step that the weights are of, where it is not the last. config.json comes last: a folder
    without it is no model.
    """
    trained, total = count_parameters(model, settings)
    with staged_folder(settings.output_dir, last="config.json", stale=[ARCHIVE]) as folder:
        if settings.average_last_checkpoints is not None and steps_of(Path(settings.output_dir)):
            model = _mean_of_last_checkpoints(settings)
        if isinstance(model, PeftModel):
            model = _write_and_merge(model, tokenizer, settings, folder / ADAPTER_FOLDER)
            adapter_card = model_card(settings, run, tokens, trained, total, chosen_step, library="peft")
            write_text(folder / ADAPTER_FOLDER / "README.md", adapter_card)
        if settings.adapter_archive:
            _pack(folder / ADAPTER_FOLDER, folder / ARCHIVE)
        dtype = getattr(torch, settings.saved_dtype)
        for name, parameter in model.named_parameters():
            # DeepSpeed's parameters are views of one flat buffer, which safetensors takes for tied weights.
            parameter.data = parameter.data.to("cpu", dtype, copy=True)
            assert parameter.numel(), f"{name} is empty"
            if not torch.isfinite(parameter).all():
                raise UserError(
                    f"{name} holds numbers that are not finite as {settings.saved_dtype}: training diverged in its last"
                    f" steps. Delete the newest checkpoints in {settings.output_dir} and lower learning_rate."
                )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_text(folder / SETTINGS_FILE, _settings_as_yaml(settings))
        write_text(folder / "README.md", model_card(settings, run, tokens, trained, total, chosen_step))
        write_json(folder / RUN_FILE, run)


def _write_and_merge(
    model: PeftModel, tokenizer: AnyTokenizer, settings: TrainingSettings, folder: Path
) -> PreTrainedModel:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to("cpu", copy=True)
    model.save_pretrained(folder)
    model.get_base_model().generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return merge_adapter(folder, settings.trust_remote_code)


def _mean_of_last_checkpoints(settings: TrainingSettings) -> Any:
    """Return the model whose weights are the mean of the last checkpoints', of all where there are fewer."""
    output = Path(settings.output_dir)
    whole = [path for step in steps_of(output) if is_complete(path := output / f"checkpoint-{step}")]
    with tempfile.TemporaryDirectory(prefix=".averaging-", dir=output) as folder:
        average_checkpoints(whole[-(settings.average_last_checkpoints or 1) :], Path(folder))
        return reopen_model(settings, folder)


def _pack(folder: Path, archive: Path) -> None:
    with atomic_path(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"{folder.name}/{path.name}")


def _settings_as_yaml(settings: TrainingSettings) -> str:
    text: str = yaml.safe_dump(settings.resolved(), allow_unicode=True, sort_keys=False)
    return "# The settings this model was trained with; itself a recipe.\n" + text
