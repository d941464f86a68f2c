"""From a base model to the same model with more vocabulary: a folder that the rest of a run starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files import check_vouched, iter_json_array, read_json_object, staged_folder, write_json
from langadapt.models import encode_texts, load_model, load_tokenizer, pick_device
from langadapt.recipe.vocabulary import VocabularySettings
from langadapt.text.scripts import script_share
from langadapt.text.segmentation import units
from langadapt.training.checkpoints import fingerprint
from langadapt.training.vocabulary.distillation import distilled_rows
from langadapt.training.vocabulary.pieces import add_pieces, cut, learn_pieces
from langadapt.training.vocabulary.rows import append_rows, is_tied, mean_rows

VOCABULARY_FILE = "vocabulary.json"
_MOST_BYTES = 2**26  # of text to learn from; more than that changes few pieces and takes gigabytes of memory
_HELD_OUT_EVERY, _MOST_HELD_OUT = 50, 2000  # texts, to measure with
_LEAST_SHARE = 0.5  # of a text's letters in the scripts


def extend_vocabulary(
    model: str,
    settings: VocabularySettings,
    dataset: str | Path,
    folder: str | Path,
    *,
    trust_remote_code: bool = False,
    use_cpu: bool = False,
) -> Path:
    """Write ``model`` with new pieces and its tokenizer to ``folder``, unless they are there; return ``folder``.

    The pieces are learned from ``settings.texts``, or else from ``dataset``, a JSON array of stage 1; every fiftieth
    text is held out to measure with. `VOCABULARY_FILE` in the folder says what was done: new tokens have the ids from
    ``old_size`` to ``new_size``. Raises `UserError` when the folder holds an extension by other settings, of another
    model or from other texts, and when the texts give no piece.
    """
    folder, texts_file = Path(folder), settings.texts or dataset
    tokenizer = load_tokenizer(model)
    made_from = {
        "base_model": fingerprint(model),
        "tokenizer_sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "texts_sha256": check_vouched(texts_file),
        "settings": settings.model_dump(mode="json", exclude={"texts"}),
    }
    if (folder / VOCABULARY_FILE).is_file():
        if read_json_object(folder / VOCABULARY_FILE).get("made_from") != made_from:
            raise UserError(
                f"{folder}: holds a model with more vocabulary that was made with other settings, from other texts or "
                "from another model. Choose another output_dir, or delete that folder."
            )
        return folder

    extended, pieces, texts, held_out = extend_tokenizer(tokenizer, settings, texts_file)
    before, after = measure_fertility(tokenizer, held_out), measure_fertility(extended, held_out)
    print(f"{texts_file}: {len(pieces):,} new pieces; on {len(held_out):,} texts that they were not learned from:")
    for name, fertility in (("before", before), ("after", after)):
        per_unit, per_token = fertility["tokens_per_unit"], fertility["bytes_per_token"]
        print(f"  {name}: {per_unit:.2f} tokens a syllable or word, {per_token:.2f} bytes a token", flush=True)

    distils = settings.initialisation == "distillation"
    dtype = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code).dtype or torch.float32
    network = load_model(model, dtype, pick_device("auto" if distils and not use_cpu else "cpu"), trust_remote_code)
    set_new_rows(network, tokenizer, pieces, encode_texts(extended, texts) if distils else [])
    with staged_folder(folder, last=VOCABULARY_FILE) as staging:
        network.save_pretrained(staging)
        extended.save_pretrained(staging)
        done = {
            "base": model,
            "old_size": len(tokenizer),
            "new_size": len(extended),
            "rows": network.get_input_embeddings().weight.shape[0],
            "tied": is_tied(network),
            "held_out": {"texts": len(held_out), "before": before, "after": after},
            "made_from": made_from,
        }
        write_json(staging / VOCABULARY_FILE, done)
    return folder


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase, settings: VocabularySettings, texts_file: str | Path
) -> tuple[PreTrainedTokenizerBase, list[str], list[str], list[str]]:
    """Return a copy of ``tokenizer`` with new pieces, the pieces, the texts they come from and those held out.

    Raises `UserError` when the texts give no piece, and when the tokenizer cannot take them.
    """
    texts, held_out = _read_texts(texts_file, settings.scripts)
    pieces = learn_pieces(texts, settings.scripts, tokenizer, settings.new_tokens, settings.min_frequency)
    if not pieces:
        raise UserError(
            f"{texts_file}: no piece in {', '.join(settings.scripts)} occurs {settings.min_frequency} times and is not "
            "a token already. Name more text, or lower min_frequency; or leave out `vocabulary`."
        )
    return add_pieces(tokenizer, pieces, held_out), pieces, texts, held_out


def set_new_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pieces: Sequence[str],
    documents: Sequence[Sequence[int]],
    **options: Any,
) -> None:
    """Give ``model`` the rows of ``pieces``, behind those of ``tokenizer``: the mean of their old tokens' rows.

    With ``documents``, token ids under the extended tokenizer, the rows are distilled on those, starting at the mean;
    ``options`` go to `distilled_rows`.
    """
    first, old_tokens = len(tokenizer), cut(tokenizer, pieces)
    inputs = mean_rows(model.get_input_embeddings().weight, old_tokens)
    outputs = mean_rows(model.get_output_embeddings().weight, old_tokens)
    if documents:
        prefix = next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None)
        inputs, outputs = distilled_rows(model, documents, old_tokens, inputs, outputs, first, prefix, **options)
    append_rows(model, first, inputs, outputs)


def measure_fertility(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, float]:
    """Return ``tokens``, ``tokens_per_unit`` and ``bytes_per_token`` of texts; units are those of `langadapt.text`."""
    tokens = sum(map(len, encode_texts(tokenizer, texts)))
    size = sum(len(text.encode()) for text in texts)
    return {
        "tokens": tokens,
        "tokens_per_unit": tokens / max(1, sum(len(units(text)) for text in texts)),
        "bytes_per_token": size / max(1, tokens),
    }


def _read_texts(path: str | Path, scripts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return texts to learn from and texts to measure with, all mostly in the scripts, from the start of a file."""
    learned: list[str] = []
    held_out: list[str] = []
    size = 0
    for record in iter_json_array(path):
        text = record.get("text") or record.get("output")
        if not isinstance(text, str) or script_share(text, scripts) < _LEAST_SHARE:
            continue
        size += len(text.encode())
        holds_out = (len(learned) + len(held_out)) % _HELD_OUT_EVERY == 0 and len(held_out) < _MOST_HELD_OUT
        (held_out if holds_out else learned).append(text)
        if size > _MOST_BYTES:
            break
    if not learned:
        raise UserError(
            f"{path}: fewer than two records with a `text` or `output` that is mostly in {', '.join(scripts)}. Name "
            "other texts or scripts."
        )
    return learned, held_out
