"""Language tokens for a translator that lacks them, each beginning as the token of a related language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoConfig, PreTrainedModel

from langadapt.errors import UserError
from langadapt.files import read_json_object, staged_folder, write_json
from langadapt.models import load_model
from langadapt.models.translation import TranslationTokenizer, load_translation_tokenizer
from langadapt.recipe.translators import NewLanguage
from langadapt.training.checkpoints import fingerprint

LANGUAGES_FILE = "new_languages.json"


def extend_languages(
    model: str, new: Mapping[str, NewLanguage], language_tokens: Mapping[str, str], folder: Path
) -> Path:
    """Write ``model`` with new language tokens to ``folder``, unless they are there; return ``folder``.

    Raises `UserError` when the folder holds other languages or those of another model, when a token is there already,
    and for a Marian model, which has no tokens for languages or a word of its source vocabulary for each.
    """
    settings = {language: wanted.model_dump() for language, wanted in new.items()}
    made_from = {"base_model": fingerprint(model), "new_languages": settings, "language_tokens": dict(language_tokens)}
    if (folder / LANGUAGES_FILE).is_file():
        if read_json_object(folder / LANGUAGES_FILE) != made_from:
            raise UserError(
                f"{folder}: holds a model with new languages that was made with other settings or from another model. "
                "Choose another output_dir, or delete that folder."
            )
        return folder
    tokenizer = load_translation_tokenizer(model, language_tokens)
    extended = with_languages(tokenizer, new)
    network = load_model(model, AutoConfig.from_pretrained(model).dtype or torch.float32)
    for wanted in new.values():
        ids = [
            _id(each, token)
            for each, token in ((extended, wanted.token), (tokenizer, tokenizer.language_token(wanted.like)))
        ]
        copy_row(network, *ids)
    with staged_folder(folder, last=LANGUAGES_FILE) as staging:
        network.save_pretrained(staging)
        extended.save_pretrained(staging)
        write_json(staging / LANGUAGES_FILE, made_from)
    return folder


def with_languages(tokenizer: TranslationTokenizer, new: Mapping[str, NewLanguage]) -> TranslationTokenizer:
    """Return a tokenizer with new language tokens, behind all that it has; raises `UserError` as `extend_languages`."""
    own: Any = load_translation_tokenizer(tokenizer.tokenizer.name_or_path).tokenizer  # to leave the given one as it is
    if type(own).__name__ == "MarianTokenizer":
        raise UserError(f"{own.name_or_path}: new_languages cannot be added to a Marian model. Leave the key out.")
    known = tokenizer.language_tokens()
    for language, wanted in new.items():
        tokenizer.language_token(wanted.like)
        if wanted.token in own.get_vocab() or wanted.token in known:
            raise UserError(
                f"{own.name_or_path} has the token {wanted.token} already: name it in language_tokens: "
                f"{{{language}: {wanted.token}}}, and leave it out of new_languages."
            )
        token = AddedToken(wanted.token, special=True, normalized=False)
        if hasattr(own, "lang_token_to_id"):
            # M2M100's class numbers its languages by itself, behind those that it would number an added token after.
            free = max(*own.lang_token_to_id.values(), *own.added_tokens_decoder) + 1
            own._added_tokens_decoder[free] = token
            own._added_tokens_encoder[wanted.token] = free
            own._update_trie()
        else:
            own.add_tokens([token], special_tokens=True)
    return TranslationTokenizer(own, {**tokenizer.given, **{language: each.token for language, each in new.items()}})


def copy_row(model: PreTrainedModel, new: int, old: int) -> None:
    """Give the token ``new`` what the vocabulary's tables, and the row added to the logits, have for ``old``."""
    if new >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(new + 1, mean_resizing=False)
    with torch.no_grad():
        for table in {
            id(end.weight): end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings())
        }.values():
            table[new] = table[old]
        if (bias := getattr(model, "final_logits_bias", None)) is not None:
            bias[:, new] = bias[:, old]


def _id(tokenizer: TranslationTokenizer, token: str) -> int:
    return int(tokenizer.tokenizer.convert_tokens_to_ids(token))
