"""What is trained: every weight, an adapter beside them, the rows of the vocabulary, or some layers.

Trained weights are float32 and frozen ones in the run's own precision; under DeepSpeed all are in the run's precision,
since it keeps float32 copies of the trained ones itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models import load_model, stop_token_ids
from langadapt.models.adapters import open_adapter
from langadapt.models.building import new_model
from langadapt.models.folder import first_line, is_adapter
from langadapt.models.loading import device_map
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.methods import ADAPTERS
from langadapt.recipe.training import TrainingSettings
from langadapt.training.attention import set_attention
from langadapt.training.costs import size_of
from langadapt.training.vocabulary import VOCABULARY_FILE


def check_method(settings: TrainingSettings, sharded: bool) -> None:
    """Raise `UserError` for what the method lacks, before a model is loaded.

    ``sharded`` says that no rank holds whole weights (ZeRO stage 3, FSDP).
    """
    if settings.model_name_or_path is not None and is_adapter(settings.model_name_or_path):
        raise UserError(
            f"{settings.model_name_or_path}: an adapter, not a model. Give the finished model, which it is merged into."
        )
    if settings.finetuning_type == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("finetuning_type: qlora needs bitsandbytes: pip install bitsandbytes.")
    if settings.finetuning_type == "qlora" and sharded:
        raise UserError(
            "finetuning_type: qlora keeps its base, in 4 bit, whole on every rank: ZeRO stage 3 cannot spread it, and "
            "FSDP was never tried. Use ZeRO stage 2 (configs/deepspeed/zero2.json), no FSDP."
        )
    if settings.finetuning_type == "embeddings" and settings.embeddings_trained == "new":
        if settings.vocabulary is None:  # else they are still to be made
            first_new_row(settings)
        if sharded:
            raise UserError("embeddings_trained: new needs whole embeddings on every rank. Use ZeRO stage 2, no FSDP.")
    if settings.stage == "dpo" and sharded:
        raise UserError(
            "stage: dpo measures its reference with whole weights on every rank. Use ZeRO stage 2, no FSDP."
        )
    if sharded and settings.ema_decay is not None:
        raise UserError("ema_decay needs whole weights on every rank. Use ZeRO stage 2, no FSDP, or leave it out.")


def prepare_model(
    settings: TrainingSettings,
    tokenizer: Any,
    device: torch.device | None = None,
    attention: str = "sdpa",
) -> Any:
    """Return the model to train, a `PreTrainedModel` or a `PeftModel`, with only its trained weights asking gradients.

    A quantised base is loaded to ``device``, where it has to stay; all else is on the CPU. Raises `UserError` when the
    model cannot be opened or has no such layers as the settings name.
    """
    trained, frozen = weight_types(settings)
    model = _open(settings, tokenizer, trained, frozen, device)
    if settings.stage == "seq2seq":
        _prepare_translator(model, tokenizer, attention)
        return adapt_model(model, settings)
    set_attention(model, attention, isolated=settings.packing == "isolated")
    # torch leaves the row of padding without a gradient; here padding is never seen, and often the end of text as well.
    model.get_input_embeddings().padding_idx = None
    if settings.stage != "pt":
        model.generation_config.eos_token_id = stop_token_ids(tokenizer, model.generation_config, chat=True)
    return adapt_model(model, settings)


def _prepare_translator(model: PreTrainedModel, tokenizer: TranslationTokenizer, attention: str) -> None:
    try:
        model.set_attn_implementation(attention)
    except ValueError as error:
        raise UserError(f"{model.name_or_path}: no {attention} attention ({first_line(error)}).") from None
    keep_all_layers(model)
    targets = {direction.partition("-")[2] for direction in tokenizer.directions}
    # One of several targets would be forced on the others.
    forced = tokenizer.forced_bos_id(targets.pop()) if len(targets) == 1 else None
    model.generation_config.forced_bos_token_id = forced


def keep_all_layers(model: PreTrainedModel) -> None:
    """Have a translator leave out no layer in training: ranks would add up gradients of different weights."""
    for module in (model.get_encoder(), model.get_decoder()):
        module.layerdrop = 0.0


def weight_types(settings: TrainingSettings) -> tuple[torch.dtype, torch.dtype]:
    """Return the types of trained and of frozen weights."""
    frozen = torch.bfloat16 if settings.bf16 else torch.float32
    return frozen if settings.deepspeed else torch.float32, frozen


def adapt_model(model: PreTrainedModel, settings: TrainingSettings) -> Any:
    """Return an opened model as its method trains it: with its adapter, its trained weights asking gradients."""
    trained, frozen = weight_types(settings)
    if settings.finetuning_type in ADAPTERS:
        model = _with_adapter(model.requires_grad_(False), settings)
    else:
        _choose_trained(model, settings)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # 4 bits are stored as integers
            parameter.data = parameter.data.to(trained if parameter.requires_grad else frozen)
    return model


def count_parameters(model: Any, settings: TrainingSettings) -> tuple[int, int]:
    """Return how many of a model's parameters are trained, and how many it has. Tied ones count once."""
    total, trained = 0, 0
    skipped = first_new_row(settings) if settings.embeddings_trained == "new" else 0
    for parameter in model.parameters():
        total += size_of(parameter)
        if parameter.requires_grad:
            trained += size_of(parameter) - skipped * parameter.shape[1:].numel()
    return trained, total


