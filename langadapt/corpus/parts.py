"""Work in parts: each is done by one of several processes, stands whole in a file of its own, and is not done twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langadapt.corpus.progress import Advance
from langadapt.errors import UserError
from langadapt.files import atomic_path, lock
from langadapt.recipe.preprocess import PreprocessSettings

Arrays = dict[str, np.ndarray]

_FORMAT = 2  # of what parts hold; another number makes those of an earlier version useless


@dataclass(frozen=True)
class Part:
    """``work(*arguments)`` gives the arrays to be stored at ``path``; ``size`` is its share of the progress bar."""

    path: Path
    work: Callable[..., Arrays]
    arguments: tuple[Any, ...]
    size: int


@contextmanager
def work_folder(settings: PreprocessSettings) -> Iterator[Path]:
    """Yield the folder of finished parts, beside the output folder; it goes when the block ends well.

    When it does not, the parts stay, and the next run goes on from them. Raises `UserError` while another run with the
    same output folder is at work.
    """
    output = Path(settings.output_dir).resolve()
    folder = output.parent / f".{output.name}.parts"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as handle:
        lock(handle, settings.output_dir)
        yield folder
        shutil.rmtree(folder)


def finish(parts: Sequence[Part], workers: int, advance: Advance) -> None:
    """See to it that every part stands on disk; those that already do are not done again.

    The parts are the same for any number of ``workers``. Raises what a worker raised, and `UserError` when one was
    ended from outside, which the system does where memory runs out.
    """
    missing = [part for part in parts if not part.path.is_file()]
    size = sum(part.size for part in parts) or 1
    advance(1 - sum(part.size for part in missing) / size)
    if workers == 1 or len(missing) < 2:
        for part in missing:
            advance(_do(part) / size)
        return
    context = multiprocessing.get_context("spawn")  # the same everywhere; forks of threads deadlock
    with ProcessPoolExecutor(min(workers, len(missing)), context, initializer=_start_worker) as pool:
        futures = [pool.submit(_do, part) for part in missing]
        try:
            for future in as_completed(futures):
                advance(future.result() / size)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was ended from outside, perhaps for want of memory. Set workers=1 or free some "
                "memory, and run the same command again: it goes on where it was."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def load(path: Path, *keys: str) -> Arrays:
    """Return some arrays of a part, or all; no others are read."""
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in keys or stored.files}


def fingerprint(*values: Any) -> str:
    """Return a name for everything a part depends on: settings, and for a `Path` the file's place, size and time."""
    plain = [
        [str(value.resolve()), value.stat().st_size, value.stat().st_mtime_ns] if isinstance(value, Path) else value
        for value in values
    ]
    return hashlib.sha256(json.dumps([_FORMAT, plain], sort_keys=True).encode()).hexdigest()[:16]


def worker_count(wanted: int | None) -> int:
    """Return how many processes to use: ``wanted``, or one for each core this process may run on."""
    return wanted or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else wanted or os.cpu_count() or 1


def keep(path: Path, arrays: Arrays) -> None:
    """Write the arrays of a part, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _do(part: Part) -> int:
    keep(part.path, part.work(*part.arguments))
    return part.size


def _start_worker() -> None:
    """Each worker has a core of its own; libraries that start a thread a core would fight over them."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a parent that was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
