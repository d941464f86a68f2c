"""Whether a run fits into the memory that it is planned for, and which keys to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig

from langadapt.errors import UserError
from langadapt.models import find_model, load_tokenizer
from langadapt.models.building import new_config
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.costs import peak_of_gpu
from langadapt.training.kernels import choose_kernels
from langadapt.training.memory import Memory, fake_model, forecast_memory
from langadapt.training.sharding import zero_stage

GIB = 2**30
_NAMED = 4  # ways out that are told; each is a forecast of its own
_SHARDED = "deepspeed=configs/deepspeed/zero3.json"


@dataclass(frozen=True)
class Hardware:
    """What to plan for: ``ranks`` processes in all, one a GPU, or without ``gpu`` on the CPU.

    ``memory`` is the bytes a rank may use, ``gpu`` a name, empty for an unknown one, ``mfu`` the one to expect.
    ``elsewhere`` says that it is not this machine.
    """

    ranks: int
    memory: int
    gpu: str | None = None
    mfu: float | None = None
    elsewhere: bool = False

    @property
    def unit(self) -> str:
        """What a rank runs on, in a word."""
        return "rank" if self.gpu is None else "GPU"


def hardware_here(ranks_here: int, ranks: int, use_cpu: bool) -> Hardware:
    """Return what this machine has, of which ``ranks_here`` of the ``ranks`` processes are."""
    if torch.cuda.device_count() and not use_cpu:
        device = torch.cuda.get_device_properties(0)
        return Hardware(ranks, device.total_memory, device.name)
    return Hardware(ranks, _machine_memory() // ranks_here)


def planned_hardware(
    here: Hardware, gpus: int | None, gpu: str | None, gigabytes: float | None, mfu: float | None
) -> Hardware:
    """Return what is stated, and for the rest what is ``here``; ``gigabytes`` is in GiB a GPU.

    Raises `UserError` when GPUs are planned of which neither the memory is stated nor one is here.
    """
    if gpus is None and gpu is None and gigabytes is None:
        return replace(here, mfu=mfu)
    if gigabytes is None and here.gpu is None:
        raise UserError("how much memory has each of the GPUs to plan for? Say it in GiB: --gpu_memory 80.")
    if gpu is not None and peak_of_gpu(gpu) is None:
        raise UserError(f"--gpu {gpu}: not a GPU whose peak is known here. Leave it out, or name one as H100 or A100.")
    memory = here.memory if gigabytes is None else int(gigabytes * GIB)
    return Hardware(gpus or (here.ranks if here.gpu else 1), memory, gpu or here.gpu or "", mfu, elsewhere=True)


def reserve(memory: Memory) -> float:
    """Return the bytes to leave for what is not forecast: 1 GiB, or 5 % of the forecast where that is more.

    On a GPU CUDA's context, NCCL and the allocator's gaps; on the CPU the interpreter and the libraries.
    """
    return max(GIB, 0.05 * memory.peak)


def fits(memory: Memory, hardware: Hardware) -> bool:
    """Say whether a rank has the memory, with `reserve` left for what is not forecast."""
    return memory.peak + reserve(memory) <= hardware.memory


def ways_out(settings: TrainingSettings, config: str, overrides: Sequence[str], hardware: Hardware) -> Iterator[str]:
    """Yield the changes of keys that would make a run fit, the least invasive first, with what it would take then.

    Those that change nothing but speed come before those that change what is trained. Where none is enough by itself,
    the changes are taken together until they are.
    """
    together: list[str] = []
    found = 0
    for change in _changes(settings, hardware):
        forecast = _forecast_with(config, [*overrides, *change], hardware)
        if forecast is not None and fits(forecast, hardware):
            found += 1
            yield f"{' '.join(change)}: {gib(forecast.peak)}"
        if found == _NAMED:
            break
    if found:
        return
    for change in _changes(settings, hardware):
        if change[0].startswith("finetuning_type"):
            together = [key for key in together if not key.startswith(_SHARDED)]
        forecast = _forecast_with(config, [*overrides, *together, *change], hardware)
        if forecast is None:
            continue
        together += change
        if fits(forecast, hardware):
            yield f"{' '.join(together)}: {gib(forecast.peak)}, all together"
            return
    yield "nothing that a dry run knows: take a smaller model, or GPUs with more memory"


def _changes(settings: TrainingSettings, hardware: Hardware) -> Iterator[list[str]]:
    keys = settings.model_dump()
    size, accumulated = keys["per_device_train_batch_size"], keys["gradient_accumulation_steps"]
    if not keys["activation_checkpointing"]:
        yield ["activation_checkpointing=true"]
    if size > 1:
        yield ["per_device_train_batch_size=1", f"gradient_accumulation_steps={size * accumulated}"]
    if hardware.ranks > 1 and zero_stage(settings) < 3 and not keys["fsdp"]:
        yield [_SHARDED]
    if not settings.bf16:
        yield ["bf16=true"]
    if settings.deepspeed is None and "8bit" not in keys["optim"].value:
        yield ["optim=adamw_8bit"]
    yield [f"cutoff_len={settings.cutoff_len // 2}"]
    if settings.finetuning_type not in ("lora", "qlora"):
        yield ["finetuning_type=lora"]
    if settings.finetuning_type != "qlora":
        yield ["finetuning_type=qlora"]


def _forecast_with(config: str, overrides: Sequence[str], hardware: Hardware) -> Memory | None:
    """Return the forecast of a recipe under other keys, None where they contradict the others."""
    try:
        settings = load_training_settings(config, overrides)
        model = fake_model(settings, base_config(settings), choose_kernels(settings).attention)
    except UserError:
        return None
    return forecast_memory(settings, model, hardware.ranks, hardware.gpu is not None)


def base_config(settings: TrainingSettings) -> PreTrainedConfig:
    """Return the config of the model that training starts from; raises `UserError` where there is none."""
    if settings.model is not None:
        return new_config(settings.model.config, load_tokenizer(settings.tokenizer_source))
    name = str(settings.model_name_or_path)
    if not Path(name).exists():
        find_model(name)  # raises for what is no name of a model on the hub either
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=settings.trust_remote_code)
        if settings.vocabulary is not None:
            config.get_text_config().vocab_size += settings.vocabulary.new_tokens
        config.get_text_config().vocab_size += len(settings.new_languages)  # at most: some models have rows to spare
        return config
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: its config.json could not be read ({str(error).splitlines()[0]}). A dry run needs that "
            "file, but no weights; stage 1 fetches the model."
        ) from None


def _machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the control group that holds us."""
    limits = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            limits.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and group.read_text().strip().isdigit():
        limits.append(int(group.read_text()))
    return min(limits)


def gib(size: float) -> str:
    """Return a size as a person reads it."""
    return f"{size / GIB:.1f} GiB"
