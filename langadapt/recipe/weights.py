"""Settings of stage 5: which checkpoints to compare, and where the figures go."""

from __future__ import annotations

from pydantic import Field

from langadapt.recipe.settings import Settings


class WeightsSettings(Settings):
    """Everything stage 5 can be told."""

    original: str = Field(description="the base model: a folder, or a hub name that is in the Hugging Face cache")
    cpt: str = Field(description="the model after continual pretraining")
    sft: str = Field(description="the model after supervised fine-tuning; may be a checkpoint-N folder")
    output_dir: str = Field("weight_analysis", description="where charts, summary and JSON go")
    evaluation_report: str = Field(
        "evaluation_results/report.html", description="the report of stage 4; the two link to each other"
    )
    top_k: int = Field(20, description="how many tensors the charts of the largest changes show", ge=1, le=400)
    workers: int | None = Field(None, description="processes that read and sum; null: one for each core", ge=1)
    device: str = Field("auto", description="auto (a GPU where there is one), cpu, cuda or cuda:N")
    spectra: bool = Field(False, description="also the singular values of each matrix's change: ranks; takes longer")
