"""Ground: one look for every chart, fonts for every script, atomic saving."""

from langadapt.figures.fonts import can_draw, label
from langadapt.figures.style import MISSING, color_of, new_figure, note, save_figure

__all__ = ["MISSING", "can_draw", "color_of", "label", "new_figure", "note", "save_figure"]
