"""Pairing the lines of parallel files that have drifted apart: any number of languages, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.alignment.coarse import Outline, coarse_path, standardised
from langadapt.corpus.alignment.features import TOKEN_BITS, FeatureParts, Features, Integers, take
from langadapt.corpus.alignment.likelihood import Occurrence
from langadapt.corpus.alignment.passes import File, Paired, pair_lines
from langadapt.text.blocks import offsets_of

# Posteriors are cautious: of pairs at 0.7 and more, over 99.5 % are true (docs/EXPERIMENTS.md).
SURE = 0.7
_PLACES = 50  # of drift, in the report
_OUTLINE_TOKENS = 2  # a line on average, for the coarse path
_MOST_LINES_OF_A_TOKEN = 0.05  # of a file, for the same
_CHUNK = 16384  # lines read at once
# Texts that have nothing to do with each other agree here and there, in short runs.
_NEAR, _LEAST_NEAR = 100, 0.5  # lines around a pair, and the share of them that has to be paired


@dataclass(frozen=True)
class Alignment:
    """``rows[n, language]``: line numbers from 0 that belong together, in the order of the parts given to `align`.

    A row has a line of the first language and of at least one other; -1 stands for a language in which no line surely
    belongs to it. ``posteriors`` holds for each row the smallest probability of its pairs. ``report`` is JSON.
    """

    rows: Integers
    posteriors: NDArray[np.float32]
    report: dict[str, Any]


def align(parts: dict[str, FeatureParts], progress: Callable[[float], None] | None = None) -> Alignment:
    """Pair the lines of one file a language; the first language is the pivot that the others are paired with.

    A line of the pivot makes a row with the lines that are paired with it in confidence; blank lines are left out.
    ``progress`` is called with the share of the work done so far. Nothing is drawn at random.
    """
    pivot, *others = parts
    surveys = {code: _survey(part) for code, part in parts.items()}
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        done += share / max(1, len(others))
        if progress is not None:
            progress(min(done, 1.0))

    first = surveys[pivot]
    partners, smallest = [], np.ones(len(first.kept), np.float32)
    report: dict[str, Any] = {"lines": {code: len(part) for code, part in parts.items()}, "pairs": {}}
    for code in others:
        paired = _pair(first, surveys[code], advance)
        pairs = _confident(first, surveys[code], paired)
        partners.append(pairs)
        smallest = np.minimum(smallest, np.where(pairs >= 0, paired.posterior, 1))
        report["pairs"][f"{pivot}-{code}"] = _describe(pivot, code, first, surveys[code], pairs, paired)
    rows, source = _rows(first, [surveys[code] for code in others], partners)
    report["rows"] = {
        "in all languages": int((rows >= 0).all(axis=1).sum()),
        "in some": int((rows < 0).any(axis=1).sum()),
    }
    return Alignment(rows, smallest[source], report)


@dataclass(frozen=True)
class _Survey:
    """A file without its repeated lines: ``kept`` numbers the lines that do not repeat the one before."""

    parts: FeatureParts
    kept: NDArray[np.int32]
    length: NDArray[np.int32]
    counts: Integers  # of tokens

    def read(self, start: int, stop: int) -> Features:
        begin, end = int(self.kept[start]), int(self.kept[stop - 1]) + 1
        features = self.parts.read(begin, end)
        return features if end - begin == stop - start else features[self.kept[start:stop].astype(np.int64) - begin]

    @property
    def repeats(self) -> Integers:
        """How often each kept line stands in a row."""
        return np.append(self.kept[1:], len(self.parts)).astype(np.int64) - self.kept

    @property
    def file(self) -> File:
        return File(len(self.kept), self.read, Occurrence(self.counts, len(self.kept)))


def _survey(parts: FeatureParts) -> _Survey:
    kept, lengths = [], []
    counts = np.zeros(1 << TOKEN_BITS, np.int64)
    last = np.uint64(0)
    for start in range(0, len(parts), _CHUNK):
        features = parts.read(start, min(len(parts), start + _CHUNK))
        # A blank line (content 0) stands for some other line of its own.
        new = (features.content != np.append(last, features.content[:-1])) | (features.content == 0)
        last = features.content[-1]
        kept.append((start + np.flatnonzero(new)).astype(np.int32))
        lengths.append(features.length[new])
        counts += np.bincount(take(features.tokens, np.flatnonzero(new)).values, minlength=len(counts))
    nothing = np.zeros(0, np.int32)
    return _Survey(parts, np.concatenate([nothing, *kept]), np.concatenate([nothing, *lengths]), counts)


def _pair(first: _Survey, second: _Survey, advance: Callable[[float], None]) -> Paired:
    most = np.maximum(first.counts, second.counts)
    longest = max(len(first.kept), len(second.kept))
    useful = (first.counts > 0) & (second.counts > 0) & (most <= _MOST_LINES_OF_A_TOKEN * longest + 1)
    # The rarest tokens, so many that they come to a few for each line.
    by_rarity = np.argsort(np.where(useful, most, longest + 1), kind="stable")
    enough = np.cumsum(most[by_rarity]) <= _OUTLINE_TOKENS * longest + 100
    useful[by_rarity[~enough]] = False
    weight = (0.7 * np.log1p(longest / (most + 1))).astype(np.float32)
    path = coarse_path(_outline(first, useful), _outline(second, useful), weight)
    return pair_lines(first.file, second.file, path, advance)


def _outline(survey: _Survey, useful: NDArray[np.bool_]) -> Outline:
    tokens, lines = [np.zeros(0, np.uint32)], [np.zeros(0, np.int32)]
    for start in range(0, len(survey.kept), _CHUNK):
        found = survey.read(start, min(len(survey.kept), start + _CHUNK)).tokens
        some = useful[found.values]
        tokens.append(found.values[some].astype(np.uint32))
        lines.append((start + found.rows[some]).astype(np.int32))
    return Outline(standardised(survey.length), np.concatenate(tokens), np.concatenate(lines))


def _confident(first: _Survey, second: _Survey, paired: Paired) -> Integers:
    """Return for each line of the first file its partner, -1 where there is no confident one."""
    partner = np.where(paired.posterior >= SURE, paired.partner, -1)
    partner[first.length == 0] = -1
    lines = np.flatnonzero(partner >= 0)
    lines = lines[second.length[partner[lines]] > 0]
    while len(lines):
        # Where windows meet, both may claim a line.
        crossing = np.diff(partner[lines]) <= 0
        if not crossing.any():
            break
        lines = lines[~(np.append(crossing, False) | np.append(False, crossing))]
    result = np.full(len(partner), -1)
    lines = lines[_in_company(lines, first.length > 0)]
    result[lines] = partner[lines]
    return result


def _in_company(lines: Integers, real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say of each paired line whether enough of the lines up to it, or from it on, are paired too."""
    if not len(lines):
        return np.zeros(0, np.bool_)
    size = min(_NEAR, len(real))
    sums = offsets_of(np.bincount(lines, minlength=len(real))), offsets_of(real.astype(np.int64))
    paired, all_lines = (total[size:] - total[:-size] for total in sums)
    enough = paired >= _LEAST_NEAR * all_lines
    last = len(real) - size
    return enough[np.clip(lines - size + 1, 0, last)] | enough[np.clip(lines, 0, last)]


