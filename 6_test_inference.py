"""Stage 6: try a model. A conversation at the terminal, one answer a line from a pipe, or one answer to one prompt.

python 6_test_inference.py --model_path saves/qwen2.5-3b/full/sft
python 6_test_inference.py --model_path saves/qwen2.5-3b/full/sft --prompt "请将以下中文翻译成藏文：你好"
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
    parser = stage_parser("Talk to a model.", InferenceSettings, DEFAULT_CONFIG)
    parser.add_argument("--model_path", metavar="P", help="the model: a folder, a checkpoint-N folder, or a hub name")
    parser.add_argument(
        "--prompt", metavar="TEXT", help="write the answer to TEXT to standard output, and nothing else"
    )
    arguments = parser.parse_intermixed_args()
    settings = load_settings(InferenceSettings, arguments.config, split_flags(arguments, ["model_path"]))

    # Loading torch takes seconds; --help and a misspelt key should not.
    from transformers.utils import logging

    from langadapt.inference import answer_lines, ask, converse, open_responder, start_session

    at_terminal = arguments.prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: answers may be in any script
    if not at_terminal:
        logging.disable_progress_bar()
    session = start_session(open_responder(settings), settings)

    if arguments.prompt is not None:
        ask(session, arguments.prompt)
    elif at_terminal:
        converse(session)
    else:
        answer_lines(session, sys.stdin.buffer)


if __name__ == "__main__":
    run_command(main)
