"""Is a relation between the two stages' changes more than chance? The tensors resampled, and shuffled.

Intervals hold the middle 95 % of the figures of tensors drawn with replacement (Efron and Tibshirani, 1993, "An
Introduction to the Bootstrap", chapter 13). A p-value is the share of shuffles whose correlation is at least as far
from zero as the observed one, that one counted in (Phipson and Smyth, 2010). Both take tensors for independent, which
those of one layer are not, so both are too sure rather than too shy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

FEWEST = 3  # a rank correlation of fewer tensors says nothing
FEWEST_RESAMPLED = 8  # tensors below which an interval or a p-value is not given

_RESAMPLES = 2000
_SEED = 12345

Record = dict[str, Any]


def spearman(pairs: NDArray[numpy.float64]) -> float | None:
    """Return Spearman's rank correlation between the rows of ``pairs`` [2, n].

    None for fewer than three pairs, or where all values of a row are equal.
    """
    if pairs.shape[1] < FEWEST or (pairs == pairs[:, :1]).all(axis=1).any():
        return None
    return float(numpy.corrcoef([_ranks(row) for row in pairs])[0, 1])


def correlation_test(pairs: NDArray[numpy.float64], groups: Sequence[str]) -> Record | None:
    """Return what is known of Spearman's correlation between the rows of ``pairs`` [2, n], tensors of types ``groups``.

    ``count``, ``interval``, and ``p`` from shuffling one row over all tensors. ``within_types`` is the correlation that
    is left when the mean rank of each type is taken off, ``p_within_types`` its p-value from shuffles within types;
    None where types leave no differences. None altogether for too few tensors, or where there is no correlation.
    """
    count = pairs.shape[1]
    if count < FEWEST_RESAMPLED or spearman(pairs) is None:
        return None
    generator = numpy.random.default_rng(_SEED)
    drawn = [spearman(pairs[:, generator.integers(count, size=count)]) for _ in range(_RESAMPLES)]
    low, high = numpy.quantile([rho for rho in drawn if rho is not None], [0.025, 0.975]).tolist()
    ranks = numpy.stack([_ranks(row) for row in pairs])
    of_type = [numpy.flatnonzero(numpy.array(groups) == group) for group in dict.fromkeys(groups)]
    _, p = _shuffled(ranks, [numpy.arange(count)], generator)
    within, p_within = _shuffled(ranks, of_type, generator)
    return {"count": count, "interval": [low, high], "p": p, "within_types": within, "p_within_types": p_within}


def mean_cosine(cosines: Sequence[float], sizes: Sequence[int]) -> Record | None:
    """Return ``mean``, ``interval`` and ``chance`` of the cosines between two changes of tensors of so many values.

    ``chance`` is how far from zero the mean stays 95 times in 100 when directions are random: a cosine between random
    directions in n dimensions has the standard deviation 1 / sqrt(n). None where there are too few tensors.
    """
    count = len(cosines)
    if count < FEWEST_RESAMPLED:
        return None
    drawn = numpy.random.default_rng(_SEED).choice(cosines, (_RESAMPLES, count)).mean(axis=1)
    return {
        "count": count,
        "mean": float(numpy.mean(cosines)),
        "interval": numpy.quantile(drawn, [0.025, 0.975]).tolist(),
        "chance": 1.96 * math.sqrt(sum(1 / size for size in sizes)) / count,
    }


def _shuffled(
    ranks: NDArray[numpy.float64], groups: Sequence[NDArray[numpy.intp]], generator: numpy.random.Generator
) -> tuple[float | None, float | None]:
    """Return the correlation of ranks [2, n] around the means of groups of places, and its p-value."""
    centred = ranks.copy()
    for places in groups:
        centred[:, places] -= centred[:, places].mean(axis=1, keepdims=True)
    one, other = centred
    scale = math.sqrt((one @ one) * (other @ other))
    if scale < 1e-9:
        return None, None
    further = 0
    for _ in range(_RESAMPLES):
        shuffled = other.copy()
        for places in groups:
            shuffled[places] = other[generator.permutation(places)]
        # A shuffle that changes nothing counts, whatever rounding makes of its sum.
        further += abs(one @ shuffled) >= abs(one @ other) - 1e-9 * scale
    return float(one @ other) / scale, (further + 1) / (_RESAMPLES + 1)


def _ranks(values: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Return ranks from 1, equal values sharing the mean of theirs."""
    _, which, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    last = numpy.cumsum(counts)
    return (last - (counts - 1) / 2)[which]
