"""Texts, and translations in any direction, out of the same items in several languages."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from langadapt.evaluation.test_sets.layouts import Items, read_examples, read_items
from langadapt.evaluation.test_sets.sets import TestSets, TextSet, TranslationSet
from langadapt.files import sha256_of
from langadapt.files.records import Record
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.test_sets import TestSet
from langadapt.text import normalize


def read_aligned_set(name: str, test_set: TestSet, settings: EvaluationSettings, *, with_examples: bool) -> TestSets:
    """Read the test set that the recipe calls ``name``: its `texts`, and its `directions` with their examples.

    `limit` draws the same items for every language and direction. An item that is empty in a language of a direction
    is left out there; so is an example that shares a text with an item of the set, in whatever language.
    """
    translated = _distinct(language for direction in test_set.directions for language in direction.split("-"))
    neighbours = {
        target: test_set.neighbours[target]
        for target in _distinct(direction.split("-")[1] for direction in test_set.directions)
        if target in test_set.neighbours
    }
    languages = _distinct([*test_set.texts, *translated, *neighbours.values()])
    items = _normalized(read_items(name, test_set, languages))
    order = list(range(len(items.ids)))
    random.Random(settings.seed).shuffle(order)
    missing: dict[str, str] = {}
    files = list(items.files)

    texts = []
    for language in test_set.texts:
        rows, note = _choose(items, [language], order, settings.limit)
        if note:
            missing[f"likelihood.{name}.{language}"] = note
        if rows:
            column = items.texts[language]
            texts.append(TextSet(name, language, [items.ids[row] for row in rows], [column[row] for row in rows]))

    examples: Items | str = ""
    if with_examples and test_set.directions:
        examples = read_examples(name, test_set, translated)
    if isinstance(examples, Items):
        examples = _normalized(examples)
        files += examples.files
    tested = {text for column in items.texts.values() for text in column}

    translations = []
    for direction in test_set.directions:
        source, target = direction.split("-")
        rows, note = _choose(items, [source, target], order, settings.limit)
        if note:
            missing[f"translation.{name}.{direction}"] = note
        if not rows:
            continue
        shown: list[Record] = []
        if isinstance(examples, Items):
            unseen = _untested(examples, [source, target], tested)
            shown = [_record(name, examples, row, direction, None, settings) for row in unseen]
        elif examples:
            missing[f"translation.{name}.{direction}.examples"] = examples
        records = [_record(name, items, row, direction, neighbours.get(target), settings) for row in rows]
        translations.append(TranslationSet(name, direction, records, shown))
    return TestSets(texts, translations, missing, {str(path): sha256_of(path) for path in files})


def _choose(items: Items, languages: Sequence[str], order: Sequence[int], limit: int | None) -> tuple[list[int], str]:
    """Return the rows of the first ``limit`` items of ``order`` that have a text in all languages, and what to say.

    The rows come as they stand in the file. What is said is empty where no item is without a text.
    """
    whole = [row for row in order if all(items.texts[language][row] for language in languages)]
    empty = len(items.ids) - len(whole)
    note = f"{empty:,} of {len(items.ids):,} items are left out: empty in {' or '.join(languages)}" if empty else ""
    return sorted(whole[:limit]), note if items.ids else "the set holds no items"


def _untested(examples: Items, languages: Sequence[str], tested: Container[str]) -> list[int]:
    """Return the rows that have a text in all languages of a direction, none of them among those tested."""
    rows = []
    for row in range(len(examples.ids)):
        texts = [examples.texts[language][row] for language in languages]
        if all(texts) and not any(text in tested for text in texts):
            rows.append(row)
    return rows


def _record(
    name: str, items: Items, row: int, direction: str, neighbour: str | None, settings: EvaluationSettings
) -> Record:
    """Return an item as stage 1 would write it, asked with the recipe's template."""
    source, target = direction.split("-")
    text = items.texts[source][row]
    template = settings.translation_templates.get(direction, settings.translation_template)
    asked = [load_language(language).name_in(settings.prompt_language) for language in (source, target)]
    record = {
        "id": items.ids[row],
        "source": items.origins[row] if items.origins else name,
        "task": "translation",
        "source_lang": source,
        "target_lang": target,
        "instruction": template.format(source=asked[0], target=asked[1], text=text),
        "input": "",
        "output": items.texts[target][row],
        "source_text": text,
    }
    if neighbour is not None and items.texts[neighbour][row]:
        record["neighbour"] = items.texts[neighbour][row]
    return record


def _normalized(items: Items) -> Items:
    texts = {}
    for language, column in items.texts.items():
        form = load_language(language).normalization
        texts[language] = [normalize(text, form) for text in column]
    return replace(items, texts=texts)


def _distinct(languages: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(languages))
