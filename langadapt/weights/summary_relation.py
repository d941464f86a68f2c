"""How the two stages relate, in words: direction and size of their changes, and how sure that is."""

from __future__ import annotations

import math

from langadapt.weights.comparison import Record
from langadapt.weights.wording import heading, number, paragraph, percent

_SURE = 0.05
_LEAST_P = 0.0005  # that shuffling so often can find


def relation(results: Record) -> list[str]:
    """Return the lines on how the change by SFT relates to that by CPT, in size and in direction."""
    total = results["total"]
    lines = heading("How the two stages relate")
    if total["delta_cosine"] is None:
        return [*lines, *paragraph("At least one stage changed nothing, so there are no two changes to compare.")]
    ratio = total["cpt_sft"]["l2"] / total["base_cpt"]["l2"]
    chance = 1 / math.sqrt(total["parameters"])
    lines += paragraph(
        f"SFT moved the weights {ratio:.3g} times as far as CPT. The cosine between the two changes is "
        f"{total['delta_cosine']:.4f}: {_direction(total['delta_cosine'])}. (Between random directions in so many "
        f"dimensions it would be within about {chance:.1g} of 0.) From base to SFT the weights moved by "
        f"{percent(total['base_sft']['relative'])}, L2 {total['base_sft']['l2']:.4g}; that contains CPT and is not "
        "what SFT did."
    )
    lines += _mean_cosine(results["relation"]["mean_cosine"])
    defined = [kind for kind in results["types"] if kind["delta_cosine"] is not None]
    by_type = ", ".join(f"{kind['type']} {kind['delta_cosine']:.3f}" for kind in defined)
    lines += paragraph(f"Cosine of the two changes by type: {by_type}.")
    return lines + _sizes(results)


def _mean_cosine(cosine: Record | None) -> list[str]:
    if cosine is None:
        return []
    low, high = cosine["interval"]
    if low > cosine["chance"]:
        verdict = (
            "That is more than chance: the two changes share something of a direction. It does not say that the stages "
            "learned the same thing: what any text pushes alike, such as rows of tokens that it lacks, counts too."
        )
    elif high < -cosine["chance"]:
        verdict = (
            "That is more than chance: SFT takes something of CPT back. That is not yet knowledge lost: that is "
            "for stage 4 to measure."
        )
    else:
        verdict = "The interval reaches into what chance gives, so no common direction is shown."
    return paragraph(
        f"Each tensor counted once, large or small, the mean cosine over {cosine['count']} tensors is "
        f"{cosine['mean']:.4f}, 95 % interval {low:.4f} to {high:.4f}; random directions would stay within "
        f"{cosine['chance']:.2g} of 0. {verdict}"
    )


def _sizes(results: Record) -> list[str]:
    rho, test = results["rank_correlation"], results["relation"]["test"]
    if rho["relative"] is None:
        return []
    words = (
        f"Over all tensors, Spearman's rank correlation between the sizes of the two changes is "
        f"{rho['relative']:.2f} for relative change"
    )
    if test is not None:
        low, high = test["interval"]
        words += f" (95 % interval {low:.2f} to {high:.2f}, {_p(test['p'])} when tensors are shuffled)"
    words += f" and {number(rho['l2'])} for L2. "
    within = [kind for kind in results["types"] if kind["rank_correlation"]["relative"] is not None]
    by_type = ", ".join(f"{k['type']} {k['rank_correlation']['relative']:.2f} (n={k['tensors']})" for k in within)
    words += (
        "Within one type, where the type no longer explains it (a tensor's shape and place still may), it is, for "
        f"relative change: {by_type or 'not defined'}. "
    )
    if test is not None and test["within_types"] is not None:
        low_p = test["p_within_types"] < _SURE
        words += (
            f"Over all types with each type's mean rank taken off it is {test['within_types']:.2f}, "
            f"{_p(test['p_within_types'])} when tensors are shuffled within their types: "
            + (
                "tensors that moved far in one stage "
                + ("also moved far" if test["within_types"] > 0 else "moved little")
                + " in the other, beyond what their type explains."
                if low_p
                else "beyond the types themselves, no relation of the sizes is shown."
            )
        )
    words += (
        " Tensors of one layer are not independent of each other, so intervals are wider and p-values larger than "
        "these. A correlation of sizes is no evidence that the stages learned the same thing."
    )
    if (artefact := results["relation"]["base_sft_artefact"]) is not None:
        words += (
            f" Beware of the same figure with the change from base to SFT, here {artefact:.4f} (L2): that change "
            "contains CPT's, so it compares CPT in part with itself, and wholly where SFT moved little."
        )
    return paragraph(words)


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value > _LEAST_P else f"p < {_LEAST_P:.4g}"


def _direction(cosine: float) -> str:
    if cosine > 0.5:
        return "SFT mostly goes on in the direction of CPT"
    if cosine > 0.1:
        return "SFT goes on a little in the direction of CPT"
    if cosine >= -0.1:
        return "the two directions are close to a right angle, so SFT neither goes on with CPT nor undoes it"
    if cosine >= -0.5:
        return "SFT takes back a part of what CPT did"
    return "SFT mostly undoes CPT"
