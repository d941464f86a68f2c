"""Which models clear the recipe's bars: pass, fail, or not measured and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langadapt.evaluation.comparison.figures import Verdict, own_rank
from langadapt.evaluation.results import Choices, Evaluation, Likelihood, Translation
from langadapt.recipe.bars import Bar


def judge(bars: Sequence[Bar], results: Mapping[str, Evaluation]) -> list[Verdict]:
    """Return a verdict on every bar for every model that it names, in their order.

    A translation counts as the model answers under its own prompt: chat where it has one, else with most examples. Of
    several accuracies on one set it is that with most examples.
    """
    return [_verdict(bar, model, results.get(model)) for bar in bars for model in bar.models]


def bars_for(evaluation: Evaluation) -> list[Bar]:
    """Return the bars of an evaluation's own settings that name its model, for it alone; none in results of before."""
    bars = [Bar.model_validate(bar) for bar in evaluation.settings.get("bars", ())]
    name = evaluation.model_name
    return [bar.model_copy(update={"models": [name]}) for bar in bars if name in bar.models]


def _verdict(bar: Bar, model: str, result: Evaluation | None) -> Verdict:
    if result is None:
        return Verdict(bar, model, "not measured", None, f"no model {model} was evaluated")
    found = _figure(bar, result)
    if isinstance(found, str):
        return Verdict(bar, model, "not measured", None, found)
    value, how = found
    return Verdict(bar, model, "pass" if bar.clears(value) else "fail", value, how)


def _figure(bar: Bar, result: Evaluation) -> tuple[float, str] | str:
    """Return what a bar judges and how it was measured, or why it was not."""
    key = bar.test_set, bar.of
    if bar.measure in ("perplexity", "bits_per_byte"):
        texts = [x for x in result.likelihoods if (x.test_set, x.language) == key]
        return _of_text(bar, texts[0]) if texts else _reason(result, "likelihood", *key)
    if bar.measure == "accuracy":
        choices = [x for x in result.choices if (x.test_set, x.language) == key]
        return _of_choices(choices) if choices else result.missing.get(f"choices.{bar.test_set}", "no such figure")
    translations = [x for x in result.translations if (x.test_set, x.direction) == key]
    if not translations:
        return _reason(result, "translation", *key)
    return _of_translation(bar, max(translations, key=lambda x: own_rank(x.prompt)), result)


def _of_text(bar: Bar, likelihood: Likelihood) -> tuple[float, str]:
    if bar.measure == "perplexity":
        return likelihood.token_perplexity, f"{likelihood.documents:,} documents, by token of its own tokenizer"
    return likelihood.bits_per_byte, f"{likelihood.documents:,} documents"


def _of_choices(choices: Sequence[Choices]) -> tuple[float, str]:
    most = max(choices, key=lambda x: x.num_fewshot)
    return most.accuracy, f"{most.num_fewshot}-shot, n = {most.n:,}"


def _of_translation(bar: Bar, translation: Translation, result: Evaluation) -> tuple[float, str] | str:
    if score := translation.scores.get(bar.measure):
        return score.score, f"{translation.prompt.name}, n = {translation.n:,}"
    if result.settings.get(f"{bar.measure}_model", "") is None:
        return f"{bar.measure}_model was not set"
    return _reason(result, "translation", bar.test_set, bar.of, bar.measure)


def _reason(result: Evaluation, *key: str) -> str:
    return result.missing.get(".".join(key), "no such figure in its results: evaluate it again")
