"""Many texts at once: the same units, numbers and words as `langadapt.text`, as 64-bit hashes in numpy arrays.

A regular expression takes about a microsecond a syllable. Here a block of texts becomes one array of code points, a
table gives the class of each, and whole arrays are cut, counted and hashed together, fifty times as fast. Hashes are
the same in every block, run and process.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from langadapt.text.segmentation import NO_SPACES

Hashes = NDArray[np.uint64]
Table = NDArray[np.bool_]  # one entry a code point

_CODE_POINTS = 0x110000
_NUMBER, _NO_SPACES, _TIBETAN, _LETTER, _MARK_OF_NO_SPACES, _ATTACHED = 1, 2, 3, 4, 5, 6
# Texts of a block are told apart in the upper 16 bits of a key, their hashes in the lower 48.
MOST_TEXTS = 1 << 16
BLOCK_CHARACTERS = 1 << 18
_HASH_BITS = np.uint64(48)


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array: row k is ``values[offsets[k]:offsets[k + 1]]``."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.generic]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of every row."""
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of every value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def distinct(self) -> Ragged:
        """Return rows of distinct values in ascending order, each cut to its lower 48 bits (at most 65,536 rows)."""
        if len(self) > MOST_TEXTS:
            raise ValueError(f"{len(self)} rows in one block; at most {MOST_TEXTS} can be told apart")
        keys = self.rows.astype(np.uint64) << _HASH_BITS | self.values.astype(np.uint64) & _low_bits()
        keys.sort()
        first = np.ones(len(keys), np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        keys = keys[first]
        counts = np.bincount((keys >> _HASH_BITS).astype(np.int64), minlength=len(self))
        return Ragged(keys & _low_bits(), offsets_of(counts))


class TextBlock:
    """At most 65,536 texts, measured together. Counts have one entry a text.

    Arrays of some megabytes stay in a core's cache: blocks of about `BLOCK_CHARACTERS` are the fastest.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        joined = "\n".join(texts) + "\n"
        self.codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.offsets = offsets_of(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def characters(self) -> NDArray[np.int64]:
        """The code points of every text."""
        return np.diff(self.offsets) - 1

    def count(self, table: Table) -> NDArray[np.int64]:
        """Return how many code points of every text are in ``table``."""
        return self.sums(table[self.codes])

    def sums(self, marked: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many positions of every text are marked; ``marked`` has one entry a code point of the block."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.add.reduceat(marked, self.offsets[:-1], dtype=np.int64)

    @cached_property
    def units(self) -> Ragged:
        """The hashes of `langadapt.text.units` of every text, upper and lower case alike."""
        kinds = _kinds()[self.codes]
        marks = _marks()[self.codes]
        if marks.any() and (kinds == _NO_SPACES).any():
            # A mark behind a character of a script without spaces, or behind such marks, belongs to it.
            position = np.arange(len(kinds), dtype=np.int32)
            base = np.maximum.accumulate(np.where(marks, 0, position))
            kinds[marks & (kinds[base] == _NO_SPACES)] = _ATTACHED
        kinds[kinds == _MARK_OF_NO_SPACES] = 0
        inside = kinds > 0
        starts = inside & (kinds != _ATTACHED)
        starts[1:] &= (kinds[1:] != kinds[:-1]) | (kinds[1:] == _NO_SPACES)
        return self._hashed(starts, inside, _letters_hashed())

    @cached_property
    def latin_words(self) -> Ragged:
        """The hashes of `langadapt.text.latin_words` of every text."""
        inside = _script("Latin")[self.codes]
        inside &= _neighbours(inside)
        return self._hashed(_run_starts(inside), inside, _letters_hashed())

    @cached_property
    def numbers(self) -> Ragged:
        """The decimal numbers of every text, modulo 2**64, whatever script they are written in."""
        digits = _digits()[self.codes]
        inside = digits < 10
        starts = np.flatnonzero(_run_starts(inside))
        if not len(starts):
            return Ragged(np.zeros(0, np.uint64), np.zeros(len(self) + 1, np.int64))
        where = np.flatnonzero(inside)
        run = np.searchsorted(starts, where, side="right") - 1
        ends = np.flatnonzero(inside & ~np.append(inside[1:], False))
        powers = _powers(10, int((ends - starts).max()) + 1)
        terms = digits[where].astype(np.uint64) * powers[ends[run] - where]
        return self._by_text(np.add.reduceat(terms, np.searchsorted(where, starts)), starts)

    def _hashed(self, starts: NDArray[np.bool_], inside: NDArray[np.bool_], table: Hashes) -> Ragged:
        """Return the polynomial hash of every run of ``inside`` that begins at a position of ``starts``."""
        begin = np.flatnonzero(starts)
        if not len(begin):
            return Ragged(np.zeros(0, np.uint64), np.zeros(len(self) + 1, np.int64))
        lengths = np.diff(np.append(begin, len(self.codes)))
        place = np.arange(begin[0], len(self.codes)) - np.repeat(begin, lengths)
        place[~inside[begin[0] :]] = 0
        terms = table[self.codes[begin[0] :]] * _powers(_BASE, int(place.max()) + 1)[place]
        terms[~inside[begin[0] :]] = 0
        return self._by_text(mixed(np.add.reduceat(terms, begin - begin[0])), begin)

    def _by_text(self, values: NDArray[np.uint64], positions: NDArray[np.int64]) -> Ragged:
        return Ragged(values, np.searchsorted(positions, self.offsets).astype(np.int64))


def blocks_of(texts: Sequence[str]) -> Iterator[tuple[int, TextBlock]]:
    """Yield blocks of about `BLOCK_CHARACTERS` that hold all texts in order, each with the index of its first text."""
    first, characters = 0, 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters >= BLOCK_CHARACTERS or index + 1 - first == MOST_TEXTS:
            yield first, TextBlock(texts[first : index + 1])
            first, characters = index + 1, 0
    if first < len(texts):
        yield first, TextBlock(texts[first:])


def shingles(units: Ragged, size: int) -> Ragged:
    """Return the hashes of every ``size`` consecutive units of each text; of all its units where there are fewer.

    A text without units has no shingle. They are not made distinct.
    """
    values, lengths = units.values.astype(np.uint64), units.lengths
    counts = np.where(lengths >= size, lengths - size + 1, np.minimum(lengths, 1))
    padded = np.concatenate([values, np.zeros(size, np.uint64)])
    powers = _powers(_SHINGLE_BASE, size)
    total = np.zeros(len(values), np.uint64)
    remaining = units.offsets[1:][units.rows] - np.arange(len(values))
    short = bool((lengths < size).any())
    for k in range(size):
        step = padded[k : k + len(values)] * powers[k]
        total += np.where(remaining > k, step, np.uint64(0)) if short else step
    first = np.arange(len(values)) - units.offsets[:-1][units.rows]
    return Ragged(mixed(total[first < counts[units.rows]]), offsets_of(counts))


def sequences(units: Ragged) -> Hashes:
    """Return one hash of all units of every text, in their order; 0 for a text without units."""
    whole = np.zeros(len(units), np.uint64)
    some = units.lengths > 0
    if some.any():
        place = np.arange(len(units.values)) - units.offsets[:-1][units.rows]
        terms = units.values.astype(np.uint64) * _powers(_SHINGLE_BASE, int(place.max()) + 1)[place]
        whole[some] = mixed(np.add.reduceat(terms, units.offsets[:-1][some]))
    return whole


def table_of(characters: str) -> Table:
    """Return a table of the code points that occur in ``characters``, for `TextBlock.count`."""
    table = np.zeros(_CODE_POINTS, np.bool_)
    table[[ord(character) for character in characters]] = True
    return table


@cache
def letters_of(*scripts: str) -> Table:
    """Return a table of the letters and combining marks of the named Unicode scripts; of all scripts without a name."""
    if not scripts:
        return _table(r"[\p{L}\p{M}]")
    classes = "".join(rf"\p{{Script={script}}}" for script in scripts)
    return _table(rf"[[{classes}]&&[\p{{L}}\p{{M}}]]")


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the offsets of rows with these lengths, one more than there are rows."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def mixed(values: Hashes) -> Hashes:
    """Return well-distributed hashes of 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


_BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it loses bits
_SHINGLE_BASE = 0xD1342543DE82EF95


@cache
def _low_bits() -> np.uint64:
    return np.uint64((1 << int(_HASH_BITS)) - 1)


def _powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _run_starts(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    starts = inside.copy()
    starts[1:] &= ~inside[:-1]
    return starts


def _neighbours(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which positions have a marked neighbour: with ``inside``, the runs of two and more."""
    found = np.zeros(len(inside), np.bool_)
    found[1:] |= inside[:-1]
    found[:-1] |= inside[1:]
    return found


@cache
def _kinds() -> NDArray[np.uint8]:
    """Return what each code point is to `langadapt.text.units`, whose pattern this repeats."""
    kinds = np.zeros(_CODE_POINTS, np.uint8)
    kinds[_table(r"[\p{L}\p{M}]")] = _LETTER
    kinds[_table(r"[\p{Tibetan}&&[\p{L}\p{M}]]")] = _TIBETAN
    kinds[_table(rf"[[{NO_SPACES}]&&[\p{{M}}]]")] = _MARK_OF_NO_SPACES
    kinds[_table(rf"[[{NO_SPACES}]&&[\p{{L}}]]")] = _NO_SPACES
    kinds[_table(r"\p{N}")] = _NUMBER
    return kinds


@cache
def _marks() -> Table:
    return _table(r"\p{M}")


@cache
def _script(name: str) -> Table:
    return _table(rf"\p{{Script={name}}}")


@cache
def _digits() -> NDArray[np.uint8]:
    """Return the value of every decimal digit; 255 for what is none."""
    values = np.full(_CODE_POINTS, 255, np.uint8)
    for code in np.flatnonzero(_table(r"\p{Nd}")):
        values[code] = unicodedata.decimal(chr(code), 255)  # Python's Unicode may be older than that of regex
    return values


@cache
def _letters_hashed() -> Hashes:
    """Return a hash of every code point, the same for upper and lower case where those are one code point each."""
    lower = np.arange(_CODE_POINTS, dtype=np.uint64)
    for code in np.flatnonzero(_table(r"\p{Uppercase}")):
        small = chr(code).lower()
        if len(small) == 1:
            lower[code] = ord(small)
    return mixed(lower + np.uint64(1))


@cache
def _table(pattern: str) -> Table:
    table = np.zeros(_CODE_POINTS, np.bool_)
    for run in regex.finditer(rf"(?:{pattern})+", _every_code_point(), regex.V1):
        table[run.start() : run.end()] = True
    return table


@cache
def _every_code_point() -> str:
    return "".join(map(chr, range(_CODE_POINTS)))
