"""Stage 6: try models, at the terminal, in a browser, line by line from a pipe, or with a single prompt.

python 6_test_inference.py --model_path saves/qwen2.5-3b/full/sft
python 6_test_inference.py --model_path base=models/Qwen2.5-3B --model_path saves/qwen2.5-3b/full/sft
python 6_test_inference.py --model_path models/Qwen2.5-3B --model_path saves/qwen2.5-3b/full/sft --web
python 6_test_inference.py --model_path saves/qwen2.5-3b/full/sft --prompt "请将以下中文翻译成藏文：你好" --json
python 6_test_inference.py --model_path saves/qwen2.5-3b/full/sft --input questions.jsonl --output answers.jsonl
python 6_test_inference.py --model_path models/nllb-200-600M --direction en-bo --input book.txt --output book.bo.txt
python 6_test_inference.py --model_path saves/qwen2.5-3b/full/cpt temperature=0.7 top_p=0.9 < prompts.txt
"""

from __future__ import annotations

import sys

from langadapt.errors import run_command
from langadapt.recipe import load_settings
from langadapt.recipe.command_line import split_flags, stage_parser
from langadapt.recipe.inference import InferenceSettings

DEFAULT_CONFIG = "configs/tibetan_qwen2.5_3b/inference.yaml"


def main() -> None:
    parser = stage_parser("Talk to models.", InferenceSettings, DEFAULT_CONFIG)
    parser.add_argument(
        "--model_path",
        metavar="[NAME=]P",
        action="append",
        help="a model: a folder, a checkpoint-N folder, an adapter, or a hub name; several to compare them",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="write the answer to TEXT, of each model, to standard output, and nothing else",
    )
    parser.add_argument(
        "--direction",
        metavar="SRC-TGT",
        help="what a translator translates, by language codes, e.g. en-bo; with --input any model translates the file",
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="answer each line of FILE, or each record of .json or .jsonl; or translate it: text, .json, .jsonl, .tsv, "
        ".csv",
    )
    parser.add_argument("--output", metavar="FILE", help="where the answers to --input go, or its translation")
    parser.add_argument("--web", action="store_true", help="a page to talk to the models, for browsers on this machine")
    parser.add_argument("--json", action="store_true", help="write each answer as one JSON object a line")
    arguments = parser.parse_intermixed_args()
    if (arguments.input is None) != (arguments.output is None):
        parser.error("--input and --output go together")
    if arguments.input is not None and (arguments.prompt is not None or arguments.json):
        parser.error("--input takes neither --prompt nor --json: the suffix of --output says what is written")
    if arguments.web and (arguments.input, arguments.prompt, arguments.json) != (None, None, False):
        parser.error("--web takes no --input, --prompt or --json: the page asks")
    settings = load_settings(InferenceSettings, arguments.config, split_flags(arguments, ["model_path", "direction"]))

    # Loading torch takes seconds; --help and a misspelt key should not.
    from transformers.utils import logging

    from langadapt.inference import (
        Lineup,
        answer_file,
        answer_lines,
        ask,
        converse,
        serve,
        show_answer,
        show_comparison,
        start_session,
        translate_file,
    )

    if arguments.input is not None:
        lineup = Lineup(settings)
        handle = translate_file if settings.direction or lineup.has_translator() else answer_file
        done = handle(lineup, settings, arguments.input, arguments.output)
        print(f"{', '.join(f'{key}: {value}' for key, value in done.items())}\nwritten: {arguments.output}")
        return
    if arguments.web:
        serve(settings)
        return
    at_terminal = arguments.prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: answers may be in any script
    if not at_terminal:
        logging.disable_progress_bar()
    session = start_session(Lineup(settings), settings, arguments.json)

    if arguments.prompt is not None:
        several = len(session.lineup.names) > 1
        if several:
            show_comparison(session, arguments.prompt)
        else:
            show_answer(session, ask, arguments.prompt)
    elif at_terminal:
        converse(session)
    else:
        answer_lines(session, sys.stdin.buffer)


if __name__ == "__main__":
    run_command(main)
