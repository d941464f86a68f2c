"""How many weights rounding alone leaves as they were.

A weight w that is stored in bfloat16 or float16 and gets an update below half the spacing of such numbers around w is
written back as it was. For updates drawn from one normal distribution the share of these follows from its width, and
the width from the size of the change that is left after rounding.
"""

from __future__ import annotations

import math

import numpy
from numpy.typing import NDArray

_SPACINGS = {"bfloat16": (7, -126), "float16": (10, -14)}  # bits of the fraction, least exponent
_FINE = 3.0  # standard deviations in units of the spacing from which rounding only adds its own variance
_STEPS = 40


def spacings(values: NDArray[numpy.float64], dtype: str) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
    """Return the distinct spacings of numbers of ``dtype`` around ``values``, and the share of values at each."""
    fraction, least = _SPACINGS[dtype]
    exponents = numpy.frexp(numpy.abs(values))[1] - 1
    exponents[values == 0] = least
    distinct, counts = numpy.unique(numpy.maximum(exponents, least), return_counts=True)
    return numpy.ldexp(1.0, distinct - fraction), counts / counts.sum()


def unchanged_by_rounding(sample: NDArray[numpy.float64], before: str, after: str, mean_square: float) -> float | None:
    """Return the share of weights, 0 to 1, that updates of one size would leave as they were after rounding.

    ``sample`` are weights before the stage, ``mean_square`` is the mean squared change of all weights, as stored.
    None where there is nothing to explain: for dtypes finer than 16 bits, or where the weights before were not
    numbers of the dtype after.
    """
    if after not in _SPACINGS or before != after or not sample.size or not mean_square:
        return None
    spacing: list[float]
    share: list[float]
    spacing, share = (array.tolist() for array in spacings(sample, after))
    low, high = 0.0, math.sqrt(mean_square) * 2 + max(spacing)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        rounded = sum(part * _mean_square(middle, step) for step, part in zip(spacing, share, strict=True))
        low, high = (middle, high) if rounded < mean_square else (low, middle)
    return sum(part * math.erf(step / (2 * math.sqrt(2) * high)) for step, part in zip(spacing, share, strict=True))


def _mean_square(deviation: float, step: float) -> float:
    """Return the mean square of a normal variable of mean zero that is rounded to multiples of ``step``."""
    if deviation > _FINE * step:
        return deviation**2 + step**2 / 12
    if deviation == 0:
        return 0.0
    total, multiple = 0.0, 1
    while (beyond := math.erfc((multiple - 0.5) * step / (math.sqrt(2) * deviation))) > 1e-12:
        total += (2 * multiple - 1) * beyond
        multiple += 1
    return step**2 * total
