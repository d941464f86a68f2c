"""Which words go with which, learned from pairs found so far: IBM Model 1 (Brown et al. 1993) in both directions.

A pair must not confirm itself: lines are dealt into folds by stretches of the file, and the words of a line are judged
by what the other folds taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.alignment.features import WORD_BITS, Features, Integers, spread_out, take
from langadapt.text.blocks import Ragged, offsets_of

Floats = NDArray[np.float32]
COLUMNS = 2  # the words of the second line given the first, and the other way round

_FOLDS = 4
_STRETCH = 64  # lines
_MOST_WORDS = 4096  # in the vocabulary of a language
_MOST_SHARE = 0.5  # of the lines; a word in more says nothing
_MOST_CELLS = 2_000_000  # pairs of words to learn from
_ROUNDS = 4
_UNRELATED = 0.2  # probability that a word comes from nothing in the other line
_LEAST = 0.01  # translation probability worth keeping
_LEAST_COUNT = 0.3


@dataclass(frozen=True)
class Translations:
    """For each source word k, entries ``offsets[k]`` to ``offsets[k + 1]``: a target word, and the ratio of its
    probability given the source word to its probability anywhere."""

    offsets: Integers
    target: Integers
    ratio: Floats


@dataclass(frozen=True)
class Lexicon:
    """Translations by fold, in both directions, and the number of each word in its vocabulary, -1 for others."""

    first: Integers
    second: Integers
    forward: Sequence[Translations]
    backward: Sequence[Translations]

    @property
    def size(self) -> int:
        """Entries of the forward direction, in the first fold."""
        return len(self.forward[0].target)

    def columns(self, first: Features, second: Features, start: int) -> Floats:
        """Return [lines, band, `COLUMNS`], log-likelihood ratios as in `Likelihood.columns`.

        ``start`` is the number of the first line in its file, which decides about the fold.
        """
        lines, band = len(first), len(second) - len(first) + 1
        here, there = _known(first.words, self.first), _known(second.words, self.second)
        columns = np.empty((lines, band, COLUMNS), np.float32)
        begin = 0
        while begin < lines:
            end = min(lines, begin + _STRETCH - (start + begin) % _STRETCH)
            fold = int(_fold(np.array(start + begin)))
            some, others = take(here, np.arange(begin, end)), take(there, np.arange(begin, end + band - 1))
            forward = _log_ratios(self.forward[fold], some, len(self.backward[fold].offsets) - 1)
            backward = _log_ratios(self.backward[fold], others, len(self.forward[fold].offsets) - 1)
            for b in range(band):
                words = slice(others.offsets[b], others.offsets[b + end - begin])
                row = others.rows[words] - b
                columns[begin:end, b, 0] = np.bincount(row, forward[row, others.values[words]], end - begin)
                columns[begin:end, b, 1] = np.bincount(some.rows, backward[some.rows + b, some.values], end - begin)
            begin = end
        return columns


def learn(first: Features, second: Features, numbers: Integers) -> Lexicon:
    """Return what pairs teach: line k of ``first``, which is line ``numbers[k]`` of its file, with k of ``second``."""
    ids = _vocabulary(first.words), _vocabulary(second.words)
    here, there = _known(first.words, ids[0]), _known(second.words, ids[1])
    work = np.cumsum(here.lengths * there.lengths)
    if len(work) and work[-1] > _MOST_CELLS:
        some = np.unique(np.searchsorted(work, np.arange(0, work[-1], work[-1] / _MOST_CELLS * work[-1] / len(work))))
        here, there, numbers = take(here, some), take(there, some), numbers[some]
    # A cell is a word of a line with a word of its partner.
    counts = there.lengths[here.rows]
    source = np.repeat(np.arange(len(here.values)), counts)
    target = spread_out(there.offsets[:-1][here.rows], counts)
    width = _words_in(ids[1])
    keys, entry = np.unique(here.values[source] * width + there.values[target], return_inverse=True)
    words = keys // max(width, 1), keys % max(width, 1)
    frequency = tuple(np.bincount(w.values, minlength=_words_in(i)) for w, i in zip((here, there), ids, strict=True))
    fold = _fold(numbers)[here.rows[source]] if len(source) else np.zeros(0, np.int64)
    return Lexicon(
        ids[0],
        ids[1],
        _model_1(entry, target, fold, words, frequency),
        _model_1(entry, source, fold, words[::-1], frequency[::-1]),
    )


def _model_1(
    entry: Integers, competing: Integers, fold: Integers, words: tuple[Integers, ...], frequency: tuple[Integers, ...]
) -> list[Translations]:
    """Return the translations by fold. Each cell is of an entry (source word, target word) and competes with the
    cells of the same ``competing`` number, the same target word in the same line, for having brought that word about.
    """
    source, target = words
    chance = (frequency[1] + 0.5) / (frequency[1].sum() + 1)
    probability = np.ones(len(source))
    share = np.ones(len(entry))
    nothing = np.zeros(len(source))  # the first round, in which all are equal, knows no word that comes from nothing
    for _ in range(_ROUNDS):
        share = probability[entry]
        share /= np.bincount(competing, share)[competing] + nothing[entry] if len(entry) else 1
        probability = _probability(np.bincount(entry, share, len(source)), source, len(frequency[0]))
        nothing = _UNRELATED * chance[target]
    by_fold = np.bincount(fold * len(source) + entry, share, _FOLDS * len(source)).reshape(_FOLDS, len(source))
    total = by_fold.sum(axis=0)
    tables = []
    for own in by_fold:
        counts = total - own
        probability = _probability(counts, source, len(frequency[0]))
        kept = np.flatnonzero((probability > _LEAST) & (counts > _LEAST_COUNT))
        kept = kept[np.argsort(source[kept], kind="stable")]
        offsets = offsets_of(np.bincount(source[kept], minlength=len(frequency[0])))
        ratio = probability[kept] / chance[target[kept]]
        tables.append(Translations(offsets, target[kept], ratio.astype(np.float32)))
    return tables


def _probability(counts: NDArray[Any], source: Integers, words: int) -> NDArray[np.float64]:
    # The one more leaves rare words in doubt.
    return counts / (np.bincount(source, counts, words) + 1)[source]


def _log_ratios(translations: Translations, words: Ragged, size: int) -> Floats:
    """Return [lines, target words]: log of the probability of a target word given the line to that anywhere."""
    counts = np.diff(translations.offsets)[words.values]
    entry = spread_out(translations.offsets[:-1][words.values], counts)
    cell = np.repeat(words.rows, counts) * size + translations.target[entry]
    table = np.bincount(cell, translations.ratio[entry], len(words) * size).reshape(len(words), size)
    ratios = table.astype(np.float32)
    ratios *= ((1 - _UNRELATED) / np.maximum(words.lengths, 1)).astype(np.float32)[:, None]
    ratios += np.float32(_UNRELATED)
    return np.log(ratios, out=ratios)


def _vocabulary(words: Ragged) -> Integers:
    counts = np.bincount(words.values, minlength=1 << WORD_BITS)
    useful = np.flatnonzero((counts > 1) & (counts <= _MOST_SHARE * len(words) + 1))
    useful = useful[np.argsort(-counts[useful], kind="stable")[:_MOST_WORDS]]
    ids = np.full(1 << WORD_BITS, -1, np.int64)
    ids[useful] = np.arange(len(useful))
    return ids


def _words_in(ids: Integers) -> int:
    return int(ids.max()) + 1


def _known(words: Ragged, ids: Integers) -> Ragged:
    found = ids[words.values]
    kept = found >= 0
    return Ragged(found[kept], offsets_of(np.bincount(words.rows[kept], minlength=len(words))))


def _fold(numbers: Integers) -> Integers:
    return numbers // _STRETCH % _FOLDS
