"""The charts of a comparison. Every model is in every chart; a figure that is missing is grey and says so."""

from langadapt.evaluation.charts.drawing import draw_charts

__all__ = ["draw_charts"]
