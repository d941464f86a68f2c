"""The bootstrap over documents (Efron and Tibshirani 1993, chapter 13): what a ratio of sums might have been."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from langadapt.evaluation.results import Interval

_SEED = 12345  # sacrebleu's


def resampled_ratios(values: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """Return sum(values) / sum(sizes) of ``resamples`` draws of items with replacement, with a fixed seed."""
    generator = np.random.default_rng(_SEED)
    ratios = np.empty(resamples)
    for number in range(resamples):
        drawn = generator.integers(len(values), size=len(values))
        ratios[number] = values[drawn].sum() / sizes[drawn].sum()
    return ratios


def middle_95(drawn: NDArray[np.float64]) -> Interval:
    """Return the percentile interval of what was drawn."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))
