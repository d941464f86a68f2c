"""How many directions a change has: the singular values of a matrix's change, from the eigenvalues of its Gram matrix.

The Gram matrix of the shorter side is summed in float64 over slices, so no whole change is ever held. Singular values
below some 1e-8 of the largest are lost in its rounding, which no figure here depends on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from langadapt.weights.measuring import Source
from langadapt.weights.stored import real

ENERGIES = (90, 95, 99)  # per cent of the squared change


def energies(before: Source, after: Source, size: int) -> NDArray[numpy.float64]:
    """Return the squared singular values of ``after`` - ``before``, matrices of one shape, the largest first.

    ``size`` is how many values of each are read at a time (at least a row, or a column).
    """
    tall = before.rows >= before.columns
    short, long = (before.columns, before.rows) if tall else (before.rows, before.columns)
    gram = numpy.zeros((short, short))
    step = max(1, size // short)
    for first in range(0, long, step):
        last = min(first + step, long)
        old, new = (
            real(tensor.read(first, last) if tall else tensor.read_columns(first, last), tensor.dtype)
            for tensor in (before, after)
        )
        change = new - old
        gram += change.T @ change if tall else change @ change.T
    squares: NDArray[numpy.float64] = numpy.maximum(numpy.linalg.eigvalsh(gram)[::-1], 0)
    return squares


def describe_spectrum(squares: NDArray[numpy.float64]) -> dict[str, Any] | None:
    """Return the figures of a spectrum, from `energies`; None for a change of nothing.

    ``spectral_norm`` is the largest singular value, ``stable_rank`` the squared Frobenius norm over its square,
    ``effective_rank`` the exponential of the entropy of the singular values as shares of their sum (Roy and Vetterli,
    2007), ``rank_90`` and so on how many singular values hold that part of the squared change, which by Eckart and
    Young no matrix of a lower rank can hold.
    """
    total = float(squares.sum())
    if total == 0:
        return None
    values = numpy.sqrt(squares)
    shares = values[values > 0] / values.sum()
    return {
        "spectral_norm": float(values[0]),
        "stable_rank": total / float(squares[0]),
        "effective_rank": math.exp(-float((shares * numpy.log(shares)).sum())),
        **{f"rank_{part}": rank_for([squares], part) for part in ENERGIES},
    }


def rank_for(spectra: Sequence[NDArray[numpy.float64]], part: int) -> int:
    """Return the least rank that, given to each matrix, holds ``part`` per cent of their squared change together.

    ``spectra`` are as `energies` returns them. For the matrices that LoRA adapts it is the least rank of adapters that
    could have carried this part of the change.
    """
    held = _held(spectra)
    return int(numpy.searchsorted(held, part / 100 * held[-1] * (1 - 1e-12))) + 1


def share_held(spectra: Sequence[NDArray[numpy.float64]]) -> list[list[float]]:
    """Return ``[rank, share]`` for the ranks 1, 2, 4 and so on, and the full one.

    A share, 0 to 1, is how much of the squared change of all matrices together is held when each is given that rank.
    ``spectra`` are as `energies` returns them.
    """
    held = _held(spectra)
    ranks = [2**power for power in range((len(held) - 1).bit_length())]
    return [[rank, float(held[rank - 1] / held[-1])] for rank in (*ranks, len(held))]


def _held(spectra: Sequence[NDArray[numpy.float64]]) -> NDArray[numpy.float64]:
    """Return the squared change of all matrices that each rank from 1 on holds."""
    sums = numpy.zeros(max(len(squares) for squares in spectra))
    for squares in spectra:
        sums[: len(squares)] += squares
    return numpy.cumsum(sums)
