"""Settings of stage 4: which model, on which test sets, with which prompt."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings

_FILE_NAME = re.compile(r"^\w[\w.+-]{0,99}$")


class EvaluationSettings(Settings):
    """Everything a figure of stage 4 depends on besides the model and the data; stored beside the figures."""

    model_path: str | None = Field(None, description="the model to evaluate: a folder or a hub name")
    model_name: str | None = Field(None, description="its name in files, charts and tables, e.g. base, cpt, sft_epoch2")

    dataset_dir: str = Field("hf_data/tibetan_datasets", description="the folder that stage 1 wrote")
    likelihood_file: str = Field("tibetan_cpt_test.json", description="held-out text, in dataset_dir")
    translation_file: str = Field(
        "tibetan_sft_test_filtered_4k.json", description="held-out translations, in dataset_dir"
    )
    fewshot_file: str = Field(
        "tibetan_sft_filtered_4k.json", description="training records in dataset_dir, for the examples in a prompt"
    )
    language: str = Field("bo", description="the language of likelihood_file: a profile in configs/languages")
    directions: list[Direction] | None = Field(
        None, description="translation directions to score, e.g. [zh-bo, en-bo]; null: all in translation_file"
    )
    limit: int | None = Field(
        None, ge=1, description="at most so many documents, and so many records a direction, drawn with `seed`"
    )
    seed: int = Field(42, description="draws the records of `limit` and the examples in a prompt")

    prompt_format: Literal["auto", "chat", "few_shot"] = Field(
        "auto", description="auto: the chat template for a model trained to answer in turns, else a few-shot prompt"
    )
    prompt_language: str = Field("zh", description="language of the names that label the lines of a few-shot prompt")
    num_fewshot: int = Field(4, ge=0, description="translations shown ahead of the question in a few-shot prompt")
    fewshot_max_tokens: int = Field(256, ge=1, description="longest example in a few-shot prompt, in tokens")
    length_ratio: float = Field(
        1.5, ge=1, description="generation may take so many times the reference's tokens, and 16 more"
    )

    max_length: int | None = Field(
        None, ge=2, description="tokens a likelihood window; null: what the model can take, at most 2048"
    )
    token_budget: int = Field(16384, ge=1, description="tokens in a batch, padding included")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto: the first GPU, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on the CPU"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model; leave it false")

    output_dir: str = Field("evaluation_results", description="where results, charts and the summary go")
    order: list[str] | None = Field(
        None, description="models in the order of the charts; null: base*, cpt*, sft*, then the others by age"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.model_path is None) != (self.model_name is None):
            raise ValueError("`model_path` and `model_name` go together: give both, or --compare with neither")
        if self.model_name is not None and not _FILE_NAME.match(self.model_name):
            raise ValueError(
                f"`model_name` is {self.model_name!r}: it names files, so use letters, digits and _ . + - (at most 100)"
            )
        return self
