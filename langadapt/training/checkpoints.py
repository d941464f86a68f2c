"""Which checkpoint to go on from, and whether it, or a finished model, belongs to this run: its `RUN_FILE` says."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from langadapt.errors import UserError
from langadapt.files import read_json_file, sha256_of
from langadapt.models import check_model_folder
from langadapt.recipe.training import TrainingSettings
from langadapt.training.data import BLOCKS_FORMAT
from langadapt.training.early_stopping import best_step, ended_early
from langadapt.training.saving import RUN_FILE, find_damage, sweep

Run = dict[str, Any]

_LENGTH = {"max_steps", "num_train_epochs"}
# What may change between a run and its continuation: where things go, and how often they are written.
_FREE = _LENGTH | {
    "output_dir",
    "dataset",  # its hash counts
    "model_name_or_path",  # its fingerprint counts
    "model",  # so do the content of its config and its tokenizer
    "deepspeed",  # its content counts
    "resume_from_checkpoint",
    "resume_despite",
    "report_to",
    "disable_tqdm",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "activation_checkpointing",  # memory for time, the same result
}
_FREE_PREFIXES = (
    "eval_",
    "per_device_eval_",
    "logging_",
    "log_level",
    "dataloader_num",
    "dataloader_p",
    "ddp_timeout",
)


def describe_run(settings: TrainingSettings, dataset_sha256: str, world_size: int) -> Run:
    """Return all that has to be the same for a checkpoint to be continued, as plain values."""
    return {
        "world_size": world_size,
        "dataset_sha256": dataset_sha256,
        "blocks_format": BLOCKS_FORMAT,  # an older version cut or ordered the same data otherwise
        "base_model": _start(settings),
        "deepspeed_config": read_json_file(settings.deepspeed) if settings.deepspeed else None,
        "settings": settings.model_dump(mode="json"),
    }


def is_finished(output_dir: str | Path, run: Run) -> bool:
    """Say whether the finished model of this very run stands in ``output_dir``."""
    folder = Path(output_dir)
    if not (folder / RUN_FILE).is_file() or not (folder / "config.json").is_file():
        return False
    done = read_json_file(folder / RUN_FILE)
    check_model_folder(folder)
    return not differences(done, run, _FREE - _LENGTH | {"blocks_format"})


def choose_checkpoint(settings: TrainingSettings, run: Run) -> Path | None:
    """Return the checkpoint folder to resume from, None to start at the beginning.

    Raises `UserError` when the checkpoint or a finished model in ``output_dir`` belongs to another run, naming what
    differs, and when the recipe asks to start anew where a run already is.
    """
    folder = Path(settings.output_dir)
    choice = settings.resume_from_checkpoint
    if choice is False:
        if steps_of(folder) or (folder / "config.json").exists():
            raise UserError(
                f"{folder}: holds a run already, and resume_from_checkpoint is false. Choose another output_dir, or "
                "delete that folder."
            )
        return None
    if isinstance(choice, str):
        checkpoint: Path | None = Path(choice)
        if not is_complete(Path(choice)):
            raise UserError(f"resume_from_checkpoint={choice}: no complete checkpoint ({RUN_FILE} is not there).")
        _require_newest(Path(choice), folder)
    else:
        complete = [step for step in steps_of(folder) if is_complete(folder / f"checkpoint-{step}")]
        checkpoint = folder / f"checkpoint-{max(complete)}" if complete else None
    allowed = _FREE | set(settings.resume_despite)
    if checkpoint is not None:
        _require_same_run(checkpoint, run, allowed)
    if checkpoint is not None and settings.early_stopping_patience is not None:
        best = best_step(checkpoint)
        if best is not None and not is_complete(folder / f"checkpoint-{best}"):
            raise UserError(
                f"{folder}: checkpoint-{best} is not there, where the evaluation loss was lowest up to {checkpoint}, "
                "and which may become the finished model. Copy it there."
            )
    if (folder / "config.json").exists():
        # A longer run goes on from a checkpoint; without one it would start anew and replace the model.
        _require_same_run(folder, run, allowed if checkpoint is not None else allowed - _LENGTH)
    return checkpoint


def require_whole(settings: TrainingSettings) -> None:
    """Raise `UserError` when the checkpoint that a recipe names is damaged; reads all of it."""
    named = settings.resume_from_checkpoint
    damage = find_damage(Path(named)) if isinstance(named, str) else None
    if damage is not None:
        raise UserError(f"resume_from_checkpoint={named}: damaged ({damage}). Name another, or take true.")


def reached_the_end(checkpoint: Path, run: Run) -> bool:
    """Say whether a checkpoint is the last one of its run, so that only the finished model is missing."""
    if run["settings"]["early_stopping_patience"] is not None and ended_early(checkpoint):
        return True
    state = read_json_file(checkpoint / "trainer_state.json")
    settings = read_json_file(checkpoint / RUN_FILE)["settings"]
    same_length = all(settings[key] == run["settings"][key] for key in _LENGTH)
    steps = state["max_steps"] if same_length else max(run["settings"]["max_steps"], 0) or float("inf")
    return bool(state["global_step"] >= steps)


def set_aside_damaged(output_dir: str | Path) -> list[str]:
    """Make the newest checkpoint one that is whole to the last byte; return one sentence about each that was not.

    Those are renamed, so that nothing takes them for whole. What a killed run was just writing is deleted.
    """
    folder, said = Path(output_dir), []
    sweep(folder)
    for step in reversed(steps_of(folder)):
        checkpoint = folder / f"checkpoint-{step}"
        damage = find_damage(checkpoint)
        if damage is None:
            break
        aside = folder / f"damaged-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(checkpoint, aside)
        said.append(f"{checkpoint} is damaged ({damage}); it is now {aside}, and may be deleted")
    return said


def differences(done: Run, run: Run, free: set[str]) -> list[str]:
    """Return what differs between two runs, one ``key: then, now`` each, leaving out the keys that are ``free``."""
    keys = [key for key in run if key != "settings" and done.get(key) != run[key] and key not in free]
    found = [f"{key}: {done.get(key)} then, {run[key]} now" for key in keys]
    for key in sorted(done["settings"].keys() & run["settings"].keys()):
        then, now = done["settings"][key], run["settings"][key]
        if then != now and key not in free and not key.startswith(_FREE_PREFIXES):
            found.append(f"{key}: {then} then, {now} now")
    return found


def steps_of(output_dir: Path) -> list[int]:
    """Return the N of every checkpoint-N folder, whole or not, in order."""
    if not output_dir.is_dir():
        return []
    matches = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in output_dir.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for match in matches if match)


def is_complete(checkpoint: Path) -> bool:
    """Say whether a folder is a checkpoint that was written to its end; `find_damage` looks at its files."""
    return (checkpoint / RUN_FILE).is_file()


def _require_newest(checkpoint: Path, output_dir: Path) -> None:
    """Raise `UserError` when going on from a checkpoint would leave later ones of an attempt given up among its own."""
    steps = steps_of(output_dir)
    if checkpoint.resolve().parent != output_dir.resolve() or checkpoint.name == f"checkpoint-{max(steps, default=0)}":
        return
    later = [f"checkpoint-{step}" for step in steps if step > int(checkpoint.name.partition("-")[2] or 0)]
    if later:
        raise UserError(
            f"resume_from_checkpoint={checkpoint}: {', '.join(later)} come after it. Move or delete them, then go on "
            "with resume_from_checkpoint=true; or copy the checkpoint and give another output_dir."
        )


def _require_same_run(folder: Path, run: Run, free: set[str]) -> None:
    if not (folder / RUN_FILE).is_file():
        raise UserError(f"{folder}: holds a model that this run did not make. Choose another output_dir.")
    done = read_json_file(folder / RUN_FILE)
    found = differences(done, run, free)
    if found:
        raise UserError(
            f"{folder}: belongs to a run that differs from this one:\n  "
            + "\n  ".join(found)
            + "\nStart with what it was made with (world_size is NPROC_PER_NODE x NNODES), choose another output_dir, "
            "delete the folder, or allow it by name, as in resume_despite=[learning_rate]."
        )
    if run["deepspeed_config"] and "files" in done and done["world_size"] != run["world_size"]:
        raise UserError(
            f"{folder}: each of its {done['world_size']} ranks saved its own part of the optimizer, which "
            f"{run['world_size']} ranks cannot read, whatever resume_despite allows. Start {done['world_size']} ranks."
        )


def _start(settings: TrainingSettings) -> str | dict[str, Any]:
    """Return what tells one start from another: a model's fingerprint, or what a new one is made of."""
    if settings.model is None:
        return fingerprint(str(settings.model_name_or_path))
    config = settings.model.config
    return {
        "config": config if isinstance(config, dict) else read_json_file(config),
        "tokenizer": sha256_of(Path(settings.model.tokenizer) / "tokenizer.json"),
    }


def fingerprint(model: str) -> str:
    """Return a hash of a model folder's weights, by size and both ends of every file; the name of a hub model."""
    if not Path(model).is_dir():
        return model
    digest = hashlib.sha256()
    for path in check_model_folder(model):
        size = path.stat().st_size
        with open(path, "rb") as handle:
            digest.update(f"{path.name} {size}".encode() + handle.read(2**20))
            handle.seek(max(0, size - 2**20))
            digest.update(handle.read())
    return digest.hexdigest()
