"""Stage 6: conversations with models; and generation in batches, for stage 4."""

from langadapt.inference.answering import answer_file
from langadapt.inference.generation import Generation, generate_batched
from langadapt.inference.lineup import Lineup
from langadapt.inference.prompt import answer_lines, converse
from langadapt.inference.session import ask, compare, start_session

__all__ = [
    "Generation",
    "Lineup",
    "answer_file",
    "answer_lines",
    "ask",
    "compare",
    "converse",
    "generate_batched",
    "start_session",
]
