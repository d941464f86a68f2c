"""All charts of a comparison, as files."""

from __future__ import annotations

from pathlib import Path

from langadapt.evaluation.charts.bars import overview_chart, perplexity_chart, translation_chart
from langadapt.evaluation.charts.curves import curves_chart
from langadapt.evaluation.charts.forgetting import forgetting_chart
from langadapt.evaluation.charts.heatmap import heatmap
from langadapt.evaluation.charts.radar import radar_chart
from langadapt.evaluation.comparison.fewshot import fewshot_chart
from langadapt.evaluation.comparison.figures import Comparison
from langadapt.figures import save_figure

CHARTS = {
    "perplexity_comparison.png": "Likelihood of held-out text",
    "translation_metrics_comparison.png": "Translation",
    "combined_metrics_overview.png": "All metrics",
    "metrics_heatmap.png": "All metrics, from the worst to the best model",
    "radar_chart.png": "All metrics, better outwards",
    "forgetting.png": "Forgetting: other languages against the first model",
    "fewshot.png": "Scores by the number of examples in the prompt",
    "training_curves.png": "Training curves",
}  # and what each shows


def draw_charts(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Draw the charts into a folder; return their paths.

    There is no few-shot chart where no model was asked with several numbers of examples; one of an earlier comparison
    is then deleted, so that all charts of a folder are of the same results.
    """
    figures = {
        "perplexity_comparison.png": perplexity_chart(comparison),
        "translation_metrics_comparison.png": translation_chart(comparison),
        "combined_metrics_overview.png": overview_chart(comparison),
        "metrics_heatmap.png": heatmap(comparison),
        "radar_chart.png": radar_chart(comparison),
        "forgetting.png": forgetting_chart(comparison),
        "fewshot.png": fewshot_chart(comparison.results),
        "training_curves.png": curves_chart(comparison),
    }
    paths = []
    for name, figure in figures.items():
        path = Path(folder) / name
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            save_figure(figure, path)
            paths.append(path)
    return paths
