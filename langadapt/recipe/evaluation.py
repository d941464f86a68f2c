"""Settings of stage 4: which model, on which test sets, with which prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from langadapt.recipe.bars import Bar
from langadapt.recipe.inference import check_templates
from langadapt.recipe.language import Direction
from langadapt.recipe.settings import Settings
from langadapt.recipe.test_sets import OWN, ChoiceSet, TestSet

_FILE_NAME = re.compile(r"\w[\w.+-]{0,99}")


class EvaluationSettings(Settings):
    """Everything a figure of stage 4 depends on besides the model and the data; stored beside the figures."""

    renamed: ClassVar[Mapping[str, str]] = {
        "fewshot_max_tokens": "It is `fewshot_max_units` now, in syllables or words: the same examples for all."
    }

    model_path: str | None = Field(None, description="the model to evaluate: a folder or a hub name")
    model_name: str | None = Field(None, description="its name in files, charts and tables, e.g. base, cpt, sft_epoch2")

    dataset_dir: str = Field("hf_data/tibetan_datasets", description="the folder that stage 1 wrote")
    likelihood_file: str | None = Field(
        "tibetan_cpt_test.json", description="held-out text, in dataset_dir; null: none, only test_sets"
    )
    translation_file: str | None = Field(
        "tibetan_sft_test_filtered_4k.json", description="held-out translations, in dataset_dir; null: none"
    )
    fewshot_file: str = Field(
        "tibetan_sft_filtered_4k.json", description="training records in dataset_dir, for the examples in a prompt"
    )
    language: str = Field("bo", description="the language of likelihood_file: a profile in configs/languages")
    directions: list[Direction] | None = Field(
        None, description="translation directions to score, e.g. [zh-bo, en-bo]; null: all in translation_file"
    )
    test_sets: dict[str, TestSet] = Field(
        default_factory=dict,
        description="more test sets by name: FLORES, NTREX, lines or fields; see docs/EVALUATION.md",
    )
    choice_sets: dict[str, ChoiceSet] = Field(
        default_factory=dict, description="multiple-choice and short-answer sets by name: MM-Eval, Belebele, Ti-MMLU"
    )
    training_files: list[str] = Field(
        default_factory=list,
        description="what the models were trained on, in dataset_dir, or absolute paths (.json, .jsonl, .txt): items "
        "that stand in them are counted, and the others scored apart",
    )
    contamination_ngram: int = Field(
        8, ge=2, description="syllables, characters or words in a row that count as found in a training file"
    )
    limit: int | None = Field(
        None, ge=1, description="at most so many documents, and so many records a direction, drawn with `seed`"
    )
    seed: int = Field(42, description="draws the records of `limit` and the examples in a prompt")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples behind intervals and p-values")

    prompt_format: Literal["auto", "chat", "few_shot"] = Field(
        "auto",
        description="few_shot: translations to continue, the same for all models; chat: the chat template; auto: "
        "few_shot, and chat as well for a model trained to answer in turns. A translator is given the source alone",
    )
    prompt_language: str = Field("zh", description="language of the names that label the lines of a few-shot prompt")
    num_fewshot: int | list[int] = Field(
        4, description="translations shown ahead of the question in a few-shot prompt; a list: each of them, as a study"
    )
    fewshot_max_units: int = Field(
        100, ge=1, description="longest example in a few-shot prompt: syllables, characters or words of both languages"
    )
    translation_template: str = Field(
        "请将以下{source}翻译成{target}：{text}",
        description="what a chat model is asked on test sets that bring no instruction: {source}, {target}, {text}",
    )
    translation_templates: dict[Direction, str] = Field(
        default_factory=dict, description="templates for single directions in its place"
    )
    length_ratio: float = Field(
        1.5, ge=1, description="generation may take so many times the reference's tokens, and 16 more"
    )
    max_new_tokens: int = Field(512, ge=1, description="--predict: longest answer, in tokens")
    num_beams: int = Field(
        1, ge=1, description="1: greedy, for translators too; more: beam search, several times slower"
    )
    language_tokens: dict[str, str] = Field(
        default_factory=dict,
        description="of a translator: tokens of languages whose profile does not tell them, e.g. {bo: my_MM}",
    )
    strict: bool = Field(
        False,
        description="the same text for any batch size: float32, and what hangs by a rounding error generated alone",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what generates; vllm must be installed"
    )

    comet_model: str | None = Field(
        None,
        description="checkpoint file of COMET, for languages that its encoder has seen; needs the command comet-score",
    )
    labse_model: str | None = Field(None, description="folder of LaBSE: how close hypothesis and source are in meaning")
    language_identifier: str | None = Field(
        None, description="a fastText language identification model (.bin, .ftz), to count hypotheses off target"
    )

    max_length: int | None = Field(
        None, ge=2, description="tokens a likelihood window; null: what the model can take, at most 2048"
    )
    stride: int | None = Field(
        None, ge=1, description="tokens between likelihood windows that overlap; null: they are disjoint"
    )
    token_budget: int = Field(16384, ge=1, description="tokens in a batch, padding included")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto: the first GPU, else the CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, float32 on the CPU"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model; leave it false")

    output_dir: str = Field("evaluation_results", description="where results, charts and the summary go")
    weight_report: str = Field(
        "weight_analysis/report.html", description="the report of stage 5, which this stage's links to"
    )
    order: list[str] | None = Field(
        None, description="models in the order of the charts; null: base*, cpt*, sft*, then the others by age"
    )

    bars: list[Bar] = Field(
        default_factory=list,
        description="figures that models have to reach; the comparison says which do: pass or fail",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.model_path is None) != (self.model_name is None):
            raise ValueError("`model_path` and `model_name` go together: give both, or --compare with neither")
        if self.model_name is not None and not _FILE_NAME.fullmatch(self.model_name):
            raise ValueError(
                f"`model_name` is {self.model_name!r}: it names files, so use letters, digits and _ . + - (at most 100)"
            )
        problems = check_templates(self.translation_template, self.translation_templates)
        if len({*(self.directions or [])}) < len(self.directions or []):
            problems.append(f"`directions` names one twice: {', '.join(self.directions or [])}")
        if self.stride is not None and self.max_length is not None and self.stride > self.max_length:
            problems.append(f"`stride` is {self.stride}, longer than a window (max_length={self.max_length})")
        if not self.shots or min(self.shots) < 0:
            problems.append(f"`num_fewshot` is {self.num_fewshot}: give 0 or more, or a list of such")
        if self.strict and self.dtype not in ("auto", "float32"):
            problems.append(f"`strict` needs float32, but `dtype` is {self.dtype}")
        if self.strict and self.engine == "vllm":
            problems.append("`strict` needs engine=transformers: vLLM's batches are its own")
        if self.strict and self.num_beams > 1:
            problems.append(f"`strict` needs num_beams=1, not {self.num_beams}")
        for name in (*self.test_sets, *self.choice_sets):
            if name == OWN or not _FILE_NAME.fullmatch(name):
                problems.append(f"{name!r} cannot name a test set: use letters, digits and _ . + -, and not {OWN}")
        problems += self._problems_of_bars()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_bars(self) -> Iterator[str]:
        """Yield what is wrong with bars that this recipe could never judge."""
        for index, bar in enumerate(self.bars):
            measured = self._measured_on(bar)
            if measured is None:
                known = self.choice_sets if bar.measure == "accuracy" else [OWN, *self.test_sets]
                yield f"bars.{index}: no test set {bar.test_set!r} for {bar.measure} ({', '.join(known) or 'none'})"
            elif bar.of not in measured:
                yield f"bars.{index}: {bar.test_set} has no {bar.of} to measure ({', '.join(measured) or 'none'})"

    def _measured_on(self, bar: Bar) -> list[str] | None:
        """Return the languages or directions that a bar's test set is measured in; None where there is no such set."""
        if bar.measure == "accuracy":
            choices = self.choice_sets.get(bar.test_set)
            return None if choices is None else [choices.language]
        if bar.test_set != OWN:
            test_set = self.test_sets.get(bar.test_set)
            return None if test_set is None else test_set.directions if bar.direction else test_set.texts
        if bar.direction is None:
            return [self.language] if self.likelihood_file else []
        if self.translation_file is None:
            return []
        return [bar.direction] if self.directions is None else list(self.directions)

    @property
    def shots(self) -> list[int]:
        """The numbers of examples to ask with, each once, in rising order."""
        return sorted({*([self.num_fewshot] if isinstance(self.num_fewshot, int) else self.num_fewshot)})
