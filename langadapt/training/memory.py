"""What a rank's memory will hold in training, part by part: counted in a step that is taken without any memory.

The model is built of fake tensors, which know their shapes and types and hold no numbers. Forward and backward run as
they will in training, every layer of them, and each tensor is counted from the moment it is made until it is freed.
What the optimizer, DeepSpeed and FSDP hold beside that follows from the number of parameters, as they are written.

Not counted: CUDA's context, NCCL's buffers, what the allocator loses between tensors, the libraries' own memory.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)

from langadapt.recipe.methods import ADAPTERS
from langadapt.recipe.training import TrainingSettings
from langadapt.training.attention import BY_DOCUMENT, attend_within, can_attend_by_document
from langadapt.training.data import pieces_a_record
from langadapt.training.loss import CPU_CHUNK, GPU_CHUNK, ChunkedLoss, loss_obstacle
from langadapt.training.memory_rules import (
    dequantised,
    gathered_bytes,
    optimizer_bytes,
    reduction_buffers,
    weight_bytes,
)
from langadapt.training.methods import adapt_model, keep_all_layers, weight_types
from langadapt.training.sharding import is_sharded, zero_stage
from langadapt.training.translator_loss import TranslatorLoss

# Stands in for flash attention, which keeps the same tensors and needs a GPU: sdpa without a mask.
_UNMASKED = "sdpa_without_mask"
AttentionInterface.register(_UNMASKED, lambda *arguments, **_: (_whole_rows(*arguments), None))
AttentionMaskInterface.register(_UNMASKED, lambda *_, **__: None)


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the fullest moment of each of the two phases of a step."""

    forward_and_backward: Mapping[str, int]
    optimizer_step: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most that is held at any moment."""
        return max(sum(self.forward_and_backward.values()), sum(self.optimizer_step.values()))


def _whole_rows(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    """Attend as `BY_DOCUMENT` does where every row is one document: fake tensors cannot say where others begin."""
    return attend_within([query.shape[2]] * len(query), query, key, value)


def fake_model(settings: TrainingSettings, config: PreTrainedConfig, attention: str = "sdpa") -> Any:
    """Return the model of ``settings`` as it is trained, of fake tensors: it takes no memory and holds no weights.

    ``config`` is the base model's. A 4-bit base is one of the type that it computes in; `weight_bytes` knows.
    """
    translates = settings.stage == "seq2seq"
    kind = AutoModelForSeq2SeqLM if translates else AutoModelForCausalLM
    with torch.device("meta"):
        trust = settings.trust_remote_code
        model = kind.from_config(config, dtype=weight_types(settings)[0], trust_remote_code=trust)
        model.name_or_path = settings.base_name
        if translates:
            keep_all_layers(model)
        # Documents that share a row are kept apart by a dense mask, and so is the padding of shorter rows.
        alone = settings.packing != "isolated" and _sequences(settings) == 1 and not translates
        by_document = attention == BY_DOCUMENT and not translates and can_attend_by_document(model)
        masked = not alone and not by_document and not attention.startswith(("flash", "flex"))
        model.set_attn_implementation("eager" if attention == "eager" else "sdpa" if masked else _UNMASKED)
        model = adapt_model(model, settings)
        if settings.deepspeed and settings.fp16:
            model = model.half()
    # Made on the meta device, for PEFT cannot adapt fake tensors; but only these know what autocast does on a device.
    made: dict[int, Any] = {}
    with FakeTensorMode():
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = made.setdefault(id(tensor), _fake(tensor))
    return model.train()


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    twin = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, torch.nn.Parameter):
        twin = torch.nn.Parameter(twin, tensor.requires_grad)
        for hook in (tensor._backward_hooks or {}).values():
            twin.register_hook(hook)  # type: ignore[no-untyped-call]
    return twin


def forecast_memory(settings: TrainingSettings, model: Any, ranks: int, on_gpu: bool) -> Memory:
    """Return what one of ``ranks`` ranks holds in training a `fake_model` on full blocks."""
    keys = _keys(settings)
    stage, sharded = zero_stage(settings), is_sharded(settings)
    flat = settings.deepspeed is not None or sharded  # the optimizer works on a rank's part of the weights
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = sum(parameter.numel() for parameter in trained)
    gradient_bytes = sum(parameter.nbytes for parameter in trained)
    own = gradient_bytes // ranks

    held = _forward_and_backward(model, settings, on_gpu, frees_gradients=stage >= 2 or keys["fsdp"])
    held["activations"] += dequantised(model, settings)
    held["weights"] = weights = weight_bytes(model, settings)
    optimizer = optimizer_bytes(keys["optim"].value, model) // (ranks if flat else 1)
    step = {"weights": weights, "gradients": gradient_bytes, "optimizer": optimizer}
    if settings.deepspeed is not None:
        optimizer += 4 * numbers // ranks  # float32 copies of the weights
        if stage >= 2:
            held["gradients"] += own
        held["gradients"] += reduction_buffers(settings, config=model.config, size=trained[0].element_size())
        # A rank's gradients as a list, flat, and flat in float32, at once; in stage 3 tensor by tensor.
        step = {"weights": weights, "gradients": 2 * own + 4 * numbers // ranks, "optimizer": optimizer}
    elif keys["fsdp"]:
        held["gradients"] += own
        step["gradients"] = own
    elif ranks > 1:  # DistributedDataParallel's buckets
        held["gradients"] += gradient_bytes
        step["gradients"] += gradient_bytes
    if sharded:
        step["weights"] = weights // ranks
        held["weights"] = weights // ranks + gathered_bytes(settings, model)
    held["optimizer"] = optimizer
    if not flat and "fused" not in keys["optim"].value and keys["optim"].value == "adamw_torch":
        step["temporary"] = 4 * numbers
    if settings.stage == "dpo" and not settings.precompute_ref_log_probs and settings.finetuning_type not in ADAPTERS:
        held["reference"] = step["reference"] = weights
    if settings.ema_decay is not None:
        held["moving average"] = step["moving average"] = 4 * numbers
    return Memory(dict(held), step)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every tensor that is alive, under the name of the part that was ``part`` when it was made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = "activations"
        self.held: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self._alive: dict[int, tuple[Any, str, int]] = {}

    def count(self, tensor: torch.Tensor, part: str | None = None) -> None:
        """Count a tensor's storage once, or move it to another part."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            if part is None:
                return
            self._forget(key)
        part = part or self.part
        self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), part, size)
        self.held[part] += size
        if self.held.total() > self.at_peak.total():
            self.at_peak = self.held.copy()

    def _forget(self, key: int) -> None:
        _, part, size = self._alive.pop(key)
        self.held[part] -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.index.Tensor:
            args = (args[0], [part for index in args[1] for part in _whole(index)])
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        return result


