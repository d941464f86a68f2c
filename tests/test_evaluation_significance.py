"""p-values against the sacrebleu command line and a plain bootstrap."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TIBETAN

from langadapt.evaluation.results import Document
from langadapt.evaluation.scores.significance import paired_bits, paired_p_values
from langadapt.text import bleu_units

RESAMPLES = 300


def worse(texts: list[str], share: float) -> list[str]:
    """The same texts with some of their syllables gone."""
    generator = random.Random(0)
    return ["་".join(s for s in text.split("་") if generator.random() > share) for text in texts]


REFERENCES = [TIBETAN[n % 4] + TIBETAN[n // 4] for n in range(16)]
SYSTEMS = {"base": worse(REFERENCES, 0.4), "cpt": worse(REFERENCES, 0.3), "sft": worse(REFERENCES, 0.1)}


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("bleu", ["-m", "bleu", "--tokenize", "none"]),
        ("chrf", ["-m", "chrf"]),
        ("chrf++", ["-m", "chrf", "--chrf-word-order", "2"]),
    ],
)
def test_p_values_are_sacrebleus(tmp_path: Path, metric: str, options: list[str]) -> None:
    """Its command line compares all systems to the first: asked twice, that makes every pair of three."""
    for name, lines in (("references", REFERENCES), *SYSTEMS.items()):
        texts = [" ".join(bleu_units(line)) if metric == "bleu" else line for line in lines]
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    expected = {}
    for systems in (["base", "cpt", "sft"], ["cpt", "sft"]):
        command = [sys.executable, "-m", "sacrebleu", "references", "-i", *systems, "--force", "-f", "latex", *options]
        command += ["--paired-bs", "--paired-bs-n", str(RESAMPLES)]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for system, p in re.findall(r"^\s*(\w+) &.*\(p = ([0-9.]+)\)", said, re.MULTILINE):
            expected[systems[0], system] = float(p)
    found = paired_p_values(SYSTEMS, REFERENCES, "bo", metric, RESAMPLES)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-4)  # it prints four digits
    assert found["base", "sft"] < 0.05


def test_texts_are_compared_in_normal_form_and_a_copy_is_not_better() -> None:
    odd = [text.replace("་", "༌") for text in SYSTEMS["cpt"]]
    assert paired_p_values({"a": SYSTEMS["cpt"], "b": odd}, REFERENCES, "bo", "chrf", 100) == {("a", "b"): 1.0}
    with pytest.raises(ValueError, match="b: 1 hypotheses for 16"):
        paired_p_values({"a": odd, "b": odd[:1]}, REFERENCES, "bo", "chrf", 100)


def documents(bits: list[float], sizes: list[int]) -> list[Document]:
    return [
        Document(test_set="t", language="bo", id=str(n), bits=b, bytes=size, characters=1, units=1, tokens=1)
        for n, (b, size) in enumerate(zip(bits, sizes, strict=True))
    ]


def test_differences_of_bits_per_byte_are_resampled_over_documents() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(100, 5000, 60)
    first = generator.normal(1.2, 0.1, 60) * sizes
    second = first - generator.normal(0.02, 0.05, 60) * sizes
    found, interval, p = paired_bits(documents(list(first), list(sizes)), documents(list(second), list(sizes)), 2000)
    assert found == pytest.approx((second.sum() - first.sum()) / sizes.sum())
    other = np.random.default_rng(2)
    chosen = other.integers(60, size=(20000, 60))
    expected = (second - first)[chosen].sum(1) / sizes[chosen].sum(1)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=5e-4)
    assert p == pytest.approx((np.abs(expected - expected.mean()) >= abs(found)).mean(), abs=0.02)
    assert paired_bits(documents(list(first), list(sizes)), documents(list(first), list(sizes)), 100)[2] == 1


def test_the_same_difference_in_every_byte_leaves_no_doubt() -> None:
    sizes = [10, 100, 1000, 10000]
    found, interval, p = paired_bits(documents([20.0, 130.0, 1500.0, 9000.0], sizes),
                                     documents([15.0, 80.0, 1000.0, 4000.0], sizes), 500)  # fmt: skip
    assert interval is not None
    assert (found, interval.low, interval.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert p == pytest.approx(1 / 501)


def test_one_document_has_no_interval_and_others_are_refused() -> None:
    assert paired_bits(documents([10.0], [5]), documents([15.0], [5]), 100) == (1.0, None, None)
    with pytest.raises(ValueError, match="different documents"):
        paired_bits(documents([10.0], [5]), documents([10.0], [6]), 100)
