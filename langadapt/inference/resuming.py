"""Generation that outlives a kill: what an earlier run has finished is not generated again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from langadapt.files.partial import PartialFile
from langadapt.inference.generation import Generation
from langadapt.models.folder import adapter_base, is_adapter
from langadapt.models.translation import TRANSLATION_FILE

_MODEL_FILES = ["*.safetensors", "*config.json", "tokenizer*", "chat_template.jinja"]
_MODEL_FILES += ["vocab.json", "*.spm", "sentencepiece*", TRANSLATION_FILE]  # of translators


def generate_missing(
    generate: Callable[..., Iterator[tuple[int, Generation]]],
    results: PartialFile,
    keys: Sequence[str],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    to_value: Callable[[int, Generation], dict[str, Any]],
    *,
    stop_ids: Sequence[int],
    stop_text: str | None = None,
    title: str,
    counts: Counter[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Return the value of each key, in order; what ``results`` does not hold is generated and added to it.

    ``generate`` is `generate_batched` of a model, or does as it does. ``to_value`` makes a value of the prompt's index
    and its `Generation`. Of several processes each generates its share, and all return everything. To ``counts`` is
    added how many were there (``resumed``). ``seeds``, one a prompt, are handed to a ``generate`` that draws.
    """
    ranks = results.ranks
    waiting = [place for place, key in enumerate(keys) if key not in results.done]
    waiting.sort(key=lambda place: len(prompts[place]) + max_new_tokens[place])
    mine = waiting[ranks.rank :: ranks.count]  # of each length as many as the others
    if ranks.rank == 0 and counts is not None:
        counts["resumed"] += len(keys) - len(waiting)
    generations = generate(
        [prompts[place] for place in mine],
        stop_ids=stop_ids,
        max_new_tokens=[max_new_tokens[place] for place in mine],
        stop_text=stop_text,
        **({} if seeds is None else {"seeds": [seeds[place] for place in mine]}),
    )
    quiet = True if ranks.rank else None  # None: where no one watches
    for index, generation in tqdm(generations, total=len(mine), desc=title, unit="record", disable=quiet):
        results.add(keys[mine[index]], to_value(mine[index], generation))
    results.join()
    return [results.done[key] for key in keys]


def model_files(path: str) -> dict[str, list[int]]:
    """Return size and time of change of every file that a model's answers depend on; of an adapter its base's too.

    By these a run knows that it goes on with the same model. A hub name has no files.
    """
    files = sorted({file for pattern in _MODEL_FILES for file in Path(path).glob(pattern)})
    found = {str(file): [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in files}
    return found | model_files(adapter_base(path)) if is_adapter(path) else found