def _whole(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Return an index as it is, but a mask as one that chooses all: how many it does is not known without numbers."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long)] * index.dim()


def _forward_and_backward(model: Any, settings: TrainingSettings, on_gpu: bool, frees_gradients: bool) -> Counter[str]:
    """Return the bytes at the peak of one batch, of the second where several are accumulated."""
    keys = _keys(settings)
    counted = _Count()
    for tensor in (*model.parameters(), *model.buffers()):
        counted.count(tensor, "weights")

    def note_gradient(parameter: Any) -> None:
        counted.count(parameter.grad, "gradients")
        if frees_gradients:
            parameter.grad = None

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(note_gradient) for parameter in trained]

    def into(part: str) -> None:
        counted.part = part

    def enter_head(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        into("logits")
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: into("activations"))  # type: ignore[no-untyped-call]

    hooks.append(model.get_output_embeddings().register_forward_pre_hook(enter_head))
    if on_gpu and model.config._attn_implementation != "eager":
        _forget_attention_dropout(model)
    if keys["activation_checkpointing"]:
        model.activation_checkpointing_enable(keys["activation_checkpointing_kwargs"])
    loss_of_batch = _loss_of_batch(model, settings, GPU_CHUNK if on_gpu else CPU_CHUNK)
    forward = model
    if settings.deepspeed is None and (settings.bf16 or settings.fp16):  # as accelerate wraps it
        half = torch.bfloat16 if settings.bf16 else torch.float16
        forward = convert_outputs_to_fp32(torch.autocast("cpu", half)(model.forward))
    mode = next(model.parameters()).fake_mode
    with mode, counted:
        shape = (_sequences(settings), settings.cutoff_len)
        ids, more = (torch.zeros(shape, dtype=torch.long) for _ in range(2))
        for _ in range(min(2, keys["gradient_accumulation_steps"])):
            into("activations")
            loss_of_batch(forward, ids, more).backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return counted.at_peak


def _forget_attention_dropout(model: Any) -> None:
    """Have attention drop nothing: a GPU's kernels draw dropout as they go; those of the CPU keep matrices for it."""
    for module in model.modules():
        for name in ("dropout", "attention_dropout"):
            if hasattr(module, "k_proj") and isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _loss_of_batch(model: Any, settings: TrainingSettings, chunk: int) -> Callable[..., Any]:
    """Return what takes the loss of a batch: of the wrapped model's forward, token ids, and one more tensor like these.

    The latter are the positions; of a translator, both sides of which are as long as they may be, the attention mask.
    """
    smoothing = _keys(settings)["label_smoothing_factor"]
    if settings.stage == "seq2seq":
        translator_loss = TranslatorLoss(model, smoothing, chunk)

        def of_translations(forward: Any, ids: torch.Tensor, mask: torch.Tensor) -> Any:
            with translator_loss.of(ids, 1):
                outputs = forward(input_ids=ids, attention_mask=mask, decoder_input_ids=ids, use_cache=False)
            return translator_loss(outputs, ids, 1)

        return of_translations
    loss: Any = nullcontext() if loss_obstacle(model) is not None else ChunkedLoss(model, smoothing, chunk)

    def of_blocks(forward: Any, ids: torch.Tensor, positions: torch.Tensor) -> Any:
        with loss:
            outputs = forward(input_ids=ids, labels=ids, position_ids=positions, use_cache=False, num_items_in_batch=1)
        of_batch: torch.Tensor = outputs.loss
        return of_batch

    return of_blocks


def _keys(settings: TrainingSettings) -> dict[str, Any]:
    """Return the values of TrainingArguments' keys, which are no attributes that a type checker knows."""
    return {name: getattr(settings, name) for name in type(settings).model_fields}


def _sequences(settings: TrainingSettings) -> int:
    """Return how many sequences a rank trains on at a time."""
    return int(_keys(settings)["per_device_train_batch_size"]) * pieces_a_record(settings)
