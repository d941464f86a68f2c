"""Stage 4: how well a model predicts held-out text and translates into the language, and how models compare.

python 4_evaluate.py --model_path qwen2-5-3b-base --model_name base
python 4_evaluate.py --model_path saves/qwen2.5-3b/full/sft --model_name sft --compare
python 4_evaluate.py --compare

Writes <name>_evaluation.json and <name>_predictions.jsonl. --compare draws every result of the folder side by side.
"""

from __future__ import annotations

from pathlib import Path

from langadapt.errors import UserError, run_command
from langadapt.files import probe_folder
from langadapt.recipe import load_settings
from langadapt.recipe.command_line import split_flags, stage_parser
from langadapt.recipe.evaluation import EvaluationSettings

DEFAULT_CONFIG = "configs/tibetan_qwen2.5_3b/evaluate.yaml"


def main() -> None:
    parser = stage_parser(__doc__, EvaluationSettings, DEFAULT_CONFIG)
    parser.add_argument("--model_path", metavar="P", help="the model to evaluate: a folder or a hub name")
    parser.add_argument("--model_name", metavar="N", help="its name in files, charts and tables")
    parser.add_argument("--compare", action="store_true", help="draw charts and summary of all results in output_dir")
    arguments = parser.parse_intermixed_args()
    settings = load_settings(EvaluationSettings, arguments.config, split_flags(arguments, ["model_path", "model_name"]))

    if settings.model_path is not None:
        stage_1 = f"python 1_preprocess.py --config {Path(arguments.config).with_name('preprocess.yaml')}"
        evaluate(settings, way_out=f"Make it with: {stage_1}")
    elif not arguments.compare:
        raise UserError("nothing to do: give --model_path and --model_name, or --compare to draw what there is.")
    if arguments.compare:
        compare(settings)


def evaluate(settings: EvaluationSettings, way_out: str) -> None:
    """Measure one model, write what was measured, and print its figures."""
    # Loading torch takes seconds; --help, a misspelt key and --compare alone should not.
    from langadapt.evaluation.comparison import put_side_by_side
    from langadapt.evaluation.evaluate import evaluate_model
    from langadapt.evaluation.results import write_results
    from langadapt.evaluation.summary import table

    probe_folder(settings.output_dir)
    evaluation, predictions = evaluate_model(settings, way_out)
    paths = write_results(settings.output_dir, evaluation, predictions)
    print(table(put_side_by_side({evaluation.model_name: evaluation})))
    for key, reason in evaluation.missing.items():
        print(f"note: {key}: {reason}")
    for path in paths:
        print(f"written: {path}")


def compare(settings: EvaluationSettings) -> None:
    """Draw the charts and write the summary of every result in the folder."""
    from langadapt.evaluation.charts import draw_charts
    from langadapt.evaluation.comparison import load_comparison
    from langadapt.evaluation.summary import summarize, table
    from langadapt.files import write_text

    comparison = load_comparison(settings.output_dir, settings.order)
    summary = Path(settings.output_dir) / "evaluation_summary.txt"
    write_text(summary, summarize(comparison))
    charts = draw_charts(comparison, settings.output_dir)
    print(table(comparison))
    for caution in comparison.cautions:
        print(f"note: {caution}")
    for path in (summary, *charts):
        print(f"written: {path}")


if __name__ == "__main__":
    run_command(main)
