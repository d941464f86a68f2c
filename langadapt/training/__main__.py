"""One rank of stage 2 or 3: python -m langadapt.training CONFIG [key=value ...], as `launch` starts it."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils.logging import disable_progress_bar

from langadapt.errors import EXIT_USER_ERROR, UserError, run_command
from langadapt.files import check_vouched
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.arguments import training_arguments
from langadapt.training.averaging import MovingAverage, put_average, read_moving_average
from langadapt.training.checkpoints import Run, choose_checkpoint, describe_run, reached_the_end
from langadapt.training.data import (
    AnyTokenizer,
    Tokens,
    delete_tokens,
    evaluation_tokens_folder,
    open_tokens,
    tokens_folder,
)
from langadapt.training.early_stopping import EarlyStopping, best_step
from langadapt.training.export import export_model
from langadapt.training.kernels import Kernels, choose_kernels
from langadapt.training.methods import count_parameters, prepare_model, reopen_model
from langadapt.training.packing import Blocks, Collator
from langadapt.training.preflight import check
from langadapt.training.progress import ProgressLog, announce
from langadapt.training.sharding import gather_model, is_sharded
from langadapt.training.stopping import end_with_launcher, note_stop_signals
from langadapt.training.trainer import AdaptationTrainer
from langadapt.training.translation_trainer import TranslationTrainer
from langadapt.training.translations import TranslationCollator, Translations

RANK = int(os.environ.get("RANK", 0))

# DeepSpeed still calls these by their old names, several times a step.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def main() -> None:
    """Train the model of the recipe on the command line, from its last checkpoint where there is one."""
    disable_progress_bar()  # one for every file read or written
    end_with_launcher()
    asked_to_stop = note_stop_signals()
    config, overrides = sys.argv[1], sys.argv[2:]
    settings = load_training_settings(config, overrides)
    tokenizer = check(settings, config)
    kernels = choose_kernels(settings)
    arguments = training_arguments(
        settings,
        use_cpu=settings.use_cpu or not torch.cuda.is_available(),
        torch_compile=kernels.compile,
        use_liger_kernel=kernels.liger,
    )

    dataset_sha256 = check_vouched(settings.dataset)
    run = describe_run(settings, dataset_sha256, arguments.world_size)
    checkpoint = choose_checkpoint(settings, run)
    tokens = open_tokens(tokens_folder(settings, tokenizer, dataset_sha256))
    if isinstance(tokenizer, TranslationTokenizer):
        tokenizer.directions = sorted(tokens.counts.directions)

    model: Any
    if checkpoint is not None and reached_the_end(checkpoint, run):
        unset_hf_deepspeed_config()  # else what is opened would be taken apart again
        model = reopen_model(settings, checkpoint) if RANK == 0 else None
        if settings.ema_decay is not None and RANK == 0:
            put_average(model, read_moving_average(checkpoint))
        chosen = None if settings.early_stopping_patience is None else best_step(checkpoint)
        _say(f"{checkpoint} is the last step; only the finished model is missing")
    else:
        trainer = _build_trainer(settings, tokenizer, arguments, kernels, tokens, run, asked_to_stop)
        model = trainer.model
        average = None
        if settings.ema_decay is not None and RANK == 0:
            average = MovingAverage(model, settings.ema_decay, checkpoint)
            trainer.add_callback(average)
            trainer.companions.append(average.save)
        early_stopping = None
        if settings.early_stopping_patience is not None:
            early_stopping = EarlyStopping(trainer, settings.early_stopping_patience, checkpoint)
            trainer.add_callback(early_stopping)
            trainer.companions.append(early_stopping.save)
        _train(trainer, settings, checkpoint)
        ended_early = early_stopping is not None and early_stopping.ended
        if trainer.stopped and trainer.state.global_step < trainer.state.max_steps and not ended_early:
            _say(f"stopped after step {trainer.state.global_step}, as asked; the same command goes on from there")
            _leave(arguments)
            return
        if average is not None:
            put_average(model, average.average)
        chosen = None if early_stopping is None else early_stopping.best_step
        if is_sharded(settings) and chosen is None:
            model = gather_model(trainer, settings)

    if chosen is not None:
        _say(f"the evaluation loss was lowest at step {chosen}, whose checkpoint becomes the finished model")
        unset_hf_deepspeed_config()
        model = reopen_model(settings, Path(settings.output_dir) / f"checkpoint-{chosen}") if RANK == 0 else None
    _announce(6, f"writing the model to {settings.output_dir}")
    if RANK == 0:
        export_model(model, tokenizer, settings, run, tokens, chosen)
        delete_tokens(settings.output_dir)
    _leave(arguments)


def _build_trainer(
    settings: TrainingSettings,
    tokenizer: AnyTokenizer,
    arguments: TrainingArguments,
    kernels: Kernels,
    tokens: Tokens,
    run: Run,
    asked_to_stop: threading.Event,
) -> AdaptationTrainer:
    """Open the model as its method trains it, say what is trained, and return its trainer."""
    _announce(3, f"model: {settings.base_name}, finetuning_type: {settings.finetuning_type}")
    model = prepare_model(settings, tokenizer, arguments.device, kernels.attention)
    trained, total = count_parameters(model, settings)
    for sentence in kernels.missing:
        _say(f"  {sentence}")
    if (used := model.config._attn_implementation) != kernels.attention and settings.attn_implementation != "auto":
        _say(f"  attn_implementation: {kernels.attention} does not suit this model; using {used}")
    _say(f"  trainable parameters: {trained:,} of {total:,} ({100 * trained / total:.2f} %)")
    rules: dict[str, Any] = {
        "run": run,
        "asked_to_stop": asked_to_stop,
        "max_skipped_steps": settings.max_skipped_steps,
    }
    if settings.stage == "dpo":
        trainer = _preference_trainer(settings, tokenizer, model, arguments, rules)
    else:
        kind: type[AdaptationTrainer] = AdaptationTrainer
        collator: Collator | TranslationCollator
        if isinstance(tokenizer, TranslationTokenizer):
            kind = TranslationTrainer
            collator = TranslationCollator(model.config.pad_token_id, model.config.decoder_start_token_id)
        else:
            collator = Collator(_pad_token_id(tokenizer), kernels.wants_flat_batches)
        trainer = kind(
            **rules,
            model=model,
            args=arguments,
            train_dataset=_examples(tokens, settings),
            eval_dataset=_evaluation_examples(settings, tokenizer),
            data_collator=collator,
            processing_class=tokenizer,
        )
    if trainer.loss_obstacle is not None:
        _say(f"  the loss holds the logits of all tokens: {trainer.loss_obstacle}")
    if isinstance(model, PeftModel):
        trainer.companions.append(model.get_base_model().generation_config.save_pretrained)
    return trainer


def _preference_trainer(
    settings: TrainingSettings, tokenizer: AnyTokenizer, model: Any, arguments: TrainingArguments, rules: dict[str, Any]
) -> AdaptationTrainer:
    from langadapt.training.preferences import preference_trainer  # TRL takes seconds to load

    assert isinstance(tokenizer, PreTrainedTokenizerBase), "preferences are of chat models"
    folders = {
        "train": tokens_folder(settings, tokenizer, rules["run"]["dataset_sha256"]),
        "eval": evaluation_tokens_folder(settings, tokenizer) if settings.eval_dataset else None,
    }
    return preference_trainer(settings, tokenizer, model, arguments, folders, _pad_token_id(tokenizer), **rules)


def _train(trainer: AdaptationTrainer, settings: TrainingSettings, checkpoint: Path | None) -> None:
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if RANK == 0:
        trainer.add_callback(ProgressLog(settings.output_dir, "pairs" if settings.stage == "dpo" else "blocks"))
    if checkpoint is not None:
        _say(f"resuming from {checkpoint}")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _examples(tokens: Tokens, settings: TrainingSettings) -> Blocks | Translations:
    return Translations(tokens) if settings.stage == "seq2seq" else Blocks(tokens, settings.packing)


def _evaluation_examples(settings: TrainingSettings, tokenizer: AnyTokenizer) -> Blocks | Translations | None:
    if settings.eval_dataset is None:
        return None
    return _examples(open_tokens(evaluation_tokens_folder(settings, tokenizer)), settings)


def _leave(arguments: TrainingArguments) -> None:
    """Wait for all ranks: the first that ends takes the others with it."""
    if arguments.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return any valid id: padding is neither learned nor seen."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in ids if token is not None)


def _say(text: str) -> None:
    if RANK == 0:
        print(text, flush=True)


def _announce(number: int, text: str) -> None:
    if RANK == 0:
        announce(number, text)


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


def _end_rank() -> None:
    """Run and end this rank, one of several without Python's own teardown.

    Gloo's threads outlive the process group, since DDP and DeepSpeed still refer to it, and one that lets go of a
    tensor while Python is torn down aborts the rank, whatever its exit code was to be.
    """
    code: str | int | None = 0
    try:
        run_command(_run_rank)
    except SystemExit as ended:
        code = ended.code
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads of trackers
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _end_rank()
