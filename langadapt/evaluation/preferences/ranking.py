"""How good each candidate is: by a metric, or by what a judge wrote down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from langadapt.errors import UserError
from langadapt.evaluation.preferences.candidates import Answer, Candidates
from langadapt.files import read_lines, require_file
from langadapt.metrics import make_metric
from langadapt.recipe import load_language
from langadapt.recipe.pairs import PairSettings


@dataclass(frozen=True)
class Ranked:
    """Candidates with the score of each answer, None for one that nobody judged, and that of the reference."""

    candidates: Candidates
    scores: Sequence[float | None]
    reference: float | None


def rank(candidates: Sequence[Candidates], settings: PairSettings) -> list[Ranked]:
    """Return the candidates with their scores, higher for better: chrF from 0 to 100, LaBSE and COMET about 0 to 1.

    Of judgements the score is minus the place in the ranking. Raises `UserError` for a language that the metric has
    never seen, and for judgements that do not fit the candidates.
    """
    if settings.rank_by == "judgements":
        return _judged(candidates, settings)
    return _scored(candidates, settings)


def _scored(candidates: Sequence[Candidates], settings: PairSettings) -> list[Ranked]:
    rows = [[*(answer.text for answer in one.answers), one.record["output"]] for one in candidates]
    references = [one.record["output"] for one, row in zip(candidates, rows, strict=True) for _ in row]
    flat = [text for row in rows for text in row]
    if settings.rank_by == "chrf":
        metric = make_metric("chrf", load_language(candidates[0].record["target_lang"]))
        scores = [
            metric.sentence_score(text, [reference]).score for text, reference in zip(flat, references, strict=True)
        ]
    else:
        sources = [one.source for one, row in zip(candidates, rows, strict=True) for _ in row]
        scores = _by_meaning(candidates, settings, sources, flat, references)
    ends = list(accumulate(map(len, rows), initial=0))
    parts = [scores[start:end] for start, end in pairwise(ends)]
    return [Ranked(one, part[:-1], part[-1]) for one, part in zip(candidates, parts, strict=True)]


def _by_meaning(
    candidates: Sequence[Candidates],
    settings: PairSettings,
    sources: Sequence[str],
    texts: Sequence[str],
    references: Sequence[str],
) -> list[float]:
    from langadapt.evaluation.scores.adequacy import Adequacy, Comet, Labse

    metric: Adequacy
    if settings.rank_by == "labse":
        metric = Labse(str(settings.labse_model), settings.device)
    else:
        metric = Comet(str(settings.comet_model), settings.device)
    for direction in {(one.record["source_lang"], one.record["target_lang"]) for one in candidates}:
        if refusal := metric.refusal(*direction):
            raise UserError(f"rank_by: {refusal}. Rank by chrf.")
    return [float(score) for score in metric.items(sources, [texts], references)[0]]


def _judged(candidates: Sequence[Candidates], settings: PairSettings) -> list[Ranked]:
    shown = Path(settings.output_dir) / f"{settings.name}_candidates.jsonl"
    if settings.judgements is None:
        raise UserError(f"the candidates are in {shown}. Have them ranked, and name the file: judgements=FILE.")
    way_out = f"One line for each record of {shown}: " + '{"id": ..., "ranking": [2, [0, 1], 3]}'
    path = require_file(settings.judgements, way_out)
    known = {one.record["id"]: one for one in candidates}
    rankings: dict[Any, list[float | None]] = {}
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            name, ranking = entry["id"], entry["ranking"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{where}: no record with `id` and `ranking`. {way_out}") from None
        if name not in known or name in rankings:
            raise UserError(f"{where}: {name!r} is {'judged twice' if name in rankings else 'no candidate'}. {way_out}")
        rankings[name] = _scores_of(ranking, known[name].answers, where)
    return [Ranked(one, rankings[one.record["id"]], None) for one in candidates if one.record["id"] in rankings]


def _scores_of(ranking: Any, answers: Sequence[Answer], where: str) -> list[float | None]:
    scores: list[float | None] = [None] * len(answers)
    for place, group in enumerate(ranking if isinstance(ranking, list) else [None]):
        for number in group if isinstance(group, list) else [group]:
            if type(number) is not int or not 0 <= number < len(answers) or scores[number] is not None:
                raise UserError(
                    f"{where}: `ranking` is {ranking!r}; expected numbers from 0 to {len(answers) - 1}, each at most "
                    "once, best first."
                )
            scores[number] = float(-place)
    return scores
