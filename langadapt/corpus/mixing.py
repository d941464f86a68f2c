"""How much each part of a mixture gives: what it says itself, or its share of what the mixture has to give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from langadapt.recipe.mixtures import Mixture, PreferencePart, RecordPart, TextPart


@dataclass(frozen=True)
class Budget:
    """How much to draw for one part: so many records, or records until they have so many tokens."""

    amount: int
    unit: Literal["records", "tokens"] = "records"


def budgets(
    mixture: Mixture[TextPart] | Mixture[RecordPart] | Mixture[PreferencePart],
    records: Sequence[int],
    sizes: Sequence[int],
) -> list[Budget]:
    """Return the budget of every part of a mixture, by how many records and bytes its source has for it.

    A part that has fewer records than its share, repeats included, leaves the rest to the others. What nobody has is
    shared out as well, for the report to say what is missing. With tokens, which nobody has counted, shares just fall
    short.
    """
    sharing = [k for k, part in enumerate(mixture.parts) if part.shares]
    found = {
        k: Budget(part.count) if part.count is not None else Budget(part.tokens or 0, "tokens")
        for k, part in enumerate(mixture.parts)
    }
    in_tokens = mixture.tokens is not None
    available = sizes if in_tokens else records
    weights = [mixture.parts[k].weight or available[k] ** (1 / mixture.temperature) for k in sharing]
    total = (mixture.tokens if in_tokens else mixture.count) or 0
    most = [records[k] * mixture.parts[k].repeats for k in sharing]
    if in_tokens:
        most = [total] * len(sharing)
    shares = share_out(total, weights, most)
    missing = total - sum(shares)
    spread = share_out(missing, weights if any(weights) else [1] * len(weights), [missing] * len(sharing))
    for k, share, more in zip(sharing, shares, spread, strict=True):
        found[k] = Budget(share + more, "tokens" if in_tokens else "records")
    return [found[k] for k in range(len(mixture.parts))]


def share_out(total: int, weights: Sequence[float], most: Sequence[int]) -> list[int]:
    """Share a number out in proportion to weights, nobody getting more than ``most``; others get what is left over.

    Fractions go to the largest remainders, the earlier first. The sum is ``total`` if that much can be taken.
    """
    given = [0] * len(weights)
    open_ = [k for k in range(len(weights)) if weights[k] > 0 and most[k] > 0]
    left = total
    while open_:
        whole = sum(weights[k] for k in open_)
        exact = {k: left * weights[k] / whole for k in open_}
        full = [k for k in open_ if exact[k] >= most[k]]
        if not full:
            for k in open_:
                given[k] = math.floor(exact[k])
            by_remainder = sorted(open_, key=lambda k: given[k] - exact[k])
            for k in by_remainder[: left - sum(given[k] for k in open_)]:
                given[k] += 1
            break
        for k in full:
            given[k] = most[k]
            left -= most[k]
        open_ = [k for k in open_ if k not in full]
    return given
