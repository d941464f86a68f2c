"""What a run is worth per second: tokens, arithmetic and memory, measured between two log lines."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from langadapt.models import IGNORE
from langadapt.training.costs import flops_of_step, flops_of_translations, pairs_of_translations, peak_flops


class Meter:
    """Counts what one rank trains on, and the seconds that takes: those of saving and evaluating are left out."""

    # Tokens, positions with padding, and what the arithmetic follows from: pairs of a token and one it sees.
    _kinds = 3

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.peak_flops = peak_flops(device, dtype)
        self._counts = torch.zeros(self._kinds, dtype=torch.long, device=device)  # not to wait for the device
        self._seconds = 0.0
        self._since: float | None = time.perf_counter()  # None while paused

    def count(self, inputs: dict[str, Any]) -> None:
        """Count a batch of `langadapt.training.packing.Collator`; takes its ``num_tokens`` out."""
        positions = inputs["position_ids"]
        tokens = inputs.pop("num_tokens").sum().to(self.device)
        self._counts += torch.stack([tokens, torch.full_like(tokens, positions.numel()), (positions + 1).sum()])

    def _flops(self, tokens: int, pairs: int) -> float:
        return flops_of_step(self.model, tokens, pairs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out."""
        self._seconds, self._since = self._elapsed(), None
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def read(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """Return what was measured since the last reading and begin anew; ``gather`` stacks what all ranks give.

        num_tokens: of all ranks, without padding. tokens_per_second: of one rank. mfu: `langadapt.training.costs`, None
        on an unknown GPU. padding: share of the positions. peak_memory_gib: since the start, of the rank that needs
        most; on a GPU what torch has reserved, on the CPU the process's resident set.
        """
        with self.paused():
            seconds = self._seconds
            counts = gather(self._counts).view(-1, self._kinds)
            ranks = len(counts)
            tokens, positions, *work = counts.sum(0).tolist()
            peak = float(gather(torch.tensor([_peak_memory(self.device)], device=self.device)).max())
            flops = self._flops(tokens, *work)
            self._counts.zero_()
            self._seconds = 0.0
        return {
            "num_tokens": tokens,
            "tokens_per_second": tokens / seconds / ranks,
            "mfu": None if self.peak_flops is None else flops / seconds / ranks / self.peak_flops,
            "padding": 1 - tokens / positions,
            "peak_memory_gib": peak / 2**30,
        }

    def state(self) -> dict[str, Any]:
        """Return what was counted since the last reading, for `load`."""
        return {"counts": self._counts.tolist(), "seconds": self._elapsed()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on counting from a `state`."""
        self._counts.copy_(torch.tensor(state["counts"]))
        self._seconds, self._since = state["seconds"], time.perf_counter()

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)


class TranslationMeter(Meter):
    """A meter of `langadapt.training.translations.TranslationCollator`'s batches."""

    _kinds = 4  # Tokens, positions, tokens of the target, and pairs in each layer.

    def count(self, inputs: dict[str, Any]) -> None:
        """Count a batch; takes its ``num_tokens`` out."""
        tokens = inputs.pop("num_tokens").to(self.device)
        sources, targets = inputs["attention_mask"].sum(1), (inputs["labels"] != IGNORE).sum(1)
        positions = tokens.new_tensor(inputs["input_ids"].numel() + inputs["labels"].numel())
        pairs = pairs_of_translations(self.model, sources, targets).sum()
        self._counts += torch.stack([tokens.sum(), positions, tokens[1], pairs])

    def _flops(self, tokens: int, target_tokens: int, pairs: int) -> float:  # type: ignore[override]
        return flops_of_translations(self.model, tokens - target_tokens, target_tokens, pairs)


def _peak_memory(device: torch.device) -> int:
    """Return the bytes that this process has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
