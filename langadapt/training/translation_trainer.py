"""transformers' Seq2SeqTrainer under the promises of `AdaptationTrainer`, with a loss that is a mean over tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Seq2SeqTrainer

from langadapt.models import IGNORE
from langadapt.training.metering import TranslationMeter
from langadapt.training.trainer import AdaptationTrainer
from langadapt.training.translator_loss import TranslatorLoss


class TranslationTrainer(AdaptationTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """A trainer whose batches come from `langadapt.training.translations.TranslationCollator`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._meter = TranslationMeter(self.model, self.args.device, self._meter.dtype)

    def _choose_loss(self) -> str | None:
        self._loss = TranslatorLoss(self.model, self.args.label_smoothing_factor)
        self._plain_loss = TranslatorLoss(self.model)
        self.compute_loss_func = self._loss
        self.model_accepts_loss_kwargs = False  # of the models; the number of tokens goes to compute_loss_func
        self.label_smoother = None
        return self._loss.obstacle

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        """Return the mean loss a token over all ranks and accumulated batches; count the tokens."""
        with self._loss.of(inputs["labels"], num_items_in_batch):
            return super().compute_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)

    def _summed_loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = batch.pop("labels")
        with self._plain_loss.of(labels, 1):
            outputs = self.model_wrapped(**batch, use_cache=False)
        return self._plain_loss(outputs, labels, 1), (labels != IGNORE).sum()
