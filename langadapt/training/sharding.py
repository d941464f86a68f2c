"""Models that no rank holds whole: ZeRO stage 3 and FSDP2 take every weight apart and gather it where it is used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.recipe.training import TrainingSettings
from langadapt.training.methods import reopen_model
from langadapt.training.saving import STAGING

_ZERO3 = "configs/deepspeed/zero3.json"


def zero_stage(settings: TrainingSettings) -> int:
    """Return the stage of ZeRO that the DeepSpeed JSON of a recipe asks for, 0 for none.

    Raises `UserError` for a JSON that asks for none of 1 to 3, or for a stage 3 that could not save whole weights.
    """
    if settings.deepspeed is None:
        return 0
    zero = read_json_object(settings.deepspeed).get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else None
    if stage not in (1, 2, 3):
        raise UserError(
            f"{settings.deepspeed}: expected `zero_optimization` with a `stage` from 1 to 3. Use "
            f"configs/deepspeed/zero2.json or {_ZERO3}."
        )
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        raise UserError(
            f"{settings.deepspeed}: stage 3 saves whole weights only with "
            f"`stage3_gather_16bit_weights_on_model_save`: true, as in {_ZERO3}."
        )
    return int(stage)


def is_sharded(settings: TrainingSettings) -> bool:
    """Say whether no rank holds whole weights."""
    return zero_stage(settings) == 3 or settings.fsdp


def gather_model(trainer: Any, settings: TrainingSettings) -> Any:
    """Return the whole trained model on rank 0, by way of the disk, and None elsewhere; every rank has to call it."""
    folder = Path(settings.output_dir) / STAGING / "gathered"
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if not trainer.args.should_save:
        return None
    unset_hf_deepspeed_config()  # else what is loaded would be taken apart again
    model = reopen_model(settings, folder)
    shutil.rmtree(folder.parent)
    return model
