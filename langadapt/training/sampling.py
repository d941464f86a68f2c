"""The order under ``train_sampling_strategy: group_by_length``: examples of like length together, little is padded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import TrainerCallback

_GROUPS_SORTED_TOGETHER = 100  # more leave less padding, and less chance in which examples meet


class LengthGroups(Sampler[int], TrainerCallback):  # type: ignore[misc]
    """Examples in groups of like length, ``group`` of them each; the groups come in any order, anew each epoch.

    A group is what all ranks see at once. The one with the longest example is the first: memory that does not suffice
    shows at once. As a callback it learns the epoch; the order follows from that, ``seed`` and ``lengths`` (examples)
    alone, and so is the same on all ranks and after a resume.
    """

    def __init__(self, lengths: NDArray[np.int64], group: int, seed: int) -> None:
        self.lengths, self.group, self.seed = lengths, group, seed
        self.epoch = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note which epoch begins, or is gone on with."""
        self.epoch = int(state.epoch or 0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = np.random.default_rng([self.seed, self.epoch])
        order = chance.permutation(len(self.lengths))
        step = self.group * _GROUPS_SORTED_TOGETHER
        parts = [order[start : start + step] for start in range(0, len(order), step)]
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        whole = len(order) // self.group * self.group
        groups = chance.permutation(order[:whole].reshape(-1, self.group))
        if len(groups):
            longest = int(self.lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        yield from map(int, groups.ravel())
        yield from map(int, order[whole:])
