"""Intervals and p-values of the relation between two stages: on data whose answer is known beforehand."""

from __future__ import annotations

import numpy
import pytest

from langadapt.weights.comparison import describe_relation
from langadapt.weights.resampling import correlation_test, mean_cosine, spearman


def test_nothing_related_is_not_found_related() -> None:
    """Of ten sets of unrelated numbers one at most is expected at p < 0.05, and intervals mostly hold 0."""
    generator = numpy.random.default_rng(0)
    found = [correlation_test(generator.normal(size=(2, 25)), ["mlp"] * 25) for _ in range(10)]
    assert all(test is not None for test in found)
    assert sum(test["p"] < 0.05 for test in found) <= 2
    assert sum(test["interval"][0] <= 0 <= test["interval"][1] for test in found) >= 8


def test_what_types_explain_is_told_from_what_they_do_not() -> None:
    generator = numpy.random.default_rng(1)
    types = ["norm"] * 20 + ["mlp"] * 20
    level = numpy.repeat([0.0, 10.0], 20)
    only_types = correlation_test(level + generator.normal(size=(2, 40)), types)
    assert only_types["p"] < 0.001
    assert only_types["p_within_types"] > 0.05
    shared = level + generator.normal(size=40)
    within_too = correlation_test(numpy.stack([shared, shared + 0.3 * generator.normal(size=40)]), types)
    assert within_too["within_types"] > 0.7
    assert within_too["p_within_types"] < 0.001


def test_the_interval_is_that_of_plain_resampling() -> None:
    generator = numpy.random.default_rng(2)
    one = generator.normal(size=60)
    pairs = numpy.stack([one, one + generator.normal(size=60)])
    draws = [spearman(pairs[:, generator.integers(60, size=60)]) for _ in range(2000)]
    assert correlation_test(pairs, ["mlp"] * 60)["interval"] == pytest.approx(
        numpy.quantile(draws, [0.025, 0.975]), abs=0.03
    )


def test_too_little_to_say() -> None:
    assert correlation_test(numpy.arange(10.0).reshape(2, 5), ["mlp"] * 5) is None
    assert correlation_test(numpy.ones((2, 12)), ["mlp"] * 12) is None
    each_of_its_type = correlation_test(numpy.arange(24.0).reshape(2, 12), list("abcdefghijkl"))
    assert each_of_its_type["p_within_types"] is None
    assert mean_cosine([0.1] * 5, [10] * 5) is None


def test_chance_is_what_random_directions_give() -> None:
    generator = numpy.random.default_rng(3)
    sizes = [30, 100, 300] * 4
    means = []
    for _ in range(300):
        pairs = [generator.normal(size=(2, size)) for size in sizes]
        means.append(numpy.mean([a @ b / numpy.sqrt((a @ a) * (b @ b)) for a, b in pairs]))
    found = mean_cosine([0.0] * 12, sizes)
    assert found["chance"] == pytest.approx(1.96 * numpy.std(means), rel=0.15)
    low, high = mean_cosine(generator.normal(0.3, 0.1, size=200), [50] * 200)["interval"]
    assert (low + high) / 2 == pytest.approx(0.3, abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 200**0.5, rel=0.15)


def test_the_artefact_of_base_to_sft() -> None:
    """Unrelated stages, the second small: base to SFT follows base to CPT, and CPT to SFT does not."""
    generator = numpy.random.default_rng(4)
    tensors = []
    for cpt, sft in generator.uniform(1, 2, size=(40, 2)) * [1, 0.1]:
        tensors.append(
            {
                "type": "mlp",
                "shape": [4, 4],
                "delta_cosine": 0.0,
                "base_cpt": {"l2": cpt, "relative": cpt},
                "cpt_sft": {"l2": sft, "relative": sft},
                "base_sft": {"l2": (cpt**2 + sft**2) ** 0.5},
            }
        )
    relation = describe_relation(tensors)
    assert relation["base_sft_artefact"] > 0.99
    assert relation["test"]["p"] > 0.05
