"""One pass over three checkpoints: every tensor cut into slices of its rows, the slices shared among the workers.

Workers are processes that load numpy and nothing heavy. On a GPU, threads read while it sums.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy
from numpy.typing import NDArray
from tqdm import tqdm

from langadapt.weights.measuring import PIECE, SLICE, Source, Sums, added, measure, slices
from langadapt.weights.stored import Values, real
from langadapt.weights.tensor_types import tensor_type

_SAMPLE = 2**15  # values a tensor, to know the spacing of 16-bit numbers around its weights
_WORTH_A_WORKER = 2**26  # values that take as long as starting a process
_AHEAD = 4  # slices a worker that wait to be read or added

_BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Measured:
    """A tensor's sums, and samples of its weights before each stage."""

    sums: Sums
    samples: list[NDArray[numpy.float64]]


Measure = Callable[[Iterable[Sequence[Values]], Sequence[str], int, bool], Sums]


def measure_all(
    triples: Sequence[Sequence[Source]], slice_size: int, workers: int, device: str = "cpu"
) -> list[Measured]:
    """Return what is measured of each triple of tensors (base, CPT, SFT), in their order.

    Sums are added in the order of the slices, so the number of workers changes no figure. Rows of embeddings and
    output matrices are also measured one by one.
    """
    tasks = [(place, *rows) for place, triple in enumerate(triples) for rows in slices(triple[0], slice_size)]
    values = sum(math.prod(triple[0].shape) for triple in triples)
    found = [Measured(Sums(), []) for _ in triples]
    parts: list[list[Measured]] = [[] for _ in triples]
    workers = max(1, min(workers, len(tasks), 1 + values // _WORTH_A_WORKER))
    bar = tqdm(total=values, desc="comparing", unit="value", unit_scale=True, disable=None)
    with bar, _executor(workers, device) as (pool, run):
        for (place, _, _), part in zip(tasks, _in_order(pool, run, triples, tasks, workers), strict=True):
            parts[place].append(part)
            bar.update(part.sums.values)
    for whole, mine in zip(found, parts, strict=True):
        whole.sums = added([part.sums for part in mine])
        whole.samples = [
            numpy.concatenate([part.samples[which] for part in mine] or [numpy.empty(0)]) for which in (0, 1)
        ]
    return found


def measure_slice(
    triple: Sequence[Source], first: int, last: int, measure: Measure = measure, piece: int = PIECE
) -> Measured:
    """Return what is measured of rows ``first`` to ``last`` (not with it) of three tensors, a ``piece`` at a time."""
    size = math.prod(triple[0].shape)
    columns = triple[0].columns
    by_row = len(triple[0].shape) == 2 and tensor_type(triple[0].name) in ("embedding", "output")
    rows = max(1, piece // max(1, columns))
    every = max(1, size // _SAMPLE)
    samples: list[list[Values]] = [[], []]

    def sampled() -> Iterator[Sequence[Values]]:
        seen = first * columns
        for pieces in zip(*(tensor.pieces(first, last, rows) for tensor in triple), strict=True):
            for values, sample in zip(pieces, samples, strict=False):
                sample.append(values.reshape(-1)[-seen % every :: every].copy())
            seen += pieces[0].size
            yield pieces

    sums = measure(sampled(), [tensor.dtype for tensor in triple], size, by_row)
    joined = [real(numpy.concatenate(sample), tensor.dtype) for sample, tensor in zip(samples, triple, strict=False)]
    return Measured(sums, joined)


def _in_order(
    pool: Executor | None,
    run: Callable[[Sequence[Source], int, int], Measured],
    triples: Sequence[Sequence[Source]],
    tasks: Sequence[tuple[int, int, int]],
    workers: int,
) -> Iterator[Measured]:
    if pool is None:
        yield from (run(triples[place], first, last) for place, first, last in tasks)
        return
    waiting = []
    for place, first, last in tasks:
        waiting.append(pool.submit(run, triples[place], first, last))
        if len(waiting) > _AHEAD * workers:
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


@contextmanager
def _executor(workers: int, device: str) -> Iterator[tuple[Executor | None, Callable[..., Measured]]]:
    if device != "cpu":
        from langadapt.weights.on_gpu import measure_on  # torch takes seconds to load

        with ThreadPoolExecutor(max(2, workers)) as threads:
            yield threads, partial(measure_slice, measure=partial(measure_on, device), piece=SLICE)
    elif workers == 1:
        yield None, measure_slice
    else:
        # Each worker has one core: a BLAS that starts threads of its own would have them wait for each other.
        before = {name: os.environ.get(name) for name in _BLAS_THREADS}
        os.environ.update(dict.fromkeys(_BLAS_THREADS, "1"))
        try:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes:
                yield processes, measure_slice
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
