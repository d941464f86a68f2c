"""Spectra of changes, against numpy's singular value decomposition."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from langadapt.weights.spectra import describe_spectrum, energies, rank_for, share_held
from langadapt.weights.stored import tensors_in


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (1, 7), (9, 9)])
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_every_figure_equals_svd(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    torch.manual_seed(0)
    before = torch.randn(shape).bfloat16()
    after = before + (0.1 * torch.randn(shape) * torch.linspace(0.01, 1, shape[1])).bfloat16()
    for name, weight in (("before", before), ("after", after)):
        save_file({"matrix": weight}, tmp_path / name)
    squares = energies(*(next(tensors_in(tmp_path / name)) for name in ("before", "after")), size)
    singular = numpy.linalg.svd((after.double() - before.double()).numpy(), compute_uv=False)
    assert numpy.sqrt(squares) == pytest.approx(singular, rel=1e-6, abs=1e-7)
    found = describe_spectrum(squares)
    held = numpy.cumsum(singular**2) / (singular**2).sum()
    shares = singular / singular.sum()
    assert found is not None
    assert found["spectral_norm"] == pytest.approx(singular[0])
    assert found["stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2)
    assert found["effective_rank"] == pytest.approx(numpy.exp(-(shares * numpy.log(shares)).sum()))
    for part in (90, 95, 99):
        assert found[f"rank_{part}"] == next(rank for rank, h in enumerate(held, 1) if h >= part / 100 - 1e-9)


def test_the_rank_that_carries_several_changes() -> None:
    """Of 10 + 10 in all, one direction each holds 17, two hold 19, three hold all."""
    spectra = [numpy.array([9.0, 0.5, 0.5]), numpy.array([8.0, 1.5, 0.5])]
    assert [rank_for(spectra, part) for part in (85, 90, 95, 99)] == [1, 2, 2, 3]
    assert share_held(spectra) == [[1, 0.85], [2, 0.95], [3, 1.0]]
    assert share_held([numpy.ones(4)]) == [[1, 0.25], [2, 0.5], [4, 1.0]]


def test_no_change_has_no_spectrum() -> None:
    assert describe_spectrum(numpy.zeros(3)) is None
