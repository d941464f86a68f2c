"""Every prediction of every model, arranged to be read side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langadapt.evaluation.comparison.figures import own_rank
from langadapt.evaluation.results import Evaluation, Prediction

Group = dict[str, Any]
Item = tuple[str, str, str, str]  # id, source, reference, origin


def group_predictions(
    results: Mapping[str, Evaluation], predictions: Mapping[str, Sequence[Prediction]]
) -> list[Group]:
    """Return one group a test set and direction, as plain lists that go into the page as JSON.

    A group has ``items``, each ``[id, source, reference, origin]``, and ``columns``, one a model and prompt, whose
    ``texts`` and ``stops`` run parallel to the items, None where the model was not given the item. Items are one only
    when id, source and reference agree, so that results on different data do not run together.
    """
    found: dict[tuple[str, str], dict[Item, dict[tuple[str, str], Prediction]]] = {}
    for model, made in predictions.items():
        for p in made:
            items = found.setdefault((p.test_set, p.direction), {})
            items.setdefault((p.id, p.source, p.reference, p.origin or ""), {})[model, p.prompt_name] = p
    return [_group(results, *key, items) for key, items in found.items()]


def _group(
    results: Mapping[str, Evaluation],
    test_set: str,
    direction: str,
    items: Mapping[Item, Mapping[tuple[str, str], Prediction]],
) -> Group:
    source, target = direction.split("-")
    columns = []
    for model, prompt in sorted({key for row in items.values() for key in row}, key=lambda key: _place(results, key)):
        made = [row.get((model, prompt)) for row in items.values()]
        columns.append(
            {
                "model": model,
                "prompt": prompt,
                "own": prompt == own_prompt(results[model], test_set, direction),
                "first": next((p.prompt for p in made if p), ""),
                "texts": [p and p.hypothesis for p in made],
                "stops": [p and p.stop_reason for p in made],
            }
        )
    return {
        "test_set": test_set,
        "direction": direction,
        "source": source,
        "target": target,
        "items": [list(item) for item in items],
        "columns": columns,
    }


def own_prompt(result: Evaluation, test_set: str, direction: str) -> str:
    """Return the name of a model's own prompt: chat where it was asked so, else the one with most examples."""
    prompts = [t.prompt for t in result.translations if (t.test_set, t.direction) == (test_set, direction)]
    return max(prompts, key=own_rank).name if prompts else ""


def _place(results: Mapping[str, Evaluation], key: tuple[str, str]) -> tuple[int, str]:
    model, prompt = key
    return list(results).index(model), prompt
