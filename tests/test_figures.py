"""What all charts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from langadapt.figures import can_draw, color_of, fonts, label, new_figure, note, save_figure


def test_a_figure_is_saved_whole_and_nothing_else(tmp_path: Path) -> None:
    figure, (ax,) = new_figure()
    ax.bar(["བོད་ཡིག" if can_draw("བོད་ཡིག") else "bo"], [1.0], color=color_of(0))
    note(figure, "a note")
    save_figure(figure, tmp_path / "new" / "chart.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chart.png"]
    assert (tmp_path / "new/chart.png").read_bytes().startswith(b"\x89PNG")


def test_without_fonts_labels_fall_back_to_what_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "families", lambda: ["DejaVu Sans"])
    assert label("བོད་ཡིག", "bo") == "bo"
    assert label("français", "fr") == "français"


@pytest.mark.filterwarnings("error:Glyph")
def test_what_can_be_drawn_is_drawn_without_missing_glyphs(tmp_path: Path) -> None:
    figure, (ax,) = new_figure()
    ax.set_title(" ".join(label(text, "?") for text in ("བོད་ཡིག", "中文", "Монгол", "English")))
    save_figure(figure, tmp_path / "x.png")
