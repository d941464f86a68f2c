"""Finding twins: training text that equals, nearly equals or contains a held-out text, or stands inside one.

Texts are compared as sequences of units (syllables, characters, words; no punctuation, no case). Two texts are twins
when their sequences are equal, or when enough of the one's runs of eight units stand in the other: all of them for
texts of fewer than 16 units, 60 % of them from there on. Below eight units only equality counts, since a word or a name
stands inside many texts by right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from langadapt.text import units

RUN = 8
_SHORT = 16
_SHARE = 0.6

Run = tuple[str, ...]


class TwinIndex:
    """Held-out texts, indexed so that each training text is checked in one pass over its units."""

    def __init__(self) -> None:
        self._whole: dict[Run, str] = {}
        self._owners: dict[Run, list[int]] = defaultdict(list)
        self._texts: list[tuple[str, int, int]] = []  # owner, number of units, number of runs

    def add(self, owner: str, texts: Iterable[str]) -> None:
        """Add the texts of one held-out record: all its language versions."""
        for text in texts:
            sequence = _sequence(text)
            if not sequence:
                continue
            self._whole.setdefault(sequence, owner)
            text_runs = runs(sequence)
            for run in text_runs:
                self._owners[run].append(len(self._texts))
            self._texts.append((owner, len(sequence), len(text_runs)))

    def find(self, texts: Iterable[str]) -> str | None:
        """Return the owner of a held-out text that is a twin of one of ``texts``, or None."""
        for text in texts:
            sequence = _sequence(text)
            if sequence in self._whole:
                return self._whole[sequence]
            text_runs = runs(sequence)
            shared = Counter(index for run in text_runs for index in self._owners.get(run, ()))
            for index, count in shared.items():
                owner, length, held_out_runs = self._texts[index]
                if count >= _enough(length, held_out_runs) or count >= _enough(len(sequence), len(text_runs)):
                    return owner
        return None


def runs(sequence: Sequence[str]) -> set[Run]:
    """Return the distinct runs of `RUN` consecutive units."""
    return set(zip(*(sequence[start:] for start in range(RUN)), strict=False))


def _sequence(text: str) -> Run:
    return tuple(units(text.lower()))


def _enough(length: int, run_count: int) -> float:
    return run_count * (_SHARE if length >= _SHORT else 1.0)
