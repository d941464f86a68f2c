"""BLEU and chrF as sacrebleu computes them, each beside what the same hypotheses get without being translations."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from langadapt.errors import UserError
from langadapt.evaluation.results import Score
from langadapt.text import bleu_units

_SHUFFLES = 3
_SHUFFLE_SEED = 0  # not a setting: floors of different models are drawn alike


def bleu(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> Score:
    """Return corpus BLEU with one reference each; ``tokenizer`` is one of sacrebleu's, or ``syllables``.

    Tsheg syllables and punctuation marks are cut here and counted with sacrebleu's tokenizer ``none``: its own
    tokenizers take a Tibetan sentence for one word, or count letters. The signature says ``tok:tsheg-syllables``.
    """
    if tokenizer == "syllables":
        hypotheses, references = (_syllables(texts) for texts in (hypotheses, references))
        score = _score(BLEU(tokenize="none", force=True), hypotheses, references)
        return score.model_copy(update={"signature": score.signature.replace("tok:none", "tok:tsheg-syllables")})
    try:
        metric = BLEU(tokenize=tokenizer, force=True)
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"sacrebleu's tokenizer {tokenizer!r} cannot be used here: {reason}") from None
    return _score(metric, hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Return corpus chrF2 (Popović 2017): character n-grams up to 6, no words, white space not counted."""
    return _score(CHRF(), hypotheses, references)


def _syllables(texts: Sequence[str]) -> list[str]:
    return [" ".join(bleu_units(text)) for text in texts]


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    score = metric.corpus_score(hypotheses, [references]).score
    return Score(score=score, signature=str(metric.get_signature()), floor=_floor(metric, hypotheses, references))


def _floor(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> float | None:
    """Return the mean score with the references dealt out anew, so that none stays where it was; None for one item."""
    if len(references) < 2:
        return None
    generator = random.Random(_SHUFFLE_SEED)
    scores = []
    for _ in range(_SHUFFLES):
        order = _one_cycle(len(references), generator)
        scores.append(metric.corpus_score(hypotheses, [[references[position] for position in order]]).score)
    return statistics.fmean(scores)


def _one_cycle(size: int, generator: random.Random) -> list[int]:
    """Return a random permutation of ``range(size)`` that is one cycle: no position keeps its item (Sattolo 1986)."""
    order = list(range(size))
    for last in range(size - 1, 0, -1):
        other = generator.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
