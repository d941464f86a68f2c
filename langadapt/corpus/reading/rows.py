"""What a source is made of, whatever its layout; what cannot be read is a `langadapt.files.Bad`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dropped:
    """A record that was read well but is of no use. ``number`` counts the records of the source from 1."""

    number: int
    reason: str
    excerpt: str


@dataclass(frozen=True)
class TextRow:
    """One text in each of one or more languages.

    ``key`` is the record's own id, if it has one; ``document`` the name of the document that it is of.
    """

    number: int
    key: str | None
    texts: dict[str, str]
    document: str | None = None


@dataclass(frozen=True)
class TurnRow:
    """An instruction in one language and its answer in the same or another.

    ``record`` has the texts ``instruction``, ``input`` and ``output``; where the source has them also ``system``,
    ``history`` (``[user, assistant]`` of each earlier turn) and ``rejected``, the answer that was not preferred.
    """

    number: int
    key: str | None
    record: dict[str, Any]
    source_lang: str
    target_lang: str
