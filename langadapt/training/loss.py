"""Cross-entropy of a causal language model that never holds the logits of all tokens, only of a few at a time.

The logits of 8 sequences of 2,048 tokens over 151,936 words take 10 GB in float32, and the plain loss holds several
copies of them. Here the output layer and the loss are one operation that goes over the tokens in chunks and keeps of
each only its loss and its gradients, as FusedLinearCrossEntropy of Hsu et al. 2024, https://arxiv.org/abs/2410.10989.

    obstacle = loss_obstacle(model)  # None, or why the model needs its plain loss
    chunked = ChunkedLoss(model)
    with chunked:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
"""

from __future__ import annotations

import importlib.util
from types import TracebackType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutput

from langadapt.models import IGNORE

LIGER_IS_INSTALLED = importlib.util.find_spec("liger_kernel") is not None
# Tokens. Small chunks save memory; but each one reads and writes the whole gradient of the output layer, which a GPU,
# with more arithmetic for each byte it moves, feels sooner.
CPU_CHUNK, GPU_CHUNK = 512, 1024


class ChunkedLoss:
    """Context in which a causal language model returns its loss without computing its logits.

    The model's own ``forward`` runs as ever, so it may be wrapped (PEFT, DDP, DeepSpeed, torch.compile), and a loss
    that it adds, such as a mixture of experts' balance, stays. Only its output layer passes on the hidden states, and
    these are what the returned ``logits`` hold. The loss is the one of transformers: summed over the labels other than
    -100 and divided by ``num_items_in_batch``, or by their number where that is not given.

    ``model`` is the unwrapped model, or the PeftModel around it; `loss_obstacle` has found nothing against it.
    """

    def __init__(self, model: Any, label_smoothing: float = 0.0, chunk: int | None = None) -> None:
        self.model = _without_adapters(model)
        self.head = self.model.get_output_embeddings()
        self.label_smoothing, self.chunk = label_smoothing, chunk
        # Bound once: torch.compile would compile anew for every other function it finds in their place.
        self._swapped = (self._pass_on_or_measure, self._loss_function)

    def __enter__(self) -> None:
        self.head.forward, self.model.loss_function = self._swapped

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.head.forward, self.model._loss_function

    def _pass_on_or_measure(
        self, hidden: torch.Tensor, labels: torch.Tensor | None = None, num_items: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if labels is None:
            return hidden
        weight, bias = self.head.weight, self.head.bias
        loss: torch.Tensor = chunked_cross_entropy(
            hidden,
            weight,
            labels,
            bias,
            num_items=num_items,
            label_smoothing=self.label_smoothing,
            chunk=self.chunk,
        )
        return loss

    def _loss_function(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vocab_size: int | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        ignore_index: int = IGNORE,
        shift_labels: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Stand in for transformers' ``ForCausalLMLoss``, with hidden states in the place of the logits."""
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        # Called as a module, not by its weight: sharding gathers the weight in the module's hooks.
        loss: torch.Tensor = self.head(logits, shift_labels, num_items_in_batch)
        return loss


def loss_obstacle(model: Any) -> str | None:
    """Return why `ChunkedLoss` cannot stand in for the model's own loss, or None where it can.

    It can where the logits are the plain product of the last hidden states with the weight of a ``torch.nn.Linear``:
    not quantised, not adapted, not scaled (Cohere, Granite), not soft-capped (Gemma 2). The latter two are found by
    following a tensor through the model's ``forward``, with nothing computed in its layers.
    """
    model = _without_adapters(model)
    layers, head = model.base_model, model.get_output_embeddings()
    kind = type(head)
    if kind is not torch.nn.Linear:  # a subclass may compute something else
        return f"its output layer is a {kind.__name__}, not a plain linear layer"
    if "forward" in vars(head) or "forward" in vars(layers):
        return "another library has replaced the forward of its layers"
    if model.loss_function is not ForCausalLMLoss:
        return "its loss is not the plain cross-entropy of the next token"
    hidden = torch.zeros(1, 2, head.in_features, dtype=model.dtype)
    ids = torch.zeros(1, 2, dtype=torch.long)
    measured: list[torch.Tensor] = []

    def note(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        measured.append(logits)
        return logits.sum()

    # The loss of a mixture's router wants the router's real output; it is added after ours.
    options = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    try:
        layers.forward = lambda *_, **__: _OnlyHiddenStates(last_hidden_state=hidden)
        head.forward, model.loss_function = (lambda states: states), note
        model(input_ids=ids, labels=ids, use_cache=False, **options)
    except Exception as error:  # whatever a model's own code raises, its plain loss still works
        return f"its forward is not one that could be followed ({type(error).__name__}: {error})"
    finally:
        del layers.forward, head.forward, model._loss_function
    if len(measured) != 1 or measured[0].data_ptr() != hidden.data_ptr() or measured[0].shape != hidden.shape:
        return "it scales or soft-caps its logits, or does not hand them to transformers' loss function"
    return None


class _OnlyHiddenStates(BaseModelOutput):  # type: ignore[misc]
    """What a model's layers give, with None for whatever else its ``forward`` asks for."""

    def __getattr__(self, name: str) -> None:
        return None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    num_items: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of ``hidden @ weight.T + bias`` against the labels, in nats a token, in float32.

    ``hidden`` is [..., width], ``weight`` [words, width], ``bias`` [words], ``labels`` [...] with -100 for a token that
    is not learned; they are not shifted. The sum over the learned tokens is divided by ``num_items``, or by their
    number: without any the loss is nan, as torch's own. ``label_smoothing`` is that of
    ``torch.nn.functional.cross_entropy``. ``chunk`` is how many tokens' logits are held at once. The gradients can be
    taken once: a second backward over the same graph raises RuntimeError.

    Products are taken in the type of the weight, or in autocast's; exponentials, sums, and the gradient of the weight
    over the chunks in float32 (float64 for a weight in float64). On a GPU, where ``chunk`` is not given, Liger's kernel
    is used if it is installed.
    """
    learned = labels != IGNORE
    hidden, labels = hidden[learned], labels[learned]
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    # Liger divides by the number of tokens, which a sequence of nothing but -100 does not have.
    if device == "cuda" and chunk is None and LIGER_IS_INSTALLED and len(labels):
        liger = importlib.import_module("liger_kernel.transformers.functional")
        total = liger.liger_fused_linear_cross_entropy(
            hidden.to(dtype),
            weight.to(dtype),
            labels,
            None if bias is None else bias.to(dtype),
            label_smoothing=label_smoothing,
            reduction="sum",
            accum_dtype=torch.float32,
        )
    else:
        chunk = chunk or (CPU_CHUNK if device == "cpu" else GPU_CHUNK)
        total = _SummedCrossEntropy.apply(hidden, weight, bias, labels, label_smoothing, chunk, dtype)  # type: ignore[no-untyped-call]
    loss: torch.Tensor = total / (len(labels) if num_items is None else num_items)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradients are those of the sum, computed with it; ``backward`` only multiplies them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        label_smoothing: float,
        chunk: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        exact = torch.promote_types(dtype, torch.float32)
        of_hidden, of_weight, of_bias = (
            torch.zeros_like(tensor, dtype=exact) if tensor is not None and needed else None
            for tensor, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        matrix = weight.to(dtype)
        losses = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            inputs, target = hidden[part].to(dtype), labels[part, None]
            scores = functional.linear(inputs, matrix, None if bias is None else bias.to(dtype)).to(exact)
            losses[part] = -(1 - label_smoothing) * scores.gather(1, target).squeeze(1)
            if label_smoothing:
                losses[part] -= label_smoothing * scores.mean(1)

            # The one buffer of [chunk, words] holds in turn scores, exponentials, probabilities and gradients.
            highest = scores.amax(1, keepdim=True)
            normaliser = scores.sub_(highest).exp_().sum(1, keepdim=True)
            losses[part] += (highest + normaliser.log()).squeeze(1)
            if of_hidden is None and of_weight is None and of_bias is None:
                del scores
                continue
            scores.div_(normaliser).sub_(label_smoothing / len(weight))
            scores.scatter_add_(1, target, scores.new_full(target.shape, label_smoothing - 1))
            if of_bias is not None:
                of_bias += scores.sum(0)
            gradient = scores.to(dtype)
            del scores
            if of_hidden is not None:
                of_hidden[part] = gradient @ matrix
            if of_weight is not None and dtype == exact:
                of_weight.addmm_(gradient.t(), inputs)
            elif of_weight is not None:
                of_weight += gradient.t() @ inputs
            del gradient  # before the next chunk asks for its own
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place, for memory; torch sees that saved tensors were changed and refuses a second pass.
        gradients = [
            None if gradient is None else gradient.mul_(upstream).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*gradients, None, None, None, None)


def _without_adapters(model: Any) -> Any:
    """Return the transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
