"""python -m langadapt.training.launch CONFIG [key=value ...]: check, prepare the data, start one process a GPU.

What 2_train_cpt.sh and 3_train_sft.sh run. Without a GPU it starts NPROC_PER_NODE processes (default 1) on the CPU. On
several machines run it on each with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, as with torchrun. On SIGTERM or
SIGUSR1 the run saves and ends with exit code 75: run again, it goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from langadapt.errors import UserError, run_command
from langadapt.files import check_vouched, lock
from langadapt.recipe.command_line import describe_keys
from langadapt.recipe.training import SETTINGS, TrainingSettings, load_training_settings
from langadapt.training.checkpoints import (
    choose_checkpoint,
    describe_run,
    is_finished,
    require_whole,
    set_aside_damaged,
)
from langadapt.training.data import AnyTokenizer, evaluation_tokens_folder, prepare_tokens, tokens_folder
from langadapt.training.packing import describe, show_block
from langadapt.training.progress import announce
from langadapt.training.stopping import EXIT_REQUEUE, LAUNCHER, pass_on_stop_signals, requeue_when_asked

_PATIENCE = 3600  # seconds that the other machines wait for the first
_RANK = "langadapt.training"  # the module that each rank runs


def main() -> None:
    """Launch the run that the command line describes."""
    parser = argparse.ArgumentParser(
        description="Train a model as a recipe says, on every GPU of this machine, or on the CPU.",
        epilog=describe_keys(SETTINGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="recipe, e.g. configs/quickstart/cpt.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, e.g. seed=1")
    parser.add_argument("--dry_run", action="store_true", help="say what the run would do and need; train nothing")
    planned = parser.add_argument_group("with --dry_run, what to plan for in place of this machine")
    planned.add_argument("--gpus", type=_count, metavar="N", help="GPUs, of all machines")
    planned.add_argument("--gpu", metavar="NAME", help="which, as H100: for the time it takes")
    planned.add_argument("--gpu_memory", type=partial(_number, most=10_000), metavar="GIB", help="what each has")
    planned.add_argument(
        "--mfu", type=partial(_number, most=1), help="share of its peak that training will reach, as 0.4"
    )
    arguments = parser.parse_intermixed_args()
    plan = (arguments.gpus, arguments.gpu, arguments.gpu_memory, arguments.mfu)
    if not arguments.dry_run and any(part is not None for part in plan):
        parser.error("--gpus, --gpu, --gpu_memory and --mfu only plan: they take --dry_run")
    config, overrides = arguments.config, arguments.overrides
    requeue_when_asked()
    settings = load_training_settings(config, overrides)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said out loud, or it warns about every process started
    ranks, nodes = _ranks_here(settings, announced=not arguments.dry_run), _from_environment("NNODES", 1)
    # Imports the Trainer, and with it DeepSpeed, which looks for its device at once: `_ranks_here` has settled that.
    from langadapt.training.preflight import check

    if arguments.dry_run:
        from langadapt.training.dry_run import dry_run
        from langadapt.training.fitting import hardware_here, planned_hardware

        here = hardware_here(ranks, ranks * nodes, settings.use_cpu)
        hardware = planned_hardware(here, *plan)
        dry_run(settings, config, overrides, hardware)
        return
    tokenizer = check(settings, config)
    if settings.extends_base:
        overrides = [
            *overrides,
            f"model_name_or_path={_extended_base(settings)}",
            *(["vocabulary=null"] if settings.vocabulary is not None else ["new_languages={}"]),
        ]
        settings = load_training_settings(config, overrides)
        tokenizer = check(settings, config)
    dataset_sha256 = check_vouched(settings.dataset)
    run = describe_run(settings, dataset_sha256, ranks * nodes)
    if settings.resume_from_checkpoint is True and is_finished(settings.output_dir, run):
        print(f"{settings.output_dir}: this run is finished already; nothing to do.")
        return
    with open(Path(settings.output_dir) / ".lock", "ab") as held:
        if _from_environment("NODE_RANK", 0) == 0:
            lock(held, settings.output_dir)
            for sentence in set_aside_damaged(settings.output_dir):
                print(sentence)
        choose_checkpoint(settings, run)
        require_whole(settings)
        announce(1, f"checked: the recipe {config}, its data, {settings.base_name} and {settings.output_dir}")
        _prepare_data(settings, tokenizer, dataset_sha256)
        _start(config, overrides, ranks, nodes)
    if not is_finished(settings.output_dir, run):
        sys.exit(EXIT_REQUEUE)


def _prepare_data(settings: TrainingSettings, tokenizer: AnyTokenizer, dataset_sha256: str) -> None:
    """Encode and pack what is trained on and evaluated on, unless it is there, and say what it is."""
    announce(2, f"data: encoding {settings.dataset}")
    tokens = prepare_tokens(settings.dataset, settings, tokenizer, tokens_folder(settings, tokenizer, dataset_sha256))
    for sentence in describe(tokens, settings.cutoff_len, settings.packing):
        print(f"  {sentence}")
    print(f"  the first block, «not learned»:\n{show_block(tokens, tokenizer)}", flush=True)
    if settings.eval_dataset is not None:
        prepare_tokens(settings.eval_dataset, settings, tokenizer, evaluation_tokens_folder(settings, tokenizer))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 on")
    return int(text)


def _number(text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0, at most {most:,}")
    return number


def _extended_base(settings: TrainingSettings) -> Path:
    """Return the folder of the base model with more vocabulary; the first machine makes it, if it is not there yet."""
    from langadapt.training.vocabulary import LANGUAGES_FILE, VOCABULARY_FILE, extend_languages, extend_vocabulary

    folder = Path(settings.output_dir) / "extended_base"
    last = LANGUAGES_FILE if settings.vocabulary is None else VOCABULARY_FILE
    if _from_environment("NODE_RANK", 0) > 0:
        print(f"waiting for {folder}", flush=True)
        since = time.monotonic()
        while not (folder / last).is_file():
            if time.monotonic() - since > _PATIENCE:
                raise UserError(f"{folder} is still not there; look at what the first machine (NODE_RANK=0) said.")
            time.sleep(5)
    if settings.vocabulary is None:
        base = str(settings.model_name_or_path)
        return extend_languages(base, settings.new_languages, settings.language_tokens, folder)
    extend_vocabulary(
        str(settings.model_name_or_path),
        settings.vocabulary,
        settings.dataset,
        folder,
        trust_remote_code=settings.trust_remote_code,
        use_cpu=settings.use_cpu,
    )
    torch.cuda.empty_cache()
    return folder


def _ranks_here(settings: TrainingSettings, announced: bool) -> int:
    """Return how many processes to start on this machine, and make it known when they train on the CPU."""
    gpus = 0 if settings.use_cpu else torch.cuda.device_count()
    ranks = _from_environment("NPROC_PER_NODE", gpus or 1)
    if gpus and ranks > gpus:
        raise UserError(f"NPROC_PER_NODE is {ranks}, but only {gpus} GPUs are visible. Lower it, or set use_cpu=true.")
    if not gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"
        if announced:
            print(f"training on the CPU, {ranks} rank{'s' if ranks > 1 else ''}")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    return ranks


def _start(config: str, overrides: list[str], ranks: int, nodes: int) -> None:
    """Run `langadapt.training` under torchrun; end with the exit code of the rank that failed first, if one does."""
    where = [f"--nproc-per-node={ranks}", f"--nnodes={nodes}", "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT"]
    for variable in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if nodes > 1 and variable in os.environ:
            where.append(f"--{variable.lower().replace('_', '-')}={os.environ[variable]}")
    os.environ[LAUNCHER] = str(os.getpid())
    asked_to_stop = pass_on_stop_signals(_RANK)
    try:
        torchrun([*where, "--module", _RANK, config, *overrides])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        # A rank that was asked to stop before it could listen was ended by the signal, before its first step.
        sys.exit(EXIT_REQUEUE if asked_to_stop.is_set() and code < 0 else abs(code) or 1)
    except SignalException as error:
        print("stopped; the same command goes on from the last complete checkpoint", file=sys.stderr)
        sys.exit(128 + error.sigval)


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or (int(text) == 0 and name != "NODE_RANK"):
        raise UserError(f"the environment variable {name} is {text!r}: expected a number.")
    return int(text)


if __name__ == "__main__":
    run_command(main)
