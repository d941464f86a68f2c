"""Cutting a pair of long documents into aligned segments, at sentence ends that surely belong together.

The sentences of both are read as beads after Gale and Church (1993): a few of one go with a few of the other, because
lengths go together and numbers and names meet again. Forward-backward over all ways to string the beads gives each
place to cut its probability. A shad ends a clause, so several sentences to one are the rule in Tibetan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from langadapt.corpus.alignment.features import Features, extract, occurrences, token_index
from langadapt.recipe.language import Language
from langadapt.text import numbers, whole_sentences
from langadapt.text.blocks import TextBlock, offsets_of

Floats = NDArray[np.float64]

_MANY, _FEW = 8, 3  # sentences of the document with more of them, and of the other, in one bead
_FEWER = np.array([0.85, 0.12, 0.03])  # probability of 1, 2, 3 sentences of the document with fewer of them
_LEAST_MORE = 0.1  # sentences beyond the first, on average, where both documents have as many
_VARIANCE = 1.5  # of the length of a translation, in units a unit
_CARRIED = 0.7  # probability that a rare number or name of a sentence is in its translation
_TELLING = [0, 1, 2, 3, 5, 7]  # of MARKS: questions, exclamations, quotes, brackets, colons, per cent
_SURE = 0.92  # of a bound
_LIMIT = 60.0  # nats, that one bead says at most: products of eight stay numbers
_MOST_CELLS = 500_000  # sentences of the one document times those of the other: 100 MB
_MOST_RATIO = 1.6  # between the length ratio of a segment and that of the documents


@dataclass(frozen=True)
class _Sentences:
    """A document, where its sentences begin and end, and what alignment needs to know of them."""

    text: str
    bounds: list[int]
    features: Features

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def between(self, start: int, stop: int) -> str:
        return self.text[self.bounds[start] : self.bounds[stop]].strip()


def split_pair(
    source: str,
    target: str,
    source_language: Language,
    target_language: Language,
    longest: int | Callable[[str, str], bool],
) -> list[tuple[str, str]]:
    """Return a document and its translation in few aligned segments that fit, in order; the pair alone if it fits.

    ``longest`` counts UTF-8 bytes of source and target together, or is a function that says whether a segment fits.
    All segments together are the documents but for white space. An empty list means that the pair cannot be cut with
    confidence: no sure place is near enough, the length ratio or the numbers of a segment do not agree, or the
    documents are beyond some 700 sentences.
    """

    def fits(a: str, b: str) -> bool:
        return longest(a, b) if callable(longest) else len(a.encode()) + len(b.encode()) <= longest

    source, target = source.strip(), target.strip()
    if fits(source, target):
        return [(source, target)]
    first, second = _sentences(source, source_language), _sentences(target, target_language)
    if min(len(first), len(second)) < 2:
        return []
    segments = _cut(first, second, _sure_bounds(first.features, second.features), fits)
    return segments if segments and _agree(segments, source_language, target_language) else []


def _sentences(text: str, language: Language) -> _Sentences:
    parts = whole_sentences(text, language.sentence_ends, spaced=language.segmentation == "words")
    bounds = [0, *accumulate(map(len, parts))]
    return _Sentences(text, bounds, extract(TextBlock(parts), language.segmentation))


def _cut(
    first: _Sentences, second: _Sentences, bounds: list[tuple[int, int, float]], fits: Callable[[str, str], bool]
) -> list[tuple[str, str]]:
    """Cut at the most probable bounds among all choices whose segments fit, which are few; nothing where there is none.

    Every cut costs the logarithm of its probability, so that the best choice has none it could do without.
    """
    places = [(0, 0, 1.0), *bounds]

    def segment(k: int, j: int) -> tuple[str, str]:
        return first.between(places[k][0], places[j][0]), second.between(places[k][1], places[j][1])

    # The least cost of cutting up to each place, and where the last segment then begins.
    cost, origin = [0.0] + [math.inf] * len(bounds), [0] * len(places)
    reached = 0  # the furthest place up to which a segment fits that begins at the place before
    for k in range(len(bounds)):
        reached = max(k, reached)
        while reached < len(bounds) and fits(*segment(k, reached + 1)):
            reached += 1
        for j in range(k + 1, reached + 1):
            if cost[k] - math.log(places[j][2]) < cost[j]:
                cost[j], origin[j] = cost[k] - math.log(places[j][2]), k
    if cost[-1] == math.inf:
        return []
    ends = [len(bounds)]
    while ends[-1]:
        ends.append(origin[ends[-1]])
    return [segment(k, j) for k, j in pairwise(reversed(ends))]


def _agree(segments: list[tuple[str, str]], source_language: Language, target_language: Language) -> bool:
    """Say whether every segment has about the length ratio of the whole, and numbers in common if both have some."""
    lengths = [
        extract(TextBlock([pair[side] for pair in segments]), language.segmentation).length.astype(np.float64)
        for side, language in enumerate((source_language, target_language))
    ]
    if min(lengths[0].min(), lengths[1].min()) == 0:
        return False
    ratios = np.log(lengths[1] / lengths[0]) - math.log(lengths[1].sum() / lengths[0].sum())
    if np.abs(ratios).max() > math.log(_MOST_RATIO):
        return False
    of_both = [(set(numbers(a)), set(numbers(b))) for a, b in segments]
    return all(not here or not there or here & there for here, there in of_both)


def _sure_bounds(first: Features, second: Features) -> list[tuple[int, int, float]]:
    """Return the places, in sentences of both from the beginning, that are surely the same, and how probably.

    The end, which is certain, is the last of them.
    """
    if len(first) < len(second):
        return [(a, b, probability) for b, a, probability in _sure_bounds(second, first)]
    if len(first) > _MANY * len(second) or len(first) * len(second) > _MOST_CELLS:
        return []
    probability = _bound_probabilities(_beads(first, second))
    places = (np.argwhere(probability[1:-1, 1:-1] >= _SURE) + 1).tolist()
    return [(a, b, min(1.0, float(probability[a, b]))) for a, b in places] + [(len(first), len(second), 1.0)]


def _beads(first: Features, second: Features) -> Floats:
    """Return the likelihood of a bead that begins at sentences s and t and is a + 1 by b + 1 long, [s, t, a, b]."""
    here, there = offsets_of(first.length.astype(np.int64)), offsets_of(second.length.astype(np.int64))
    scale = max(1, int(here[-1])) / max(1, int(there[-1]))
    shared = np.cumsum(np.cumsum(np.pad(_shared(first, second), ((0, 0), (1, 0), (1, 0))), axis=1), axis=2)
    mean = len(first) / len(second)
    lengths = np.diff(there) * scale
    usual = lengths.mean()
    width = max(lengths.std(), math.sqrt(_VARIANCE * max(1.0, usual)))
    beads = np.zeros((len(first), len(second), _MANY, _FEW))
    for a in range(1, min(_MANY, len(first)) + 1):
        long = (here[a:] - here[:-a])[:, None]
        for b in range(1, min(_FEW, len(second)) + 1):
            short = (there[b:] - there[:-b]) * scale
            spread = np.sqrt(_VARIANCE * np.maximum(1, (long + short) / 2))
            deviation = (short - long) / spread
            # Student's t with 4 degrees of freedom
            length = math.log(0.375) - 2.5 * np.log1p(deviation**2 / 4) - np.log(spread)
            # to a normal density: so many sentences of this document, whichever they are
            length += (short - b * usual) ** 2 / (2 * b * width**2) + math.log(width * math.sqrt(2 * math.pi * b))
            weight, count = shared[:, a:, b:] - shared[:, :-a, b:] - shared[:, a:, :-b] + shared[:, :-a, :-b]
            # Each might as well be in another of the b. They come in company, so only half of that counts.
            met = weight - count * math.log(b) / 2
            more = max(_LEAST_MORE, b * mean - 1)
            prior = math.log(_FEWER[b - 1]) + (a - 1) * math.log(more) - more - math.lgamma(a)  # Poisson, of a - 1
            ratio = np.exp(np.clip(length + met + prior, -_LIMIT, _LIMIT))
            beads[: len(first) - a + 1, : len(second) - b + 1, a - 1, b - 1] = ratio
    return beads


def _shared(first: Features, second: Features) -> Floats:
    """Return what each sentence shares with each, numbers, Latin words and marks, [2, s, t]: the log-likelihood ratio
    of a 1-1 bead, and the number of things.
    """
    tokens = first.tokens
    every = np.zeros(len(tokens.values), np.int64)
    which, others = occurrences(token_index(second.tokens), tokens.values, every, every + len(second))
    here = np.unique(tokens.values, return_inverse=True)[1]
    most = np.maximum(np.bincount(here)[here], np.bincount(which, minlength=len(every)))
    weight = np.maximum(0, np.log(_CARRIED * len(second) / np.maximum(most, 1)))
    cells = tokens.rows[which] * len(second) + others
    size = len(first) * len(second)
    shared = np.stack([np.bincount(cells, values[which], size) for values in (weight, weight > 0)])
    marks = [(features.marks[:, _TELLING] > 0).astype(np.float64) for features in (first, second)]
    most = np.maximum(marks[0].sum(axis=0), marks[1].sum(axis=0))
    weight = np.maximum(0, np.log(_CARRIED * len(second) / np.maximum(most, 1)))
    of_marks = [marks[0] * values @ marks[1].T for values in (weight, weight > 0)]
    everything: Floats = shared.reshape(2, len(first), len(second)) + np.stack(of_marks)
    return everything


def _bound_probabilities(beads: Floats) -> Floats:
    """Return the probability that a bead ends before sentences s and t, [s, t]: forward-backward."""
    lines, others = beads.shape[:2]
    # Padded, so that beads which lead past an end lead nowhere.
    forward = np.zeros((lines + _MANY + 1, others + _FEW + 1))
    forward[0, 0] = 1
    scales = np.ones(lines + _MANY + 1)
    for s in range(lines):
        for b in range(1, _FEW + 1):
            forward[s + 1 : s + _MANY + 1, b : others + b] += (forward[s, :others, None] * beads[s, :, :, b - 1]).T
        scales[s + 1] = forward[s + 1].sum() or 1.0
        forward[s + 1 : s + _MANY + 1] /= scales[s + 1]
    if not forward[lines, others]:  # no string of beads leads to the end
        return np.zeros((lines + 1, others + 1))
    backward = np.zeros_like(forward)
    backward[lines, others] = 1 / forward[lines, others]
    for s in range(lines - 1, -1, -1):
        ahead = backward[s + 1 : s + _MANY + 1] / np.cumprod(scales[s + 1 : s + _MANY + 1])[:, None]
        windows = sliding_window_view(ahead[:, 1:], _FEW, axis=1)[:, :others]
        backward[s, :others] = np.einsum("tab,atb->t", beads[s], windows)
    return (forward * backward)[: lines + 1, : others + 1]
