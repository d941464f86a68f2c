"""What a run is worth per second: tokens, arithmetic and memory, measured between two log lines."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from langadapt.training.costs import flops_of_step, peak_flops


class Meter:
    """Counts what one rank trains on, and the seconds that takes: those of saving and evaluating are left out."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device = model, device
        self.peak_flops = peak_flops(device, dtype)
        # Tokens, positions with padding, and pairs of a token and one it sees; on the device, not to wait for it.
        self._counts = torch.zeros(3, dtype=torch.long, device=device)
        self._seconds = 0.0
        self._since: float | None = time.perf_counter()  # None while paused

    def count(self, inputs: dict[str, Any]) -> None:
        """Count a batch of `langadapt.training.packing.Collator`; takes its ``num_tokens`` out."""
        positions = inputs["position_ids"]
        tokens = inputs.pop("num_tokens").sum().to(self.device)
        self._counts += torch.stack([tokens, torch.full_like(tokens, positions.numel()), (positions + 1).sum()])

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
            counts = gather(self._counts).view(-1, 3)
            ranks = len(counts)
            tokens, positions, pairs = counts.sum(0).tolist()
            peak = float(gather(torch.tensor([_peak_memory(self.device)], device=self.device)).max())
            flops = flops_of_step(self.model, tokens, pairs)
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


def _peak_memory(device: torch.device) -> int:
    """Return the bytes that this process has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
