"""Stage 6: a conversation with a model; and generation in batches, for stage 4."""

from langadapt.inference.conversation import open_responder
from langadapt.inference.generation import Generation, generate_batched
from langadapt.inference.prompt import answer_lines, converse
from langadapt.inference.session import ask, start_session

__all__ = [
    "Generation",
    "answer_lines",
    "ask",
    "converse",
    "generate_batched",
    "open_responder",
    "start_session",
]
