"""The order under ``train_sampling_strategy: group_by_length``: examples of like length together, little is padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_GROUPS_SORTED_TOGETHER = 100  # more leave less padding, and less chance in which examples meet


class LengthGroupedSampler(Sampler[int]):
    """Examples in groups of like length, ``group`` of them each; the groups come in any order, anew each epoch.

    A group is what all ranks see at once: batch x ranks. The one with the longest example is the first: memory that
    does not suffice shows at once. What fills no group comes last. The order follows from ``lengths`` (examples),
    ``group``, ``seed`` and ``epoch``, which is asked at the beginning of each; so it is the same on all ranks and after
    a resume.
    """

    def __init__(self, lengths: NDArray[np.int64], group: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.group, self.seed, self.epoch = lengths, group, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = np.random.default_rng([self.seed, self.epoch()])
        order = chance.permutation(len(self.lengths))
        longest = int(self.lengths[order].argmax())
        order[[0, longest]] = order[[longest, 0]]  # not among those that fill no group
        whole = len(order) // self.group * self.group
        step = self.group * _GROUPS_SORTED_TOGETHER
        parts = [order[start : min(start + step, whole)] for start in range(0, whole, step)]
        ordered = [part[np.argsort(self.lengths[part], kind="stable")] for part in parts]
        groups = chance.permutation(np.concatenate([order[:0], *ordered]).reshape(-1, self.group))
        if len(groups):
            longest = int(self.lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        yield from map(int, groups.ravel())
        yield from map(int, order[whole:])
