"""Stage 6: conversations with models; and generation in batches, for stage 4."""

from langadapt.inference.answering import answer_file
from langadapt.inference.display import show_answer, show_comparison, start_session
from langadapt.inference.file_translation import translate_file
from langadapt.inference.generation import Generation, generate_batched
from langadapt.inference.lineup import Lineup
from langadapt.inference.prompt import answer_lines, converse
from langadapt.inference.session import ask
from langadapt.inference.web import serve

__all__ = [
    "Generation",
    "Lineup",
    "answer_file",
    "answer_lines",
    "ask",
    "converse",
    "generate_batched",
    "serve",
    "show_answer",
    "show_comparison",
    "start_session",
    "translate_file",
]
