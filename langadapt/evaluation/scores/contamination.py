"""Which test items stand in the training files, by n-grams of syllables, characters or words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from langadapt.errors import UserError
from langadapt.files import iter_json_array, read_jsonl, read_lines, strings_in
from langadapt.text import normalize
from langadapt.text.blocks import BLOCK_CHARACTERS, Hashes, blocks_of, shingles

# PaLM calls an item contaminated from 70 % of its 8-grams of words (Chowdhery et al. 2022, section 8). One changed unit
# unmakes eight of them, though. Of 1,686 NTREX sentences with one Tibetan syllable changed, 76 % are still found at
# 0.7 and 93 % at 0.5; and in other text in the same language no sentence gets above 0.1.
THRESHOLD = 0.5

_BUCKETS = np.uint64((1 << 24) - 1)


@dataclass(frozen=True)
class FoundItems:
    """For every text looked for, in normal form, which share of its n-grams the training files hold."""

    ngram: int
    threshold: float
    shares: Mapping[str, float]

    def holds(self, text: str) -> bool:
        """Say whether a text counts as found; raise `KeyError` for one that was not looked for."""
        return self.shares[_normal([text])[0]] >= self.threshold


def find_items(texts: Iterable[str], files: Sequence[str | Path], ngram: int, way_out: str = "") -> FoundItems:
    """Look for ``texts`` (sources and references alike, each for itself) in all strings of the training files.

    ``files`` are JSON arrays of records (.json), one record a line (.jsonl), or text, one document a line (.txt); the
    share of a text counts what any of them holds. Compared are units (`langadapt.text.units`) after normalisation, in
    upper and lower case alike: punctuation and spacing make no difference. A text of fewer than ``ngram`` units is
    found where a whole string or line has these units and no others: as a part it would be found in any corpus.

    Memory holds the n-grams of ``texts`` and a block of a file. Raises `UserError` for a file that cannot be read,
    with ``way_out``.
    """
    wanted = list(dict.fromkeys(_normal(list(texts))))
    blocks = [shingles(block.units, ngram) for _, block in blocks_of(wanted)]
    rows = [block[row] for block in blocks for row in range(len(block))]
    grams = np.unique(np.concatenate([*rows, np.zeros(0, np.uint64)]))
    found = np.zeros(len(grams), np.bool_)
    buckets = np.zeros(int(_BUCKETS) + 1, np.bool_)
    buckets[grams & _BUCKETS] = True
    for path in files:
        strings = _strings_of_file(Path(path), way_out)
        for some in _batches(tqdm(strings, f"looking through {path}", unit="text", unit_scale=True, disable=None)):
            for _, block in blocks_of(some):
                _mark(shingles(block.units, ngram).values, grams, buckets, found)
    shares = [float(found[np.searchsorted(grams, row)].mean()) if len(row) else 0.0 for row in rows]
    return FoundItems(ngram, THRESHOLD, dict(zip(wanted, shares, strict=True)))


def _mark(values: NDArray[Any], grams: Hashes, buckets: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
    """Set ``found`` for the ``grams`` (sorted) among ``values``; most are put aside by a look into ``buckets``."""
    values = values[buckets[values & _BUCKETS]]
    place = np.searchsorted(grams, values)
    place[place == len(grams)] = 0
    if len(values):
        found[place[grams[place] == values]] = True


def _strings_of_file(path: Path, way_out: str) -> Iterator[str]:
    if path.suffix == ".json":
        yield from (text for record in iter_json_array(path, way_out) for text in strings_in(record))
    elif path.suffix == ".jsonl":
        yield from (text for _, record in read_jsonl(path, way_out) for text in strings_in(record))
    elif path.suffix == ".txt":
        yield from (line for _, line in read_lines(path, way_out))
    else:
        raise UserError(f"training_files: {path} is neither .json, .jsonl nor .txt: no way to read it is known.")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield normalised texts in lists of about a block's size."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BLOCK_CHARACTERS:
            yield _normal(batch)
            batch, characters = [], 0
    yield _normal(batch)


def _normal(texts: Sequence[str]) -> list[str]:
    # In which language a training text is, is not known. The Tibetan form is NFC on all others.
    return [normalize(text, "tibetan") for text in texts]
