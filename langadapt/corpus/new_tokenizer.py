"""The tokenizer of a model that begins from nothing: trained in stage 1, on what may be trained on and nothing else."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from langadapt.corpus import parts
from langadapt.corpus.drawing import Draw
from langadapt.corpus.lengths import open_tokenizer
from langadapt.corpus.pools import Pool
from langadapt.corpus.storing import profiles, source_files
from langadapt.corpus.turns import answers_of
from langadapt.errors import UserError
from langadapt.files import read_json_object, sha256_of, staged_folder, write_json
from langadapt.files.records import Record
from langadapt.models import conversation
from langadapt.models.building import BYTES_ONLY, train_tokenizer
from langadapt.recipe.preprocess import NewTokenizer, PreprocessSettings
from langadapt.recipe.sources import languages_of

_TRAINING = "tokenizer_training.json"  # written last: with it the folder is whole


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer that makes a token of every byte: what stands in while the real one is still to be trained.

    Budgets in tokens then end early, which is as good for choosing what a tokenizer learns from.
    """
    return train_tokenizer((), BYTES_ONLY)


def learn_tokenizer(
    settings: PreprocessSettings, draw: Draw, mixtures: Mapping[str, Sequence[Pool]], work: Path
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of ``new_tokenizer``, trained on the training records of ``draw``.

    Of every pool it sees as much as the pool has of all, up to ``sample_bytes`` together. It is kept in ``work`` for a
    run that goes on where this one ended. Raises `UserError` where there is too little text for so large a vocabulary.
    """
    wanted = _wanted(settings)
    folder = _folder(settings, work)
    if not (folder / _TRAINING).is_file():
        pools = [pool for some in mixtures.values() for pool in some]
        whole = sum(pool.expected_bytes for pool in pools) or 1
        counts: Counter[str] = Counter()
        texts = (
            text
            for pool in pools
            for text in _texts(draw, pool, wanted.sample_bytes * pool.expected_bytes / whole, counts)
        )
        tokenizer = train_tokenizer(texts, wanted.vocab_size)
        if len(tokenizer) < wanted.vocab_size:
            raise UserError(
                f"new_tokenizer.vocab_size is {wanted.vocab_size:,}, but the {counts.total():,} bytes of text that may "
                f"be trained on give no more than {len(tokenizer):,} tokens. Lower it, or add text."
            )
        with staged_folder(folder, last=_TRAINING) as staging:
            tokenizer.save_pretrained(staging)
            write_json(staging / _TRAINING, {"vocabulary": len(tokenizer), "bytes of text": dict(counts)})
    return open_tokenizer(str(folder), settings.template)


def publish_tokenizer(settings: PreprocessSettings, work: Path) -> dict[str, Any]:
    """Copy the trained tokenizer to its ``output_dir``, all files or none; return what the data report says of it."""
    learned, target = _folder(settings, work), _wanted(settings).output_dir
    with staged_folder(target, last=_TRAINING) as staging:
        shutil.copytree(learned, staging, dirs_exist_ok=True)
    sha256 = {path.name: sha256_of(path) for path in sorted(learned.iterdir())}
    return {"folder": target, **read_json_object(learned / _TRAINING), "sha256": sha256}


def _wanted(settings: PreprocessSettings) -> NewTokenizer:
    assert settings.new_tokenizer is not None, "the recipe names a tokenizer"
    return settings.new_tokenizer


def _folder(settings: PreprocessSettings, work: Path) -> Path:
    """Return the place of the tokenizer among the finished parts, named by all that it depends on."""
    files = [path for source in settings.sources.values() for path in source_files(source, settings.data_dir)]
    codes = sorted({code for source in settings.sources.values() for code in languages_of(source)})
    depends_on = (
        settings.model_dump(mode="json", exclude={"workers"}),
        profiles(codes),
        *files,
        *settings.test_set_paths,
    )
    return work / f"tokenizer-{parts.fingerprint(*depends_on)}"


def _texts(draw: Draw, pool: Pool, most: float, counts: Counter[str]) -> Iterator[str]:
    """Yield the texts of a pool's training records, about ``most`` bytes of them, and count these."""
    for record in draw.training(pool):
        if counts[pool.name] >= most:
            return
        for text in _spoken(record):
            counts[pool.name] += len(text.encode())
            yield text


def _spoken(record: Record) -> list[str]:
    if record["task"] == "lm":
        return [record["text"]]
    first, *others = answers_of(record)
    return [*(turn["content"] for turn in conversation({**record, "output": first})), *others]
