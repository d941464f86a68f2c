"""Stage 1: read, pair, hold out, draw, filter by length, write, and prove that nothing leaks."""

from langadapt.corpus.dataset import prove_disjoint, write_dataset
from langadapt.corpus.download import download_sources
from langadapt.corpus.drawing import Draw
from langadapt.corpus.lengths import open_tokenizer
from langadapt.corpus.pools import check_not_empty, cpt_pool, prompts_of, sft_pools
from langadapt.corpus.report import describe_inputs, shortfalls, write_report
from langadapt.corpus.sources import open_sources
from langadapt.corpus.templates import Templates

__all__ = [
    "Draw",
    "Templates",
    "check_not_empty",
    "cpt_pool",
    "describe_inputs",
    "download_sources",
    "open_sources",
    "open_tokenizer",
    "prompts_of",
    "prove_disjoint",
    "sft_pools",
    "shortfalls",
    "write_dataset",
    "write_report",
]
