"""Settings of preference pairs made from a model: whom to ask, how often, who judges, and which pairs are worth it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from langadapt.recipe.settings import Settings


class PairSettings(Settings):
    """Everything that ``python -m langadapt.evaluation.preferences`` can be told."""

    name: str = Field(description="first part of the file names it writes", pattern=r"^[\w.-]+$")
    model_path: str = Field(description="the model to improve, trained to answer: a folder or hub name")
    dataset: str = Field(description="a training file of stage 1: its prompts are asked, its answers are references")
    output_dir: str = Field(description="where the pairs and their report go; not a folder of stage 1")
    limit: int | None = Field(None, description="ask so many records, drawn with `seed`; null: all", gt=0)
    samples: int = Field(4, description="answers drawn for each record", ge=1)
    temperature: float = Field(1.0, description="of the sampling; lower draws likelier answers", gt=0, le=10)
    top_p: float = Field(
        0.95, description="sample from the likeliest tokens that hold this much probability", gt=0, le=1
    )
    seed: int = Field(42, description="of every draw")
    length_ratio: float = Field(
        1.5, ge=1, description="an answer may take so many times the reference's tokens, and 16"
    )
    rank_by: Literal["chrf", "labse", "comet", "judgements"] = Field(
        "chrf", description="what ranks the answers: a score against reference or source, or a file of judgements"
    )
    labse_model: str | None = Field(None, description="rank_by labse: folder of LaBSE")
    comet_model: str | None = Field(None, description="rank_by comet: checkpoint file; needs the command comet-score")
    judgements: str | None = Field(
        None,
        description="rank_by judgements: JSONL of {id, ranking}, the numbers of the candidates from best to worst, a "
        "list for those that tie; the candidates stand in <name>_candidates.jsonl",
    )
    chosen: Literal["best", "reference"] = Field(
        "best", description="what is preferred: the best answer, or the reference"
    )
    rejected: Literal["worst", "second"] = Field("worst", description="to what: the worst answer, or the best but one")
    min_margin: float = Field(
        5.0, description="least difference in score, in points of chrF, LaBSE or COMET (0 to 1), or in ranks", gt=0
    )
    max_similarity: float = Field(
        0.9,
        description="pairs more alike than this, and answers more like their source, are dropped (0 to 1)",
        gt=0,
        le=1,
    )
    held_out: int = Field(100, description="pairs held out to measure on", ge=0)
    max_share: float = Field(0.2, description="never more than this share of the pairs", gt=0, lt=1)
    cutoff_len: int = Field(
        1024, description="pairs of which an answer takes more tokens, prompt included, are left out", gt=1
    )
    token_budget: int = Field(16384, ge=1, description="tokens in a batch, padding included")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto: the first GPU, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on the CPU"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model; leave it false")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        files = {"labse": "labse_model", "comet": "comet_model", "judgements": "judgements"}
        problems = [
            f"{key} is set, but rank_by is {self.rank_by}"
            for metric, key in files.items()
            if metric != self.rank_by and getattr(self, key) is not None
        ]
        if self.rank_by in ("labse", "comet") and getattr(self, files[self.rank_by]) is None:
            problems.append(f"rank_by is {self.rank_by}, which needs {files[self.rank_by]}")
        if self.rank_by in ("labse", "comet") and self.min_margin >= 1:
            problems.append(f"min_margin is {self.min_margin}, but {self.rank_by} is at most 1; take, say, 0.05")
        if self.rank_by == "judgements" and self.min_margin > self.samples - 1:
            problems.append(f"min_margin is {self.min_margin}, but {self.samples} ranks are never so far apart; take 1")
        if self.rank_by == "judgements" and self.chosen == "reference":
            problems.append("chosen is reference, of which a file of judgements says nothing; take a score to rank by")
        if self.chosen == "best" and self.samples < 2:
            problems.append("samples is 1, and a best answer takes another that it is better than; draw more")
        if problems:
            raise ValueError("; ".join(problems))
        return self
