"""Recipes of stage 1 that contradict themselves are refused before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from langadapt.recipe.mixtures import Mixture, TextPart
from langadapt.recipe.preprocess import PreprocessSettings

PAIRS = {"layout": "fields", "file": "x.jsonl", "fields": {"bo": "bo", "en": "en"}}
TURNS = {"layout": "instructions", "file": "y.jsonl", "languages": ["bo", "en"]}


def part(source: str, task: str, direction: str) -> dict[str, Any]:
    return {"source": source, "task": task, "direction": direction, "count": 5}


def recipe(sources: dict[str, Any], parts: list[dict[str, Any]]) -> PreprocessSettings:
    keys: dict[str, Any] = {"name": "t", "language": "bo", "tokenizer": "t", "output_dir": "out", "sources": sources}
    keys["cpt"] = {"parts": [{"source": "pairs", "count": 5}]}
    prompts = {"en-bo": ["Translate: {text}"], "bo-bo": ["Say: {text}"]}
    return PreprocessSettings.model_validate(keys | {"sft": {"parts": parts}, "prompts": prompts})


def test_a_sound_recipe_is_read() -> None:
    parts = [part("pairs", "translation", "en-bo"), part("turns", "instruction", "bo-bo")]
    assert recipe({"pairs": PAIRS, "turns": TURNS}, [*parts, part("turns", "translation", "en-bo")]).sft.parts


@pytest.mark.parametrize("name", ["a/b", "a b", "", "a:b", "pairs\n"])
def test_names_of_sources_can_stand_in_ids_and_file_names(name: str) -> None:
    with pytest.raises(ValidationError, match="is no name"):
        recipe({"pairs": PAIRS, name: TURNS}, [part("pairs", "translation", "en-bo")])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part("pairs", "translation", "bo-bo")], r"sft\.parts\.0: bo-bo is no translation"),
        (
            [part("turns", "instruction", "en-bo"), part("turns", "translation", "en-bo")],
            r"sft\.parts\.1 takes the records of sft\.parts\.0, turns en-bo.*trained on twice",
        ),
        (
            [part("turns", "instruction", "en-bo"), part("turns", "instruction", "en-bo")],
            r"sft\.parts\.1 is turns instruction en-bo once more",
        ),
    ],
)
def test_records_are_taken_once_and_translated(parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe({"pairs": PAIRS, "turns": TURNS}, parts)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"count": 5, "temperature": 2, "parts": [{"source": "a", "weight": 1}]},
            "temperature is for parts that share",
        ),
        ({"temperature": 2, "parts": [{"source": "a", "count": 3}]}, "temperature is for parts that share"),
        (
            {"parts": [{"source": name, "count": 3, "max_share": 0.3} for name in "ab"]},
            "nothing is left that is not capped",
        ),
    ],
)
def test_what_would_do_nothing_or_leave_nothing_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mixture[TextPart].model_validate(keys)
    sound = keys | {"temperature": 1, "parts": [keys["parts"][0] | {"max_share": 1}, *keys["parts"][1:]]}
    assert Mixture[TextPart].model_validate(sound).parts
