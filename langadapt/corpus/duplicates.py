"""Which texts are one text: equal ones, and near ones found by MinHash and proven by their true Jaccard similarity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.progress import Advance
from langadapt.corpus.scan import BANDS, shingled, similarity
from langadapt.recipe.cleaning import DeduplicationSettings
from langadapt.text.blocks import Hashes

Clusters = NDArray[np.int64]
_VERIFIED_AT_ONCE = 256  # pairs of candidates whose texts are in memory


def find_clusters(
    exact: Hashes,
    band: Callable[[int], Hashes],
    read: Callable[[Sequence[int]], list[str]],
    settings: DeduplicationSettings,
    advance: Advance,
) -> tuple[Clusters, dict[str, Any]]:
    """Return for every text the first text of its cluster, and how many were found equal and near.

    ``exact`` has a hash of each text, 0 for texts that take no part; ``band(b)`` gives the keys of the b-th band of
    their MinHashes, and ``read`` the texts of some numbers. One band is in memory at a time.
    """
    clusters = np.arange(len(exact), dtype=np.int64)
    report: dict[str, Any] = {}
    if settings.exact or settings.near:
        members = np.flatnonzero(exact)
        firsts, others = _neighbours(exact[members], members, chained=False)
        clusters[others] = firsts
        report["equal"] = len(others)
    if settings.near:
        report |= _join_near(clusters, exact != 0, band, read, settings.near, settings.shingle, advance)
    return clusters, report


def _join_near(
    clusters: Clusters,
    taking_part: NDArray[np.bool_],
    band: Callable[[int], Hashes],
    read: Callable[[Sequence[int]], list[str]],
    threshold: float,
    shingle: int,
    advance: Advance,
) -> dict[str, Any]:
    """Join the clusters of near texts, in place; a cluster is told by its first text."""
    members = np.flatnonzero(taking_part & (clusters == np.arange(len(clusters))))
    refuted = np.zeros(0, np.int64)  # pairs, in one number, whose similarity was found too low
    compared = joined = 0
    for b in range(BANDS):
        firsts, others = _neighbours(band(b)[members], members, chained=True)
        pairs = np.unique(firsts * len(clusters) + others)
        pairs = np.setdiff1d(pairs, refuted, assume_unique=True)
        low: list[int] = []
        for start in range(0, len(pairs), _VERIFIED_AT_ONCE):
            some = [divmod(int(pair), len(clusters)) for pair in pairs[start : start + _VERIFIED_AT_ONCE]]
            some = [pair for pair in some if _root(clusters, pair[0]) != _root(clusters, pair[1])]
            numbers = sorted({number for pair in some for number in pair})
            grams = dict(zip(numbers, shingled(read(numbers), shingle), strict=True))
            near = [similarity(grams[first], grams[other]) >= threshold for first, other in some]
            compared += len(some)
            for (first, other), is_near in zip(some, near, strict=True):
                roots = sorted((_root(clusters, first), _root(clusters, other)))
                if is_near and roots[0] != roots[1]:
                    clusters[roots[1]] = roots[0]
                    joined += 1
            low += [first * len(clusters) + other for (first, other), ok in zip(some, near, strict=True) if not ok]
            advance(len(some) / max(1, len(pairs)) / BANDS)
        refuted = np.union1d(refuted, np.array(low, np.int64))
    while (clusters[clusters] != clusters).any():
        clusters[:] = clusters[clusters]
    return {"near": joined, "candidates compared": compared, "candidates refuted": len(refuted)}


def _neighbours(keys: Hashes, members: NDArray[np.int64], chained: bool) -> tuple[Clusters, Clusters]:
    """Return pairs of members with equal keys, the lower number first.

    Each is paired with the first of its key; ``chained`` with the one before it as well, which may be nearer.
    """
    order = np.argsort(keys, kind="stable")
    keys, members = keys[order], members[order]
    same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    begins = np.ones(len(keys), np.bool_)
    begins[same] = False
    first = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    firsts, others = members[first[same]], members[same]
    if chained:
        firsts, others = np.append(firsts, members[same - 1]), np.append(others, others)
    return firsts, others


def _root(clusters: Clusters, number: int) -> int:
    while clusters[number] != number:
        number = int(clusters[number])
    return number
