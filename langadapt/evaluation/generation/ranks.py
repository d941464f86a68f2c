"""Several processes at one evaluation, started by torchrun: a GPU each, and the items in turn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import TypeVar

import torch
import torch.distributed

Item = TypeVar("Item")

_PATIENCE = timedelta(days=30)  # the slowest rank may need; a rank that fails is noticed by torchrun


@dataclass(frozen=True)
class Ranks:
    """Which process this is, from 0, and of how many."""

    rank: int = 0
    count: int = 1

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def sum(self, counts: Counter[str]) -> Counter[str]:
        """Return the sum of all processes' counts, to each of them."""
        if self.count == 1:
            return counts
        everyone: list[Counter[str]] = [Counter()] * self.count
        torch.distributed.all_gather_object(everyone, counts)
        total: Counter[str] = Counter()
        for one in everyone:
            total.update(one)  # adding two would drop what is 0
        return total

    def gather(self, mine: list[Item]) -> list[Item]:
        """Return the items of all processes, to each of them: what was dealt out in turns is put in order again."""
        if self.count == 1:
            return mine
        everyone: list[list[Item]] = [[]] * self.count
        torch.distributed.all_gather_object(everyone, mine)
        turns = zip_longest(*everyone, fillvalue=None)
        return [item for turn in turns for item in turn if item is not None]

    def device(self, name: str) -> str:
        """Return the device to ask for: of several processes each has the GPU of its number on this machine."""
        if self.count > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{os.environ['LOCAL_RANK']}"
        return name


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Yield this process's place among those that torchrun started; without torchrun it is the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
