"""What a reader of a comparison has to bear in mind: what is missing, and what was not the same for all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from langadapt.evaluation.comparison.figures import Metric
from langadapt.evaluation.results import Evaluation

_FEW = 30
_DECODING = ("engine", "num_beams", "length_ratio", "strict")


def cautions_of(results: Mapping[str, Evaluation], metrics: Sequence[Metric]) -> list[str]:
    """Return one sentence for each thing that is missing, was left out, or may explain a difference by itself."""
    missing = [
        f"{model}: {key}: {reason}" for model, result in results.items() for key, reason in result.missing.items()
    ]
    return [
        *missing,
        *_apart(results, metrics),
        *_limits(results),
        *_few(results),
        *_contamination(results),
        *_conditions(results),
    ]


def _apart(results: Mapping[str, Evaluation], metrics: Sequence[Metric]) -> list[str]:
    said = []
    for model in results:
        apart = [
            f"{metric.key} {metric.show(metric.apart[model].value)} ({metric.reasons[model]})"
            for metric in metrics
            if model in metric.apart
        ]
        if apart:
            said.append(f"{model}: {', '.join(apart)}: not measured as for most models, so in no column")
    return said


def _limits(results: Mapping[str, Evaluation]) -> list[str]:
    limits = {model: result.settings.get("limit") for model, result in results.items()}
    return [
        f"{model}: limit={limit}: at most so many documents, and records a direction, were scored"
        for model, limit in limits.items()
        if limit is not None
    ]


def _few(results: Mapping[str, Evaluation]) -> list[str]:
    """Say which figures are of so few items that resampling these does not show how else it could have come."""
    sizes = {
        **{f"{x.language} of {x.test_set}": x.documents for r in results.values() for x in r.likelihoods},
        **{f"{x.direction} of {x.test_set}": x.n for r in results.values() for x in r.translations},
    }
    few = [f"{what}: {n}" for what, n in sizes.items() if n < _FEW]
    return (
        [f"fewer than {_FEW} items ({', '.join(few)}): intervals and p-values are too sure of themselves"]
        if few
        else []
    )


def _contamination(results: Mapping[str, Evaluation]) -> list[str]:
    said = []
    for model, result in results.items():
        found = {
            f"{t.direction} of {t.test_set}": f"{t.contamination.contaminated:,} of {t.n:,}"
            for t in result.translations
            if t.contamination and t.contamination.contaminated
        }
        if found:
            each = ", ".join(f"{count} items of {what}" for what, count in found.items())
            said.append(f"{model}: the training files hold {each}; the scores of the others stand under Contamination")
    unknown = [
        model for model, result in results.items() if result.translations and not result.settings.get("training_files")
    ]
    if unknown:
        said.append(f"{', '.join(unknown)}: no training_files were named, so contamination of the test sets is unknown")
    return said


def _conditions(results: Mapping[str, Evaluation]) -> list[str]:
    """Say what differs between the models and so may explain a difference between their figures."""
    conditions: dict[str, Callable[[Evaluation], str]] = {
        "likelihood windows": _windows,
        "number formats": lambda result: result.dtype,
        "ways of generating": _decoding,
        "examples that fitted into the prompt": _fitted,
    }
    said = []
    for what, of in conditions.items():
        by_model = {model: of(result) for model, result in results.items()}
        if len(set(filter(None, by_model.values()))) > 1:
            each = ", ".join(f"{model}: {value}" for model, value in by_model.items() if value)
            said.append(f"{what} differ ({each}); a difference between figures may be theirs")
    return said


def _windows(result: Evaluation) -> str:
    windows = sorted({(x.max_length, x.stride) for x in result.likelihoods})
    return " + ".join(f"{size} tokens" + (f" every {step}" if step < size else "") for size, step in windows)


def _decoding(result: Evaluation) -> str:
    if not result.translations:
        return ""
    return " ".join(f"{key}={result.settings[key]}" for key in _DECODING if key in result.settings)


def _fitted(result: Evaluation) -> str:
    prompts = {t.prompt.name: t.prompt for t in result.translations if t.prompt.format == "few_shot"}
    short = {name: prompt.describe() for name, prompt in sorted(prompts.items()) if prompt.describe() != name}
    return ", ".join(f"{shown} for {name}" for name, shown in short.items()) or ("all" if prompts else "")
