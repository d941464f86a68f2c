"""What a run would do and need, before it is started: bash 2_train_cpt.sh CONFIG --dry_run [key=value ...].

The data is encoded as for a start, so that steps and tokens are exact; the model is only outlined, not loaded.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import torch

from langadapt.errors import UserError
from langadapt.files import check_vouched
from langadapt.recipe.training import TrainingSettings
from langadapt.training.checkpoints import choose_checkpoint, describe_run, is_finished
from langadapt.training.costs import (
    checkpoint_size,
    flops_of_step,
    flops_of_translations,
    pairs_of_translations,
    peak_flops,
    peak_of_gpu,
)
from langadapt.training.data import Tokens, pieces_a_record, prepare_tokens, tokens_folder
from langadapt.training.fitting import GIB, Hardware, base_config, fits, gib, reserve, ways_out
from langadapt.training.kernels import choose_kernels
from langadapt.training.memory import Memory, fake_model, forecast_memory
from langadapt.training.methods import count_parameters
from langadapt.training.packing import efficiency
from langadapt.training.preflight import check
from langadapt.training.progress import read_log
from langadapt.training.vocabulary import extend_tokenizer
from langadapt.training.vocabulary.languages import with_languages

_MFU = 0.4  # where none was stated or measured


@dataclass(frozen=True)
class Length:
    """How much a run trains on: optimizer steps and, over all ranks, tokens."""

    steps: int
    steps_an_epoch: int
    tokens: float


def dry_run(settings: TrainingSettings, config: str, overrides: Sequence[str], hardware: Hardware) -> None:
    """Print what the run would do and need on ``hardware``.

    Raises `UserError` at the end when a start would be refused, and when it would not fit, with the keys to change.
    """
    obstacles, tokens, beginning = [], None, None
    try:
        tokenizer = check(settings, config, planned=hardware.gpu is not None)
        dataset_sha256 = check_vouched(settings.dataset)
        if settings.vocabulary is not None:
            texts = settings.vocabulary.texts or settings.dataset
            check_vouched(texts)
            tokenizer, *_ = extend_tokenizer(tokenizer, settings.vocabulary, texts)
        if settings.new_languages:
            tokenizer = with_languages(tokenizer, settings.new_languages)
        folder = tokens_folder(settings, tokenizer, dataset_sha256)
        tokens = prepare_tokens(settings.dataset, settings, tokenizer, folder)
        beginning = _describe_beginning(settings, dataset_sha256, hardware)
    except UserError as error:
        obstacles.append(f"a start would stop at this:\n{error}")
    base, kernels = base_config(settings), choose_kernels(settings)
    stored = base.dtype or torch.float32  # what is made of it has its own
    model = fake_model(settings, base, kernels.attention)
    memory = forecast_memory(settings, model, hardware.ranks, hardware.gpu is not None)
    length = None if tokens is None else length_of(settings, tokens, hardware.ranks)

    trained, total = count_parameters(model, settings)
    where = _counted(hardware.ranks, hardware.unit) + (f" ({hardware.gpu})" if hardware.gpu else "")
    print(f"dry run of {config} for {where}; nothing is trained")
    _say("model", f"{settings.base_name}, {total:,} parameters, {trained:,} trained ({settings.finetuning_type})")
    _say("settings", *_wrapped(settings))
    if not hardware.elsewhere:
        _say("kernels", *kernels.missing)
    if beginning is not None:
        _say("start", beginning)
    _say("data", _describe_data(settings, tokens))
    if settings.stage == "dpo":
        _say("loss", settings.describe_loss())
    _say("batch", _describe_batch(settings, tokens, length, hardware))
    if tokens is not None and length is not None:
        _say("steps", f"{length.steps:,}, {length.steps_an_epoch:,} an epoch; {length.tokens:,.0f} tokens in all")
        _say("time", *_describe_time(settings, model, tokens, length, hardware))
    made = total * stored.itemsize if settings.extends_base else 0
    enough_disk = _say_disk(settings, model, total, length, made) or hardware.elsewhere
    _say("memory", *_table(memory, hardware))

    if not fits(memory, hardware):
        changes = "\n".join(f"  {line}" for line in ways_out(settings, config, overrides, hardware))
        obstacles.append(f"it will not fit into the memory. What would, by itself unless said otherwise:\n{changes}")
    if not enough_disk:
        obstacles.append("it will not fit on the disk. Lower save_total_limit, or choose an output_dir on another one.")
    if obstacles:
        raise UserError("\n".join(obstacles))


def length_of(settings: TrainingSettings, tokens: Tokens, ranks: int) -> Length:
    """Return how long a run is, as Trainer counts it: every rank takes as many batches, the last of them short."""
    keys = settings.model_dump()
    blocks = len(tokens.blocks) - 1
    together = keys["per_device_train_batch_size"] * ranks
    batches = blocks // together if keys["dataloader_drop_last"] else math.ceil(blocks / together)
    steps_an_epoch = max(1, math.ceil(batches / keys["gradient_accumulation_steps"]))  # one where all is dropped
    steps = keys["max_steps"] if keys["max_steps"] > 0 else math.ceil(keys["num_train_epochs"] * steps_an_epoch)
    return Length(steps, steps_an_epoch, steps / steps_an_epoch * len(tokens.ids))


def _say(name: str, *lines: str) -> None:
    for number, line in enumerate(lines):
        print(f"{name if number == 0 else '':10}{line}", flush=True)


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _describe_beginning(settings: TrainingSettings, dataset_sha256: str, hardware: Hardware) -> str | None:
    """Return where a start would begin, None where that is not known here; raises `UserError` if it would refuse."""
    if hardware.elsewhere or settings.extends_base:  # a run is known by its base, which is still to be made
        return None
    run = describe_run(settings, dataset_sha256, hardware.ranks)
    if settings.resume_from_checkpoint is True and is_finished(settings.output_dir, run):
        return f"nothing to do: {settings.output_dir} holds the finished model of this run"
    checkpoint = choose_checkpoint(settings, run)
    return "at the beginning" if checkpoint is None else f"it would go on from {checkpoint}"


def _wrapped(settings: TrainingSettings) -> list[str]:
    default = {
        name: field.get_default(call_default_factory=True) for name, field in type(settings).model_fields.items()
    }
    chosen = [f"{key}={value}" for key, value in settings.resolved().items() if value != default[key]]
    return textwrap.wrap(" ".join(chosen), 100, break_long_words=False, break_on_hyphens=False)


def _describe_data(settings: TrainingSettings, tokens: Tokens | None) -> str:
    if tokens is None:
        return f"{settings.dataset}: not ready; tokens and steps are unknown"
    if settings.stage == "dpo":
        return (
            f"{_counted(tokens.counts.records, 'pair')} of a chosen and a rejected answer, {len(tokens.ids):,} tokens, "
            f"{tokens.counts.learned:,} of them in answers"
        )
    if settings.stage == "seq2seq":
        return (
            f"{_counted(len(tokens.pieces) - 1, 'translation')}, {len(tokens.ids):,} tokens, "
            f"{tokens.counts.learned:,} of them target tokens"
        )
    return (
        f"{_counted(tokens.counts.records, 'record')}, {len(tokens.ids):,} tokens, "
        f"{_counted(len(tokens.blocks) - 1, 'block')} of up to {settings.cutoff_len:,}, "
        f"{efficiency(tokens, settings.cutoff_len):.1%} filled"
    )


def _describe_batch(
    settings: TrainingSettings, tokens: Tokens | None, length: Length | None, hardware: Hardware
) -> str:
    keys = settings.model_dump()
    size, accumulated = keys["per_device_train_batch_size"], keys["gradient_accumulation_steps"]
    blocks = size * accumulated * hardware.ranks
    where = _counted(hardware.ranks, hardware.unit)
    unit = {"dpo": "pair", "seq2seq": "translation"}.get(settings.stage, "block")
    sides = 2 if settings.stage == "seq2seq" else pieces_a_record(settings)
    most = blocks * sides * settings.cutoff_len
    real = f"{length.tokens / length.steps:,.0f}" if length else f"at most {most:,}"
    return f"{size} x {accumulated} accumulated x {where} = {_counted(blocks, unit)}, {real} tokens a step"


def flops_of_epoch(settings: TrainingSettings, model: Any, tokens: Tokens) -> float:
    """Return the floating-point operations that training on all tokens once needs, over all ranks."""
    sizes = np.diff(tokens.pieces)
    if settings.stage == "seq2seq":
        targets = tokens.target_lengths()
        pairs = pairs_of_translations(model, sizes - targets, targets)
        return flops_of_translations(model, *(float(part.sum()) for part in (sizes - targets, targets, pairs)))
    if settings.packing == "joined":
        sizes = tokens.block_lengths()
    return flops_of_step(model, int(sizes.sum()), int((sizes * (sizes + 1) // 2).sum()))


def _describe_time(
    settings: TrainingSettings, model: Any, tokens: Tokens, length: Length, hardware: Hardware
) -> list[str]:
    """Return how long the arithmetic takes at an MFU, and where that comes from."""
    flops = flops_of_epoch(settings, model, tokens) * length.steps / length.steps_an_epoch
    if hardware.gpu is None:
        dtype = torch.bfloat16 if settings.bf16 else torch.float32
        peak = peak_flops(torch.device("cpu"), dtype)  # of the whole machine, whose cores the ranks share
    elif (peak := peak_of_gpu(hardware.gpu)) is not None:
        peak *= hardware.ranks
    if peak is None:
        return [f"unknown: {flops:.3g} operations on GPUs whose peak is not known here; name one with --gpu"]
    logged = [record["mfu"] for record in read_log(settings.output_dir) if record.get("mfu")]
    if hardware.mfu is not None:
        mfu, source = hardware.mfu, "as stated"
    elif logged:
        mfu, source = statistics.median(logged), f"as logged in {settings.output_dir}"
    else:
        mfu, source = _MFU, "an assumption; state another with --mfu"
    spent = timedelta(seconds=round(flops / (peak * mfu)))
    return [f"{spent} for {flops:.3g} operations at {mfu:.0%} of {peak / 1e12:,.3g} TFLOP/s ({source})"]


def _say_disk(settings: TrainingSettings, model: Any, total: int, length: Length | None, made: int) -> bool:
    """Say what a run writes, with a base of ``made`` bytes first; return whether the disk has that."""
    keys = settings.model_dump()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    one = checkpoint_size(model, settings.deepspeed is not None) + (4 * trained if settings.ema_decay else 0)
    finished: int = total * getattr(torch, settings.saved_dtype).itemsize
    extended = f"{_gb(made)} the extended base, " if made else ""
    when = keys["save_strategy"].value
    count = 0 if when == "no" else math.inf
    if when == "steps" and length is not None:
        every = keys["save_steps"] if keys["save_steps"] >= 1 else math.ceil(keys["save_steps"] * length.steps)
        count = math.ceil(length.steps / every)
    elif when == "epoch" and length is not None:
        count = math.ceil(length.steps / length.steps_an_epoch)
    if keys["save_total_limit"]:
        best = settings.early_stopping_patience is not None  # is kept beside the last
        count = min(count, keys["save_total_limit"] + 1 + best)  # an old one goes when the new one is whole
    folder = next(path for path in (Path(settings.output_dir), *Path(settings.output_dir).parents) if path.is_dir())
    free = disk_usage(folder).free
    if math.isinf(count):
        _say("disk", f"{extended}{_gb(one)} a checkpoint, {_gb(finished)} the model; {_gb(free)} are free here")
        return made + one + finished <= free
    needed = made + int(count) * one + finished
    checkpoints = f"up to {_counted(int(count), 'checkpoint')} of {_gb(one)} at a time, " if count else ""
    _say("disk", f"{_gb(needed)}: {extended}{checkpoints}{_gb(finished)} the model; {_gb(free)} are free here")
    return needed <= free


def _table(memory: Memory, hardware: Hardware) -> Iterator[str]:
    phases = (memory.forward_and_backward, memory.optimizer_step)
    yield f"{'GiB a ' + hardware.unit:16}{'forward, backward':>18}{'optimizer step':>16}"
    names = ("weights", "gradients", "optimizer", "moving average", "reference", "activations", "logits", "temporary")
    for name in names:
        if any(phase.get(name) for phase in phases):
            yield f"{name:16}" + "".join(
                f"{phase.get(name, 0) / GIB:{width}.2f}" for phase, width in zip(phases, (18, 16), strict=True)
            )
    yield f"{'together':16}" + "".join(
        f"{sum(phase.values()) / GIB:{width}.2f}" for phase, width in zip(phases, (18, 16), strict=True)
    )
    beside = "the libraries" if hardware.gpu is None else "CUDA's context, NCCL and gaps between tensors"
    verdict = "fits" if fits(memory, hardware) else "does not fit"
    yield f"{verdict} into {gib(hardware.memory)}, {gib(reserve(memory))} of it left for {beside}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
