"""Stage 5: what each stage of training changed in the weights, tensor by tensor.

python 5_analyze_weights.py --original qwen2-5-3b-base --cpt saves/qwen2.5-3b/full/cpt --sft saves/qwen2.5-3b/full/sft
python 5_analyze_weights.py --config configs/quickstart/weights.yaml --top_k 10

Without flags, the checkpoints are the recipe's. Weights are read in slices, so memory does not grow with the model.
"""

from __future__ import annotations

import os
from pathlib import Path

from langadapt.errors import run_command
from langadapt.recipe import load_settings
from langadapt.recipe.command_line import split_flags, stage_parser
from langadapt.recipe.weights import WeightsSettings

DEFAULT_CONFIG = "configs/tibetan_qwen2.5_3b/weights.yaml"
FLAGS = ["original", "cpt", "sft", "output_dir", "top_k"]


def main() -> None:
    parser = stage_parser(__doc__, WeightsSettings, DEFAULT_CONFIG)
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", help=WeightsSettings.model_fields[flag].description)
    arguments = parser.parse_intermixed_args()
    settings = load_settings(WeightsSettings, arguments.config, split_flags(arguments, FLAGS))

    # Loading torch takes seconds; --help and a misspelt key should not.
    from langadapt.files import staged_folder, write_json, write_text
    from langadapt.models import pick_device
    from langadapt.pages import link_back
    from langadapt.weights.charts import CHARTS, draw_charts
    from langadapt.weights.checkpoints import open_checkpoints
    from langadapt.weights.comparison import add_spectra, compare
    from langadapt.weights.report import write_report
    from langadapt.weights.summary import headline, summarise
    from langadapt.weights.tables import TOKENS, write_csv

    opened = open_checkpoints(settings.original, settings.cpt, settings.sft)
    workers = settings.workers or len(os.sched_getaffinity(0))
    results = compare(*opened, workers=workers, device=str(pick_device(settings.device)))
    if settings.spectra:
        add_spectra(results, opened[0])
    stale = [*CHARTS, TOKENS]
    with staged_folder(settings.output_dir, last="weight_analysis_results.json", stale=stale) as folder:
        write_json(folder / "weight_analysis_results.json", results)
        write_text(folder / "analysis_summary.txt", summarise(results))
        written = [*write_csv(results, folder), *draw_charts(results, folder, settings.top_k)]
        written.append(write_report(results, folder, settings.output_dir, settings.evaluation_report))

    report, evaluation = Path(settings.output_dir) / "report.html", Path(settings.evaluation_report)
    if not evaluation.is_file():
        print(f"note: no report of stage 4 at {evaluation} to link to; make it: python 4_evaluate.py --compare")
    elif not link_back(evaluation, report, "Weights"):
        print(f"note: {evaluation} has no place for a link; draw it again: python 4_evaluate.py --compare")
    for line in headline(results):
        print(line)
    for name in ("analysis_summary.txt", "weight_analysis_results.json", *(path.name for path in written)):
        print(f"written: {Path(settings.output_dir) / name}")


if __name__ == "__main__":
    run_command(main)
