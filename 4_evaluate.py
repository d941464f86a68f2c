"""Stage 4: how well a model predicts held-out text and translates into the language, and how models compare.

python 4_evaluate.py --model_path qwen2-5-3b-base --model_name base
python 4_evaluate.py --model_path saves/qwen2.5-3b/full/sft --model_name sft --compare
python 4_evaluate.py --compare
torchrun --nproc-per-node=8 4_evaluate.py --model_path saves/qwen2.5-3b/full/sft --model_name sft
python 4_evaluate.py --model_path saves/qwen2.5-3b/full/sft --predict questions.json --output predictions.json

Writes <name>_evaluation.json and every item beside it. --compare draws all results of the folder side by side.
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
    parser.add_argument("--compare", action="store_true", help="draw charts, tables and report of all results")
    parser.add_argument(
        "--update_card", action="store_true", help="put the figures into README.md in the model's folder"
    )
    parser.add_argument("--predict", metavar="INPUT", help="answer the instructions in a file instead of evaluating")
    parser.add_argument("--output", metavar="OUTPUT", help="where --predict writes its answers")
    arguments = parser.parse_intermixed_args()
    if bool(arguments.predict) != bool(arguments.output):
        parser.error("--predict INPUT and --output OUTPUT go together")
    if arguments.predict and (arguments.compare or arguments.update_card):
        parser.error("--predict measures nothing: leave out --compare and --update_card")
    if arguments.predict and arguments.model_path and arguments.model_name is None:
        arguments.model_name = "predictions"  # it names no file here
    settings = load_settings(EvaluationSettings, arguments.config, split_flags(arguments, ["model_path", "model_name"]))

    if arguments.predict:
        if settings.model_path is None:
            raise UserError("--predict needs a model: give --model_path.")
        predict(settings, arguments.predict, arguments.output)
        return
    first_process = True
    if settings.model_path is not None:
        stage_1 = f"python 1_preprocess.py --config {Path(arguments.config).with_name('preprocess.yaml')}"
        first_process = evaluate(settings, f"Make it with: {stage_1}", arguments.update_card)
    elif not arguments.compare:
        raise UserError("nothing to do: give --model_path and --model_name, or --compare to draw what there is.")
    if arguments.compare and first_process:
        compare(settings)


def evaluate(settings: EvaluationSettings, way_out: str, update_card: bool) -> bool:
    """Measure one model, write what was measured, and print its figures.

    Return whether this is the first process, which alone writes; without torchrun it is the only one.
    """
    # Loading torch takes seconds; --help, a misspelt key and --compare alone should not.
    from langadapt.evaluation.comparison.side_by_side import put_side_by_side
    from langadapt.evaluation.evaluate import evaluate_model
    from langadapt.evaluation.generation.ranks import join_ranks
    from langadapt.evaluation.tables.card import update_card as update_model_card
    from langadapt.evaluation.tables.card import write_card
    from langadapt.evaluation.tables.summary import table

    probe_folder(settings.output_dir)
    if update_card and not Path(str(settings.model_path)).is_dir():
        raise UserError(f"--update_card: {settings.model_path} is no folder here, so its README.md cannot be changed.")
    with join_ranks() as ranks:
        evaluation, paths = evaluate_model(settings, way_out, ranks)
    if ranks.rank > 0:
        return False
    paths.append(write_card(settings.output_dir, evaluation))
    if update_card:
        paths.append(update_model_card(evaluation.model_path, evaluation))
    print(table(put_side_by_side({evaluation.model_name: evaluation})))
    for key, reason in evaluation.missing.items():
        print(f"note: {key}: {reason}")
    for path in paths:
        print(f"written: {path}")
    return True


def predict(settings: EvaluationSettings, source: str, output: str) -> None:
    """Answer the instructions in a file, and say how."""
    from langadapt.evaluation.generation.predict import predict as answer
    from langadapt.evaluation.generation.ranks import join_ranks

    probe_folder(Path(output).parent)
    with join_ranks() as ranks:
        done = answer(settings, source, output, ranks)
    if ranks.rank == 0:
        print(", ".join(f"{key}: {value}" for key, value in done.items()))
        print(f"written: {output}")


def compare(settings: EvaluationSettings) -> None:
    """Draw the charts and write summary, tables and report of every result in the folder."""
    from langadapt.evaluation.charts import draw_charts
    from langadapt.evaluation.comparison.side_by_side import load_comparison
    from langadapt.evaluation.report import write_report
    from langadapt.evaluation.tables.files import write_tables
    from langadapt.evaluation.tables.summary import summarize, table
    from langadapt.files import write_text

    folder = settings.output_dir
    comparison = load_comparison(folder, settings.order, settings.resamples, settings.bars)
    summary = Path(folder) / "evaluation_summary.txt"
    write_text(summary, summarize(comparison))
    charts = draw_charts(comparison, folder)
    tables = write_tables(comparison, folder)
    report = write_report(comparison, folder, settings.weight_report)
    print(table(comparison))
    for caution in comparison.cautions:
        print(f"note: {caution}")
    for path in (summary, *charts, *tables, report):
        print(f"written: {path}")


if __name__ == "__main__":
    run_command(main)
