"""From ranked candidates to pairs worth learning from; everything else is counted, with examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from langadapt.evaluation.preferences.candidates import Answer, Candidates
from langadapt.evaluation.preferences.ranking import Ranked
from langadapt.files import excerpt
from langadapt.files.records import Record
from langadapt.recipe.pairs import PairSettings

_EXAMPLES = 3  # of each reason
_BROKEN = "\ufffd"  # what bytes that are no UTF-8 are decoded to


@dataclass(frozen=True)
class Pair:
    """A preference record as stage 1 writes them, and by how much its chosen answer is better."""

    record: Record
    margin: float


@dataclass
class Dropped:
    """Why candidates and records gave no pair: how many, and the first of them as (id, text)."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, reason: str, record: Record, text: str) -> None:
        """Count one more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append((str(record["id"]), excerpt(text)))


def make_pairs(ranked: Sequence[Ranked], settings: PairSettings) -> tuple[list[Pair], Dropped]:
    """Return at most one pair for each record, and what was dropped on the way."""
    dropped = Dropped()
    pairs = (_pair(one, settings, dropped) for one in ranked)
    return [pair for pair in pairs if pair is not None], dropped


def similarity(a: str, b: str) -> float:
    """Return how alike two texts are, from 0 to 1: twice the characters in matching blocks over those of both."""
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def _pair(ranked: Ranked, settings: PairSettings, dropped: Dropped) -> Pair | None:
    record = ranked.candidates.record
    usable: dict[str, float] = {}
    for answer, score in zip(ranked.candidates.answers, ranked.scores, strict=True):
        reason = "answer: not judged" if score is None else _fault(answer, ranked.candidates, settings)
        if reason is None and answer.text in usable:
            reason = "answer: drawn before"
        if reason is not None:
            dropped.add(reason, record, answer.text)
        elif score is not None:
            usable[answer.text] = score
    order = sorted(usable, key=lambda text: -usable[text])  # the first drawn wins a tie
    if settings.chosen == "reference" and ranked.reference is not None:
        usable[record["output"]] = ranked.reference
        order = [record["output"], *(text for text in order if text != record["output"])]
    if len(order) < 2:
        dropped.add("record: too few answers left", record, ranked.candidates.source)
        return None
    chosen, rejected = order[0], order[-1 if settings.rejected == "worst" else 1]
    margin = usable[chosen] - usable[rejected]
    if margin < settings.min_margin:
        dropped.add("record: margin below min_margin", record, f"{margin:.3f}: {chosen} | {rejected}")
        return None
    if similarity(chosen, rejected) > settings.max_similarity:
        dropped.add("record: answers nearly the same", record, f"{chosen} | {rejected}")
        return None
    kept = {key: record[key] for key in ("id", "source", "source_lang", "target_lang") if key in record}
    asked = {key: record[key] for key in ("instruction", "input", "system", "history") if key in record}
    return Pair(kept | {"task": "preference"} | asked | {"chosen": chosen, "rejected": rejected}, margin)


def _fault(answer: Answer, candidates: Candidates, settings: PairSettings) -> str | None:
    if not answer.text:
        return "answer: empty"
    if not answer.ended:
        return "answer: cut off"
    if _BROKEN in answer.text:
        return "answer: broken characters"
    if similarity(answer.text, candidates.source) > settings.max_similarity:
        return "answer: a copy of the source"
    return None