def _rows(first: _Survey, others: list[_Survey], partners: list[Integers]) -> tuple[Integers, Integers]:
    """Return the rows in line numbers of the files, and which kept line of the pivot each comes from."""
    paired = np.any([partner >= 0 for partner in partners], axis=0) if partners else first.length > 0
    lines = np.flatnonzero(paired)
    surveys, places = (first, *others), [lines, *(partner[lines] for partner in partners)]
    # Lines that stand several times in a row in all files are paired one by one.
    most = len(first.parts)
    repeats = np.min(
        [np.where(p >= 0, s.repeats[p], most) for s, p in zip(surveys, places, strict=True)], axis=0, initial=most
    )
    source = np.repeat(lines, repeats)
    turn = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    columns = []
    for survey, place in zip(surveys, places, strict=True):
        place = np.repeat(place, repeats)
        columns.append(np.where(place >= 0, survey.kept[place] + turn, -1))
    return np.column_stack(columns).astype(np.int64), source


def _describe(
    pivot: str, code: str, first: _Survey, second: _Survey, partner: Integers, paired: Paired
) -> dict[str, Any]:
    lines = np.flatnonzero(partner >= 0)
    rows, _ = _rows(first, [second], [partner])
    shorter = min(len(first.parts), len(second.parts))
    places, count = _drift(rows, (pivot, code), (len(first.parts), len(second.parts)))
    described = {
        "kept": len(rows),
        "left out": {
            f"{pivot}: blank": int(np.count_nonzero(first.length == 0)),
            f"{code}: blank": int(np.count_nonzero(second.length == 0)),
            f"{pivot}: the line before once more": len(first.parts) - len(first.kept) - (len(rows) - len(lines)),
            f"{code}: the line before once more": len(second.parts) - len(second.kept) - (len(rows) - len(lines)),
            f"{pivot}: no line of {code} surely belongs to it": int(np.count_nonzero(first.length)) - len(lines),
            f"{code}: no line of {pivot} surely belongs to it": int(np.count_nonzero(second.length)) - len(lines),
        },
        "drift": {"places": count, "first": places},
        "lexicon": {"entries": paired.scorer.lexicon.size if paired.scorer.lexicon else 0},
    }
    if len(rows) < shorter / 2:
        share = len(rows) / shorter if shorter else 0
        described["warning"] = (
            f"only {share:.1%} of the lines could be paired: are {pivot} and {code} translations of each other?"
        )
    return described


def _drift(rows: Integers, codes: tuple[str, str], lines: tuple[int, int]) -> tuple[list[dict[str, Any]], int]:
    """Return the first places where the offset between paired lines changes, numbers from 1, and how many there are."""
    ends = np.vstack([np.array([[-1, -1]]), rows, np.array([lines])])
    changes = np.flatnonzero(np.diff(ends[:, 1] - ends[:, 0]))
    if not len(rows):
        return [], 0
    places = [
        {
            "between lines": {code: [int(ends[k, c]) + 1, int(ends[k + 1, c]) + 1] for c, code in enumerate(codes)},
            "offset": [int(ends[n, 1] - ends[n, 0]) for n in (k, k + 1)],
        }
        for k in changes[:_PLACES]
    ]
    return places, len(changes)
