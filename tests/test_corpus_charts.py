"""The charts of the data report: the right numbers in the right places, and room for each of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from langadapt.corpus import charts
from langadapt.corpus.charts import draw_flow, draw_lengths
from langadapt.figures import can_draw, fonts

TIBETAN_NAME = "བོད་ཡིག་གསར་འགྱུར་དྲ་བ་ཆེན་པོ"
NAMES = ["CUTE parallel", "tibetan-mix-instruction-tuning-60K", TIBETAN_NAME, "a_long_name/and_a_path.jsonl"]
NAMES += ["anamewithoutanythingtobreakbehind", "中文新闻", "x", "ntrex"]
EDGES = [0, *(2 ** (k / 2) for k in range(40))]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in order."""
    figures: list[Figure] = []
    save = charts.save_figure

    def keep(figure: Figure, path: Path) -> None:
        save(figure, path)
        figures.append(figure)

    monkeypatch.setattr(charts, "save_figure", keep)
    return figures


def cells(figure: Figure) -> dict[tuple[str, str], str]:
    """The table of a flow chart: what stands in each column and row, both by name and without line breaks."""
    ax = figure.axes[0]
    columns = [text.get_text().replace("\n", "") for text in ax.get_xticklabels()]
    rows = [text.get_text() for text in ax.get_yticklabels()]
    place = {text: (columns[int(text.get_position()[0])], rows[int(text.get_position()[1])]) for text in ax.texts}
    return {key: text.get_text() for text, key in place.items()}


def extent(text: Text) -> Bbox:
    canvas = text.get_figure().canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return text.get_window_extent(canvas.get_renderer())