def reopen_model(settings: TrainingSettings, folder: str | Path) -> Any:
    """Return the model of a checkpoint in float32 on the CPU, as `export_model` takes it: an adapter on its base."""
    if is_adapter(folder):
        return open_adapter(folder, settings.trust_remote_code, is_trainable=True)
    model = load_model(str(folder), trust_remote_code=settings.trust_remote_code)
    _choose_trained(model, settings)
    return model


def first_new_row(settings: TrainingSettings) -> int:
    """Return the size of the vocabulary before it was extended; raises `UserError` when nothing says it."""
    if settings.new_rows_from is not None:
        return settings.new_rows_from
    if settings.vocabulary is not None:  # still to be made, they will follow those of the base
        trust = settings.trust_remote_code
        base = AutoConfig.from_pretrained(settings.model_name_or_path, trust_remote_code=trust)
        return int(base.get_text_config().vocab_size)
    record = Path(str(settings.model_name_or_path)) / VOCABULARY_FILE
    size = read_json_object(record).get("old_size") if record.is_file() else None
    if not isinstance(size, int):
        raise UserError(
            f"embeddings_trained: new, but nothing says which rows are new: {record} has no `old_size`. Set "
            "new_rows_from to the size of the vocabulary before it was extended."
        )
    return size


def _open(
    settings: TrainingSettings,
    tokenizer: Any,
    trained: torch.dtype,
    frozen: torch.dtype,
    device: torch.device | None,
) -> PreTrainedModel:
    if settings.model is not None:
        return new_model(settings.model.config, tokenizer, settings.seed)
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.finetuning_type == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.quantization_type,
            bnb_4bit_use_double_quant=settings.double_quantization,
            bnb_4bit_compute_dtype=torch.float16 if settings.fp16 else frozen,
        )
        options["device_map"] = device_map(str(settings.model_name_or_path), device or torch.device("cpu"))
    # The layers that freeze and embeddings train are read in full; the others are rounded afterwards.
    dtype = frozen if settings.finetuning_type in ADAPTERS else trained
    model = load_model(str(settings.model_name_or_path), dtype, **options)
    if settings.finetuning_type == "qlora":
        for module in model.modules():
            # bitsandbytes would lay the weights out for inference at the first evaluation on such a CPU, and no
            # gradient passes them from then on.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return model


def _choose_trained(model: PreTrainedModel, settings: TrainingSettings) -> None:
    """Let only those parameters ask gradients that a method without an adapter trains."""
    if settings.finetuning_type == "full":
        for module in model.modules():
            # Marian's sines and cosines are parameters, which get no gradient: other ranks would wait for one.
            if type(module).__name__ == "MarianSinusoidalPositionalEmbedding":
                module.requires_grad_(False)
        return
    model.requires_grad_(False)
    if settings.finetuning_type == "embeddings":
        _train_embeddings(model, settings)
    else:
        for module in _chosen_modules(model, settings):
            module.requires_grad_(True)


