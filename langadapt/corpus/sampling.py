"""A sample of the text of every language of the sources, large enough to measure tokenizers on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.collection import Collection
from langadapt.corpus.turns import TURNS
from langadapt.models import user_turn
from langadapt.text import units

_TEXTS, _BEGINNING = 1000, 500  # of a language; characters of each, since documents may be books


def sample_texts(collections: Sequence[Collection], seed: int) -> dict[str, list[str]]:
    """Return the beginnings of 1,000 texts, or of all there are, of every language of the sources that has any.

    A text is what passed the filters: a document, or what is asked or answered in the language in one record. Each is
    as likely to be chosen as any other of its language.
    """
    codes = dict.fromkeys(code for collection in collections for code in _languages(collection))
    samples = {code: _sample(collections, code, seed) for code in codes}
    return {code: texts for code, texts in samples.items() if any(map(units, texts))}


def _languages(collection: Collection) -> list[str]:
    if collection.directions is None:
        return list(collection.rows)
    return [code for direction in np.unique(collection.directions) for code in direction.split("-")]


def _sample(collections: Sequence[Collection], code: str, seed: int) -> list[str]:
    documents = [_documents(collection, code) for collection in collections]
    total = sum(map(len, documents))
    generator = np.random.default_rng([seed, zlib.crc32(code.encode())])
    chosen = np.sort(generator.choice(total, min(_TEXTS, total), replace=False)) if total else np.zeros(0, np.int64)
    texts: list[str] = []
    for collection, mine in zip(collections, documents, strict=True):
        here = chosen[(chosen >= 0) & (chosen < len(mine))]
        texts += (text[:_BEGINNING] for text in _texts(collection, code, mine[here]))
        chosen = chosen - len(mine)  # from here on numbers count from the next collection's first
    return texts


def _documents(collection: Collection, code: str) -> NDArray[np.int64]:
    """Return the documents or records that have text in a language."""
    if collection.directions is None:
        return np.flatnonzero(collection.usable(code)) if code in collection.rows else np.zeros(0, np.int64)
    spoken = [direction for direction in np.unique(collection.directions) if code in direction.split("-")]
    return np.flatnonzero(np.isin(collection.directions, spoken) & collection.usable(TURNS))


def _texts(collection: Collection, code: str, documents: NDArray[np.int64]) -> list[str]:
    """Return the text of documents in a language; of records, what is asked or answered in it."""
    if collection.directions is None:
        return [texts[code] for texts in collection.read(documents)]
    texts = []
    for direction, record in zip(collection.directions[documents], collection.read_records(documents), strict=True):
        turns = zip(direction.split("-"), (user_turn(record), record["output"]), strict=True)
        texts.append("\n".join(text for language, text in turns if language == code))
    return texts