def flow_of(read: int, steps: int) -> dict[str, object]:
    dropped = [[f"filter number {n}", read // 10 ** (n % 7 + 1)] for n in range(steps)]
    return {"read": read, "steps": dropped, "kept": read - sum(count for _, count in dropped)}


def test_flow_shows_every_number_where_it_belongs(drawn: list[Figure], tmp_path: Path) -> None:
    flow = {
        "large": {"read": 10_000_000, "steps": [["script", 12_345], ["twins", 1], ["length", 0]], "kept": 9_987_654},
        "small": {"read": 3, "steps": [["unreadable", 1], ["script", 0], ["segments", -4]], "kept": 6},
    }
    draw_flow(flow, tmp_path / "flow.png")
    assert cells(drawn[0]) == {
        ("large", "read"): "10,000,000",
        ("large", "unreadable"): "–",
        ("large", "script"): "−12,345  (0.12 %)",
        ("large", "segments"): "–",
        ("large", "twins"): "−1  (< 0.001 %)",
        ("large", "length"): "0",
        ("large", "kept"): "9,987,654  (99.9 %)",
        ("small", "read"): "3",
        ("small", "unreadable"): "−1  (33.3 %)",
        ("small", "script"): "0",
        ("small", "segments"): "+4  (133.3 %)",
        ("small", "twins"): "–",
        ("small", "length"): "–",
        ("small", "kept"): "6  (200.0 %)",
    }
    (mesh,) = drawn[0].axes[0].collections
    shares = np.ma.filled(mesh.get_array().astype(float), 0)
    assert shares[2, 0] == pytest.approx(12_345 / 10_000_000)  # the colour is of the same number as the text


def test_steps_stand_in_the_order_in_which_they_are_taken(drawn: list[Figure], tmp_path: Path) -> None:
    orders = [["b", "d"], ["a", "b", "c", "d", "e"], ["a", "c"]]
    flow = {
        f"source {n}": {"read": 9, "steps": [[name, 1] for name in order], "kept": 4} for n, order in enumerate(orders)
    }
    draw_flow(flow, tmp_path / "flow.png")
    rows = [text.get_text() for text in drawn[0].axes[0].get_yticklabels()]
    assert rows == ["read", "a", "b", "c", "d", "e", "kept"]


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("noto", [True, False], ids=["fonts of the machine", "DejaVu only"])
@pytest.mark.parametrize("sources", [1, 6, 8, 30])
def test_flow_has_room_for_its_numbers_and_names(
    drawn: list[Figure], tmp_path: Path, sources: int, noto: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not noto:
        monkeypatch.setattr(fonts, "families", lambda: ["DejaVu Sans"])
    names = [*NAMES, *(f"{n} more of it" for n in range(22))][:sources]
    draw_flow({name: flow_of(10_000_000, 20) for name in names}, tmp_path / "flow.png")
    *tables, bar = drawn[0].axes
    assert drawn[0].get_figwidth() < 15  # inches: beyond, its 8 point text is too small on a page
    ceiling, shown = drawn[0].bbox.y1, []
    for ax in tables:
        left, right = ax.get_xlim()
        cell = ax.get_window_extent().width / (right - left)
        assert all(extent(text).width < cell for text in ax.texts)
        rows = sorted(extent(text).y0 for text in ax.get_yticklabels())
        assert all(above - below > 20 for below, above in pairwise(rows))  # pixels; the text is 17 high
        headings = ax.get_xticklabels()
        assert all(one.x1 < next_one.x0 for one, next_one in pairwise(extent(text) for text in headings))
        assert all(extent(text).y1 <= ceiling for text in headings)
        ceiling = ax.get_window_extent().y0
        shown += [text.get_text().replace("\n", "") for text in headings]
    assert drawn[0].bbox.x0 <= extent(bar.xaxis.label).x0
    assert extent(bar.xaxis.label).x1 <= drawn[0].bbox.x1
    assert shown == [name if can_draw(name) else f"source {n}" for n, name in enumerate(names, start=1)]


def test_sources_in_tables_below_each_other_are_all_there(drawn: list[Figure], tmp_path: Path) -> None:
    flow = {f"s{n}": {"read": 100 + n, "steps": [[f"only in {n}", n]], "kept": 100} for n in range(13)}
    draw_flow(flow, tmp_path / "flow.png")
    tables = drawn[0].axes[:-1]
    assert [len(ax.get_xticklabels()) for ax in tables] == [5, 5, 3]
    assert [text.get_text() for text in tables[2].get_yticklabels()][1:-1] == [f"only in {n}" for n in (12, 11, 10)]
    reads = [text.get_text() for ax in tables for text in ax.texts if text.get_position()[1] == 0.5]
    assert reads == [str(100 + n) for n in range(13)]


def test_a_tibetan_name_breaks_between_syllables_only(drawn: list[Figure], tmp_path: Path) -> None:
    if not can_draw(TIBETAN_NAME):
        pytest.skip("no Tibetan font on this machine")
    draw_flow({TIBETAN_NAME: flow_of(100, 1)}, tmp_path / "flow.png")
    lines = drawn[0].axes[0].get_xticklabels()[0].get_text().splitlines()
    assert len(lines) > 1
    assert all(line.endswith("་") for line in lines[:-1])


def test_a_source_without_records(drawn: list[Figure], tmp_path: Path) -> None:
    draw_flow({"empty": {"read": 0, "steps": [["script", 0]], "kept": 0}}, tmp_path / "flow.png")
    assert cells(drawn[0])["empty", "kept"] == "0  (–)"


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("rows", [1, 8])
def test_lengths_show_shares_and_the_median(drawn: list[Figure], tmp_path: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    lengths = {name: random.lognormal(6 + n / 2, 1, 1000).astype(int) for n, name in enumerate(NAMES[:rows])}
    histograms = {
        name: {"edges": EDGES, "counts": np.histogram(values, EDGES)[0].tolist()} for name, values in lengths.items()
    }
    draw_lengths(histograms, tmp_path / "lengths.png", cutoff=4096)
    assert len(drawn[0].axes) == rows
    for n, (ax, name) in enumerate(zip(drawn[0].axes, lengths, strict=True), start=1):
        (stairs,) = ax.patches
        shares, edges, _ = stairs.get_data()
        assert sum(shares) == pytest.approx(1)
        longer = sum(share for share, edge in zip(shares, edges, strict=False) if edge >= 4096)
        assert longer == pytest.approx(np.mean(lengths[name] >= 4096))
        title = ax.get_title("left")
        shown = name if can_draw(name) else f"source {n}"
        assert title.startswith(f"{shown}: 1,000 texts, median about ")
        number, unit = title.split()[-2:]
        bytes_shown = float(number) * {"B": 1, "kB": 1000}[unit]
        assert bytes_shown == pytest.approx(np.median(lengths[name]), rel=0.1)
        low, high = ax.get_xlim()
        assert low < lengths[name].min()
        assert lengths[name].max() < high
        assert [line.get_xdata()[0] for line in ax.lines] == [4096]


def test_lengths_without_texts(drawn: list[Figure], tmp_path: Path) -> None:
    none = {"edges": EDGES, "counts": [0] * 40}
    draw_lengths({"empty": none, "one": {"edges": EDGES, "counts": [1] + [0] * 39}}, tmp_path / "lengths.png")
    draw_lengths({"empty": none}, tmp_path / "none.png")
    assert drawn[0].axes[0].get_title("left") == "empty: 0 texts"
    assert not drawn[0].axes[0].patches
