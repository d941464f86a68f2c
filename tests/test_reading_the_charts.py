"""The page that explains the charts: none is left out, and its pictures are there and small."""

from __future__ import annotations

import re

from conftest import REPOSITORY

from langadapt.corpus import outputs, tokenizer_report
from langadapt.evaluation.charts import drawing
from langadapt.training.progress import CURVE_FILE
from langadapt.weights import charts

PAGE = REPOSITORY / "docs/READING_THE_CHARTS.md"


def test_every_chart_is_explained() -> None:
    written = [*outputs.CHARTS, tokenizer_report.CHART, CURVE_FILE, *drawing.CHARTS, *charts.CHARTS]
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in written if name not in text] == []


def test_pictures_are_there_and_small() -> None:
    pages = [path.read_text(encoding="utf-8") for path in PAGE.parent.glob("*.md")]
    named = {picture for text in pages for picture in re.findall(r"!\[[^]]*\]\(images/([^)]+)\)", text)}
    there = {path.name: path.stat().st_size for path in (PAGE.parent / "images").iterdir()}
    assert named == there.keys()
    assert max(there.values()) < 60_000
