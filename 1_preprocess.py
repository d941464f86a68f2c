"""Stage 1: from raw text to training and test sets that share nothing.

    python 1_preprocess.py                                                 the default recipe, Tibetan
    python 1_preprocess.py --download                                      fetch its data and base model first
    python 1_preprocess.py --config configs/R/preprocess.yaml data_dir=D   another recipe, another place

Writes the files that stages 2 to 4 read, and data_report.md, which accounts for every record.
"""

import itertools
import shlex
from pathlib import Path

from langadapt.errors import run_command
from langadapt.recipe.command_line import stage_parser
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings

DEFAULT_CONFIG = "configs/tibetan_qwen2.5_3b/preprocess.yaml"


def main() -> None:
    parser = stage_parser(__doc__, PreprocessSettings, DEFAULT_CONFIG)
    parser.add_argument("--download", action="store_true", help="fetch what the recipe names from the Hugging Face hub")
    arguments = parser.parse_intermixed_args()
    settings = load_settings(PreprocessSettings, arguments.config, arguments.overrides)

    from langadapt import corpus
    from langadapt.files import files_vouched_for, staged_folder

    if arguments.download:
        corpus.download_sources(settings)
    command = ["python", "1_preprocess.py", "--config", arguments.config, *arguments.overrides, "--download"]
    stale = files_vouched_for(settings.output_dir)  # a file of another cutoff belongs to another draw
    corpus.check_sources_are_kept(settings, stale)
    with (
        corpus.work_folder(settings) as work,
        staged_folder(settings.output_dir, last="data_report.json", stale=stale) as folder,
        corpus.Progress(corpus.expected_seconds(settings)) as progress,
    ):
        new = settings.new_tokenizer is not None
        tokenizer = corpus.byte_tokenizer() if new else corpus.open_tokenizer(settings.tokenizer, settings.template)
        tokenizers = corpus.open_tokenizers(settings, tokenizer)
        test_sets = corpus.read_test_sets(settings.test_set_paths, settings.conversions)
        sources = corpus.open_sources(settings, shlex.join(command), work, progress)
        collections = sources.collections
        with progress.phase("drawing held-out sets"):
            prompts = itertools.chain.from_iterable(settings.prompts.values())
            templates = corpus.Templates(corpus.prompts_of(collections), prompts)
            test_sets = templates.without_templates(test_sets)
            draw, mixtures, cutoff = corpus.draw_sets(settings, collections, templates, test_sets, tokenizer)
        if new:
            with progress.phase("training the tokenizer"):
                tokenizer = corpus.learn_tokenizer(settings, draw, mixtures, work)
                tokenizers = corpus.open_tokenizers(settings, tokenizer)
                draw, mixtures, cutoff = corpus.draw_sets(settings, collections, templates, test_sets, tokenizer)
        report = corpus.describe_inputs(settings, sources, templates)
        report["tokenizers"] = corpus.measure_tokenizers(tokenizers, corpus.sample_texts(collections, settings.seed))
        with progress.phase("drawing training sets") as advance:
            report |= corpus.write_dataset(folder, settings, draw, mixtures, cutoff, work, advance)
        with progress.phase("checking") as advance:
            report["disjoint"] = corpus.prove_disjoint(folder, report, templates, test_sets, advance)
        if new:
            report["new_tokenizer"] = corpus.publish_tokenizer(settings, work)
        corpus.write_report(folder, report, sources)

    for sentence in corpus.shortfalls(report):
        print(f"note: {sentence}")
    for name, file in report["files"].items():
        print(f"{file['records']:>9,} records  {Path(settings.output_dir) / name}")
    if new:
        print(f"{report['new_tokenizer']['vocabulary']:>9,} tokens   {settings.tokenizer_source}")
    print(f"report: {Path(settings.output_dir) / 'data_report.md'}")


if __name__ == "__main__":
    run_command(main)
