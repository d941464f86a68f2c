"""The loss of an encoder-decoder translator: smoothed cross-entropy, without the logits of all tokens at once.

    loss = TranslatorLoss(model, label_smoothing=0.1)
    with loss.of(labels):
        outputs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=shifted)
    loss(outputs, labels).backward()

The models themselves take the mean over each batch, which accumulated batches and several ranks would weigh alike
however many tokens each has, and know no label smoothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from langadapt.models import IGNORE
from langadapt.training.loss import chunked_cross_entropy


class TranslatorLoss:
    """Cross-entropy of the labels, [..., words] logits or not: ``obstacle`` says why not, None where it takes chunks.

    ``model`` is the unwrapped model, or the PeftModel around it. In chunks, the output layer gives within `of` the loss
    in the place of the logits, so that it is taken inside the model's ``forward``, where sharding and autocast expect
    the layer to be used. mBART and Marian add a row of constants to the logits, which counts.
    """

    def __init__(self, model: Any, label_smoothing: float = 0.0, chunk: int | None = None) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = self.model.get_output_embeddings()
        self.label_smoothing, self.chunk = label_smoothing, chunk
        kind = type(self.head)
        self.obstacle = None
        if kind is not torch.nn.Linear:  # quantised or adapted
            self.obstacle = f"its output layer is a {kind.__name__}, not a plain linear layer"
        self._asked: tuple[torch.Tensor, torch.Tensor | int | None, torch.Tensor | None] | None = None

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return nats summed over the labels other than -100, over ``num_items_in_batch`` or else their number.

        ``outputs`` is what the model gave within `of`; as the ``compute_loss_func`` of a Trainer.
        """
        logits: torch.Tensor = outputs.logits
        if self.obstacle is None:
            return logits
        total = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORE,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / ((labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch)

    @contextmanager
    def of(self, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> Iterator[None]:
        """Prepare for a forward whose loss against these labels is wanted: (batch, target tokens), not shifted."""
        if self.obstacle is not None:
            yield
            return
        bias = getattr(self.model, "final_logits_bias", None)
        self._asked = labels, num_items_in_batch, None if bias is None else bias[0]
        self.head.forward = self._measure
        if bias is not None:
            self.model.final_logits_bias = bias.new_zeros(())  # the model adds it to what it takes for logits
        try:
            yield
        finally:
            del self.head.forward
            self._asked = None
            if bias is not None:
                self.model.final_logits_bias = bias

    def _measure(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._asked is not None
        labels, num_items, bias = self._asked
        loss: torch.Tensor = chunked_cross_entropy(
            hidden,
            self.head.weight,
            labels,
            bias,
            num_items=num_items,
            label_smoothing=self.label_smoothing,
            chunk=self.chunk,
        )
        return loss
