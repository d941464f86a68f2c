"""One rank of stage 2 or 3: python -m langadapt.training CONFIG [key=value ...], as `launch` starts it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from langadapt.errors import EXIT_USER_ERROR, UserError, run_command
from langadapt.files import check_vouched
from langadapt.models import load_model, stop_token_ids
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.checkpoints import choose_checkpoint, describe_run, reached_the_end
from langadapt.training.data import Tokens, prepare_tokens, tokens_folder
from langadapt.training.export import export_model
from langadapt.training.packing import Collator, Conversations, PackedBlocks
from langadapt.training.preflight import check
from langadapt.training.progress import ProgressLog
from langadapt.training.trainer import AdaptationTrainer, training_arguments

RANK = int(os.environ.get("RANK", 0))


def main() -> None:
    """Train the model of the recipe on the command line, from its last checkpoint where there is one."""
    disable_progress_bar()  # one for every file read or written
    config, overrides = sys.argv[1], sys.argv[2:]
    settings = load_training_settings(config, overrides)
    tokenizer = check(settings, config)
    arguments = training_arguments(settings, use_cpu=settings.use_cpu or not torch.cuda.is_available())

    dataset_sha256 = check_vouched(settings.dataset)
    run = describe_run(settings, dataset_sha256, arguments.world_size)
    checkpoint = choose_checkpoint(settings, run)
    folder = tokens_folder(settings, tokenizer, dataset_sha256)
    with arguments.main_process_first(desc="encoding the data"):
        tokens = prepare_tokens(settings, tokenizer, folder)
    if RANK == 0:
        _describe_data(settings, tokenizer, tokens)

    if checkpoint is not None and reached_the_end(checkpoint, run):
        model = load_model(str(checkpoint), trust_remote_code=settings.trust_remote_code)
        _say(f"{checkpoint} is the last step; writing the finished model")
    else:
        model = _load_base(settings, tokenizer, arguments)
        trainer = AdaptationTrainer(
            run=run,
            model=model,
            args=arguments,
            train_dataset=PackedBlocks(tokens, settings.cutoff_len)
            if settings.stage == "pt"
            else Conversations(tokens),
            data_collator=Collator(_pad_token_id(tokenizer)),
            processing_class=tokenizer,
        )
        if trainer.loss_obstacle is not None:
            _say(f"the loss holds the logits of all tokens: {trainer.loss_obstacle}")
        _train(trainer, settings, checkpoint)

    if RANK == 0:
        export_model(model, tokenizer, settings, run, tokens)
        shutil.rmtree(folder)
        _say(f"the model is in {settings.output_dir}")
    if arguments.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _load_base(
    settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase, arguments: TrainingArguments
) -> PreTrainedModel:
    """Load the model in float32 to train; under DeepSpeed in bf16, from which ZeRO makes its own float32 masters."""
    dtype = torch.bfloat16 if settings.deepspeed and settings.bf16 else torch.float32
    model = load_model(settings.model_name_or_path, dtype, trust_remote_code=settings.trust_remote_code)
    if settings.stage == "sft":
        model.generation_config.eos_token_id = stop_token_ids(tokenizer, model.generation_config, chat=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    _say(f"{settings.model_name_or_path}: {parameters:,} parameters, all trained; {batch} sequences an optimizer step")
    return model


def _train(trainer: AdaptationTrainer, settings: TrainingSettings, checkpoint: Path | None) -> None:
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if RANK == 0:
        trainer.add_callback(ProgressLog(settings.output_dir))
    if checkpoint is not None:
        _say(f"resuming from {checkpoint}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _describe_data(settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> None:
    """Say what is trained on, and for sft show what the model sees of the first record, «what it does not learn»."""
    learned = int(tokens.learned.sum())
    _say(f"{settings.dataset}: {len(tokens.ends):,} records, {len(tokens.ids):,} tokens, {learned:,} learned")
    if tokens.skipped:
        _say(f"{tokens.skipped:,} records are longer than cutoff_len={settings.cutoff_len} and were left out")
    if settings.stage == "sft":
        ids, mask = tokens.ids[: tokens.ends[0]], tokens.learned[: tokens.ends[0]]
        runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(mask)) + 1)
        parts = [(tokenizer.decode(ids[run]), mask[run[0]]) for run in runs]
        _say("first record: " + "".join(text if is_learned else f"«{text}»" for text, is_learned in parts))


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return any valid id: padding is neither learned nor seen."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in ids if token is not None)


def _say(text: str) -> None:
    if RANK == 0:
        print(text, flush=True)


def _run_rank() -> None:
    """Run `main`, so that what all ranks run into is said once, and what one runs into is said by that one."""
    try:
        main()
    except UserError:
        if RANK == 0:
            raise
        time.sleep(5)  # the first rank that ends takes the others with it; let rank 0 speak
        sys.exit(EXIT_USER_ERROR)
    except Exception as error:
        message = _describe_failure(error)
        if message is None:
            raise
        print(f"error: rank {RANK}: {message}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)


def _describe_failure(error: Exception) -> str | None:
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory is full. Lower per_device_train_batch_size (and raise gradient_accumulation_steps by as "
            "much), lower cutoff_len, set activation_checkpointing: true, or train on more GPUs with ZeRO-2."
        )
    # torch.save and safetensors report a full disk each in their own way.
    full = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")
    if any(words in str(error) for words in full):
        return (
            "no space left on the disk. Free some (old checkpoint-N folders; save_total_limit keeps fewer) and run the "
            "same command again: it resumes from the last complete checkpoint."
        )
    return None


if __name__ == "__main__":
    run_command(_run_rank)