def _with_adapter(model: PreTrainedModel, settings: TrainingSettings) -> Any:
    every = settings.lora_target == ["all"]
    names = [*([] if every else settings.lora_target), *settings.additional_target]
    _require_modules(model, names)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = ends[0].weight is ends[1].weight
    if tied and (adapted := [name for name in settings.lora_target if _named(model, [name]) & {*map(id, ends)}]):
        # PEFT gives each use of the tensor its own matrices, and adds both changes to it when it merges.
        raise UserError(
            f"lora_target names {adapted[0]}, but the input and output embeddings of {model.name_or_path} are one "
            f"tensor, which an adapter cannot change in two places. Train it whole: additional_target: {adapted[0]}."
        )
    if settings.stage == "seq2seq" and (
        whole := [n for n in settings.additional_target if _named(model, [n]) & _tables(model)]
    ):
        raise UserError(
            f"additional_target names {whole[0]}, but encoder, decoder and output layer of {model.name_or_path} share "
            "that tensor, which an adapter cannot train whole. Take finetuning_type: embeddings or full."
        )
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if settings.stage == "seq2seq" else "CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if every else settings.lora_target,
        modules_to_save=settings.additional_target or None,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        ensure_weight_tying=tied and bool(_named(model, settings.additional_target) & {*map(id, ends)}),
    )
    torch.manual_seed(settings.seed)
    return get_peft_model(model, config)


def _train_embeddings(model: PreTrainedModel, settings: TrainingSettings) -> None:
    """Let the input and output embeddings learn, or only their rows from `first_new_row` on.

    The gradients of the old rows are set to zero, which leaves these as they are under any optimizer that moves each
    weight by its own gradients alone, without weight decay. PEFT's trainable tokens would make a copy of the whole
    matrix in every step, and leave no plain output layer for the loss.
    """
    start = first_new_row(settings) if settings.embeddings_trained == "new" else 0
    rows = model.get_input_embeddings().weight.shape[0]
    if start >= rows:
        raise UserError(f"the new rows are to begin at {start}, but {model.name_or_path} has only {rows} rows.")

    def only_new_rows(gradient: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(gradient[:start]), gradient[start:]])

    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in module.parameters():
            if start and not parameter.requires_grad:  # a tied one comes twice
                parameter.requires_grad_(True).register_hook(only_new_rows)
            parameter.requires_grad_(True)


def _chosen_modules(model: PreTrainedModel, settings: TrainingSettings) -> list[torch.nn.Module]:
    """Return the modules that ``finetuning_type: freeze`` trains."""
    stacks = layer_stacks(model)
    count, depth = settings.freeze_trainable_layers, min(map(len, stacks))
    if abs(count) > depth:
        raise UserError(f"freeze_trainable_layers is {count}, but {model.name_or_path} has {depth} layers.")
    layers = [layer for stack in stacks for layer in (stack[-count:] if count > 0 else stack[:-count])]
    names = settings.freeze_trainable_modules
    _require_modules(model, [*settings.freeze_extra_modules, *(() if names == ["all"] else names)])
    chosen = [
        module
        for layer in layers
        for name, module in layer.named_modules()
        if (name == "" if names == ["all"] else name.split(".")[-1] in names)
    ]
    inside = {id(module) for stack in stacks for module in stack.modules()}
    extra = settings.freeze_extra_modules
    return chosen + [
        module for name, module in model.named_modules() if name.split(".")[-1] in extra and id(module) not in inside
    ]


def _tables(model: PreTrainedModel) -> set[int]:
    """Return the ids of the modules that hold a table of the vocabulary."""
    tables = {id(end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    return {id(module) for module in model.modules() if id(getattr(module, "weight", None)) in tables}


def layer_stacks(model: PreTrainedModel) -> list[torch.nn.ModuleList]:
    """Return the stack of layers of a decoder, or those of encoder and decoder."""
    if model.config.is_encoder_decoder:
        return [model.get_encoder().layers, model.get_decoder().layers]
    depth = model.config.get_text_config().num_hidden_layers
    stacks = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == depth)
    return [next(stacks)]


def _named(model: PreTrainedModel, names: Iterable[str]) -> set[int]:
    """Return the ids of the modules whose name is, or ends in, one of ``names``."""
    return {id(module) for path, module in model.named_modules() if any(f".{path}".endswith(f".{n}") for n in names)}


def _require_modules(model: PreTrainedModel, names: Iterable[str]) -> None:
    for name in names:
        if not _named(model, [name]):
            known = {last for path, _ in model.named_modules() if (last := path.split(".")[-1]) and not last.isdigit()}
            raise UserError(f"{model.name_or_path} has no module {name}. It has: {', '.join(sorted(known))}.")
