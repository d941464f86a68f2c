"""From the settings' mixtures to pools: everything that could be drawn for one part, in the order it will be drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langadapt.corpus.cleaning import implausible_lengths
from langadapt.corpus.collection import Collection, Documents
from langadapt.corpus.lengths import Cutoff
from langadapt.corpus.mixing import Budget, budgets
from langadapt.corpus.records import Candidate, PairReader, read_instructions, read_preferences, read_texts
from langadapt.corpus.templates import Templates
from langadapt.corpus.turns import TURNS
from langadapt.errors import UserError
from langadapt.recipe.mixtures import DirectedPart, Mixture, Part, PreferencePart, RecordPart, TextPart
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
    groups: NDArray[np.int64] | None = None  # of each document: those of one number are of one larger document

    @property
    def expected_bytes(self) -> float:
        """About how many bytes of it will be read."""
        share = 1.0 if self.budget.unit == "tokens" else min(1.0, self.budget.amount / max(1, self.size))
        return self.bytes * share

    def batches(self, grouped: bool = False) -> Iterator[list[Candidate]]:
        """Yield every candidate, some at a time, in an order that only the seed and the pool's name decide.

        ``grouped``: group after group, in an order that all pools of a source share.
        """
        generator = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        order = generator.permutation(self.size)
        if grouped and self.groups is not None and self.size:
            ranks = np.random.default_rng(self.seed).permutation(int(self.groups.max()) + 1)
            order = order[np.argsort(ranks[self.groups[order]], kind="stable")]
        return (self.read(order[start : start + _BATCH]) for start in range(0, self.size, _BATCH))


def cpt_pools(settings: PreprocessSettings, collections: Sequence[Collection]) -> list[Pool]:
    """Return one pool for each part of the pretraining mixture, in the order of the YAML; none for a recipe without.

    Of texts that are one, the mixture has the first, in a source of text pairs if there is one. Texts are held out in
    the language being taught only, unless the mixture has none in it.
    """
    if settings.cpt is None:
        return []
    by_name = {collection.name: collection for collection in collections}
    codes = [part.language or settings.language for part in settings.cpt.parts]
    sources = [by_name[part.source] for part in settings.cpt.parts]
    usable = [np.flatnonzero(source.usable(code)) for source, code in zip(sources, codes, strict=True)]
    order = sorted(range(len(sources)), key=lambda k: -len(sources[k].columns))
    new = dict(zip(order, _firsts([sources[k].clusters(codes[k])[usable[k]] for k in order]), strict=True))
    pools = []
    for k, (part, code, source) in enumerate(zip(settings.cpt.parts, codes, sources, strict=True)):
        documents = usable[k][new[k]]
        _note(source, f"lm {code}", len(usable[k]), {"duplicate of a text before": int((~new[k]).sum())})

        def read(
            chosen: Documents, source: Collection = source, code: str = code, documents: Documents = documents
        ) -> list[Candidate]:
            return read_texts(source, documents[chosen], code)

        pool = _pool(settings, part, f"{part.source} lm {code}", source, documents, [code], read)
        pools.append(replace(pool, held_out=code == settings.language or settings.language not in codes))
    return _with_budgets(settings.cpt, pools)


def sft_pools(
    settings: PreprocessSettings, collections: Sequence[Collection], templates: Templates, cutoff: Cutoff
) -> list[Pool]:
    """Return one pool for each part of the fine-tuning mixture, in the order of the YAML.

    Of pairs or records in one direction that are the same on both sides, the mixture has the first.
    """
    by_name = {collection.name: collection for collection in collections}
    parts = settings.sft.parts
    sides = [part.languages if by_name[part.source].directions is None else (TURNS, TURNS) for part in parts]
    usable = [_usable(part, by_name[part.source]) for part in parts]
    new: dict[int, NDArray[np.bool_]] = {}
    for direction in dict.fromkeys(part.direction for part in parts):
        mine = [k for k, part in enumerate(parts) if part.direction == direction]
        asked, answered = (
            _firsts([by_name[parts[k].source].clusters(sides[k][side])[usable[k]] for k in mine]) for side in (0, 1)
        )
        new |= {k: a | b for k, a, b in zip(mine, asked, answered, strict=True)}
    pools = [
        _sft_pool(settings, part, by_name[part.source], usable[k], new[k], templates, cutoff)
        for k, part in enumerate(parts)
    ]
    return _with_budgets(settings.sft, pools)


def dpo_pools(settings: PreprocessSettings, collections: Sequence[Collection], templates: Templates) -> list[Pool]:
    """Return one pool for each part of the preference mixture, in the order of the YAML; none for a recipe without.

    Of records that are the same in all that is said, the mixture has the first.
    """
    if settings.dpo is None:
        return []
    by_name = {collection.name: collection for collection in collections}
    parts = settings.dpo.parts
    sources = [by_name[part.source] for part in parts]
    usable = [_usable(part, source) for part, source in zip(parts, sources, strict=True)]
    new = _firsts([source.clusters(TURNS)[some] for source, some in zip(sources, usable, strict=True)])
    pools = []
    for part, source, some, first in zip(parts, sources, usable, new, strict=True):
        documents, label = some[first], f"{part.task} {part.direction}"
        _note(source, label, len(some), {"duplicate of a record before": int((~first).sum())})

        def read(
            chosen: Documents, source: Collection = source, documents: Documents = documents, part: Any = part
        ) -> list[Candidate]:
            return read_preferences(source, documents[chosen], part, templates)

        pools.append(_pool(settings, part, f"{part.source} {label}", source, documents, [TURNS], read))
    return _with_budgets(settings.dpo, pools)


def check_not_empty(cpt: Sequence[Pool], sft: Sequence[Pool], dpo: Sequence[Pool]) -> None:
    """Raise `UserError` when nothing at all can be drawn for one of the three kinds of training."""
    if cpt and not any(pool.size for pool in cpt):
        raise UserError("no text for continual pretraining: every line of the sources was dropped. See `sources`.")
    if not any(pool.size for pool in sft):
        raise UserError(f"no record for fine-tuning in any of: {', '.join(pool.name for pool in sft)}. See `sft`.")
    if dpo and not any(pool.size for pool in dpo):
        raise UserError(f"no preference pair in any of: {', '.join(pool.name for pool in dpo)}. See `dpo`.")


def _usable(part: DirectedPart, collection: Collection) -> Documents:
    """Return the documents of a part that passed every filter, on both sides of a pair."""
    if collection.directions is not None:
        return np.flatnonzero((collection.directions == part.direction) & collection.usable(TURNS))
    asked, answered = part.languages
    return np.flatnonzero(collection.usable(asked) & collection.usable(answered))


def _firsts(clusters: Sequence[NDArray[np.int64]]) -> list[NDArray[np.bool_]]:
    """Return for several groups of texts which are the first of their cluster in all groups together."""
    every = np.concatenate([*clusters, np.zeros(0, np.int64)])
    first = np.zeros(len(every), np.bool_)
    first[np.unique(every, return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(group) for group in clusters])[:-1])


def _note(collection: Collection, label: str, read: int, dropped: dict[str, int], **more: Any) -> None:
    """Put into the report of a source what one part of a mixture found in it."""
    counts = {reason: count for reason, count in dropped.items() if count}
    entry = {"read": read, "dropped": counts, "kept": read - sum(counts.values()), **more}
    collection.report.setdefault("parts", {})[label] = entry


def _sft_pool(
    settings: PreprocessSettings,
    part: RecordPart,
    collection: Collection,
    usable: Documents,
    new: NDArray[np.bool_],
    templates: Templates,
    cutoff: Cutoff,
) -> Pool:
    label = f"{part.task} {part.direction}"
    name = f"{part.source} {label}"
    documents = usable[new]
    if collection.directions is not None:
        _note(collection, label, len(usable), {"duplicate of a record before": int((~new).sum())})
        return _pool(
            settings,
            part,
            name,
            collection,
            documents,
            [TURNS],
            lambda chosen: read_instructions(collection, documents[chosen], part, templates),
        )
    asked, answered = part.languages
    source, target = (collection.columns[code].units[collection.rows[code][documents]] for code in (asked, answered))
    implausible, (low, high) = implausible_lengths(source, target, settings.cleaning.length_ratio)
    paired = int((collection.present(asked) & collection.present(answered)).sum())
    dropped = {
        "a text of the pair was dropped": paired - len(usable),
        "duplicate of a pair before": int((~new).sum()),
        "length_ratio: outside the fences": int(implausible.sum()),
    }
    kept = [round(low, 3), round(high, 3)] if settings.cleaning.length_ratio and len(documents) else "all"
    _note(collection, label, paired, dropped, **{"length ratios kept": kept})
    documents = documents[~implausible]
    pairs = PairReader(settings, part, collection, cutoff)
    return _pool(
        settings, part, name, collection, documents, part.languages, lambda chosen: pairs.read(documents[chosen])
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
    groups = collection.groups()
    return Pool(
        name,
        len(documents),
        sum(int(collection.bytes(code)[documents].sum()) for code in codes),
        read,
        settings.seed,
        part.repeats,
        part.max_share,
        translates=isinstance(part, RecordPart) and part.task == "translation",
        groups=None if groups is None else groups[documents],
    )


def _with_budgets(
    mixture: Mixture[TextPart] | Mixture[RecordPart] | Mixture[PreferencePart], pools: Sequence[Pool]
) -> list[Pool]:
    found = budgets(mixture, [pool.size for pool in pools], [pool.bytes for pool in pools])
    return [replace(pool, budget=budget) for pool, budget in zip(pools, found, strict=True)]
