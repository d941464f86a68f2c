"""From the settings' mixtures to pools: everything that could be drawn for one part, in the order it will be drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from langadapt.corpus.cleaning import implausible_lengths
from langadapt.corpus.collection import Collection, Documents
from langadapt.corpus.lengths import Cutoff
from langadapt.corpus.mixing import Budget, budgets
from langadapt.corpus.records import Candidate, PairReader, read_instructions, read_texts
from langadapt.corpus.storing import TURNS
from langadapt.corpus.templates import Templates
from langadapt.errors import UserError
from langadapt.recipe.mixtures import Mixture, Part, RecordPart, TextPart
from langadapt.recipe.preprocess import PreprocessSettings

_BATCH = 128  # candidates read together
_NOTHING = Budget(0)


@dataclass(frozen=True)
class Pool:
    """What one part of a mixture can draw from: ``size`` documents, of ``bytes`` in all."""

    name: str
    size: int
    bytes: int
    read: Callable[[Documents], list[Candidate]]
    seed: int
    repeats: int = 1
    max_share: float = 1.0  # of the mixture; 1.0 for parts that are never cut
    translates: bool = False  # its records are text pairs
    held_out: bool = True  # held-out records may come from it
    budget: Budget = _NOTHING

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield every candidate, some at a time, in an order that only the seed and the pool's name decide."""
        generator = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        order = generator.permutation(self.size)
        return (self.read(order[start : start + _BATCH]) for start in range(0, self.size, _BATCH))


def cpt_pools(settings: PreprocessSettings, collections: Sequence[Collection]) -> list[Pool]:
    """Return one pool for each part of the pretraining mixture, in the order of the YAML.

    Texts are held out in the language being taught only, unless the mixture has none in it.
    """
    by_name = {collection.name: collection for collection in collections}
    languages = [part.language or settings.language for part in settings.cpt.parts]
    pools = []
    for part, code in zip(settings.cpt.parts, languages, strict=True):
        collection = by_name[part.source]
        documents = np.flatnonzero(collection.usable(code) & collection.first(code))

        def read(
            chosen: Documents, collection: Collection = collection, code: str = code, documents: Documents = documents
        ) -> list[Candidate]:
            return read_texts(collection, documents[chosen], code)

        pool = _pool(settings, part, f"{part.source} lm {code}", collection, documents, [code], read)
        pools.append(replace(pool, held_out=code == settings.language or settings.language not in languages))
    return _with_budgets(settings.cpt, pools)


def sft_pools(
    settings: PreprocessSettings,
    collections: Sequence[Collection],
    templates: Templates,
    cutoff: Cutoff,
) -> list[Pool]:
    """Return one pool for each part of the fine-tuning mixture, in the order of the YAML."""
    by_name = {collection.name: collection for collection in collections}
    pools = [_sft_pool(settings, part, by_name[part.source], templates, cutoff) for part in settings.sft.parts]
    return _with_budgets(settings.sft, pools)


def check_not_empty(cpt: Sequence[Pool], sft: Sequence[Pool]) -> None:
    """Raise `UserError` when nothing at all can be drawn for continual pretraining or for fine-tuning."""
    if not any(pool.size for pool in cpt):
        raise UserError("no text for continual pretraining: every line of the sources was dropped. See `sources`.")
    if not any(pool.size for pool in sft):
        raise UserError(f"no record for fine-tuning in any of: {', '.join(pool.name for pool in sft)}. See `sft`.")


def _sft_pool(
    settings: PreprocessSettings,
    part: RecordPart,
    collection: Collection,
    templates: Templates,
    cutoff: Cutoff,
) -> Pool:
    name = f"{part.source} {part.task} {part.direction}"
    if collection.directions is None:
        documents = _pairs(settings, collection, *part.languages)
        pairs = PairReader(settings, part, collection, cutoff)
        codes = list(dict.fromkeys(part.languages))
        return _pool(settings, part, name, collection, documents, codes, lambda chosen: pairs.read(documents[chosen]))
    documents = np.flatnonzero(
        (collection.directions == part.direction) & collection.usable(TURNS) & collection.first(TURNS)
    )
    return _pool(
        settings,
        part,
        name,
        collection,
        documents,
        [TURNS],
        lambda chosen: read_instructions(collection, documents[chosen], part, templates),
    )


def _pool(
    settings: PreprocessSettings,
    part: Part,
    name: str,
    collection: Collection,
    documents: Documents,
    codes: Sequence[str],
    read: Callable[[Documents], list[Candidate]],
) -> Pool:
    return Pool(
        name,
        len(documents),
        sum(int(collection.bytes(code)[documents].sum()) for code in codes),
        read,
        settings.seed,
        part.repeats,
        part.max_share,
        translates=isinstance(part, RecordPart) and part.task == "translation",
    )


def _with_budgets(mixture: Mixture[TextPart] | Mixture[RecordPart], pools: Sequence[Pool]) -> list[Pool]:
    found = budgets(mixture, [pool.size for pool in pools], [pool.bytes for pool in pools])
    return [replace(pool, budget=budget) for pool, budget in zip(pools, found, strict=True)]


def _pairs(settings: PreprocessSettings, collection: Collection, asked: str, answered: str) -> Documents:
    """Return the documents that are pairs to learn from, and note in the collection's report what was dropped."""
    both = collection.present(asked) & collection.present(answered)
    usable = collection.usable(asked) & collection.usable(answered)
    new = collection.first(asked) | collection.first(answered)
    documents = np.flatnonzero(usable & new)
    lengths = [collection.columns[code].units[collection.rows[code][documents]] for code in (asked, answered)]
    implausible, (low, high) = implausible_lengths(lengths[0], lengths[1], settings.cleaning.length_ratio)
    dropped = {
        "a text of the pair was dropped": int((both & ~usable).sum()),
        "duplicate of a pair before": int((usable & ~new).sum()),
        "length_ratio: outside the fences": int(implausible.sum()),
    }
    collection.report.setdefault("pairs", {})[f"{asked}-{answered}"] = {
        "read": int(both.sum()),
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "kept": int((~implausible).sum()),
        "length ratios kept": [round(low, 3), round(high, 3)]
        if settings.cleaning.length_ratio and len(documents)
        else "all",
    }
    return documents[~implausible]
