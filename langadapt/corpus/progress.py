"""One progress bar over a whole run of stage 1, whose phases are weighed by how long each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

Advance = Callable[[float], None]  # takes the share of a phase that was just done


class Progress:
    """A bar whose remaining time takes all phases into account, in their order; ``expected`` is in any unit of time."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = dict(expected)
        self._bar = tqdm(
            total=sum(expected.values()),
            smoothing=0,  # phases differ in speed, which the weights take care of
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} to go",
            disable=None,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[Advance]:
        """Yield what a phase reports its progress to; it counts as done when the block ends."""
        self._bar.set_description(name)
        whole = left = self._expected[name]

        def advance(part: float) -> None:
            nonlocal left
            step = min(part * whole, left)
            left -= step
            self._bar.update(step)

        yield advance
        self._bar.update(left)
