"""Translators of every family: language tokens by profile, and the same token ids as transformers' own classes give."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from babel import Locale

from langadapt.errors import UserError
from langadapt.models import load_model
from langadapt.models.small_translator import Family, make_small_translator
from langadapt.models.translation import TranslationTokenizer, is_encoder_decoder, load_translation_tokenizer

FAMILIES = get_args(Family)
PREFIX = {"nllb": "eng_Latn fra_Latn", "mbart50": "en_XX fr_XX", "m2m100": "__en__ __fr__"}


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family, English into French, with tokenizers of CLDR's names of places and languages."""
    texts = {}
    for language in ("en", "fr"):
        locale = Locale(language)
        texts[language] = [*locale.territories.values(), *locale.languages.values(), "Here it is: l'été, « ça »."]
    folder = tmp_path_factory.mktemp("translators")
    for family in FAMILIES:
        make_small_translator(family, texts, folder / family, vocab_size=400, hidden_size=32)
    return {family: folder / family for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_class(family: str, translators: dict[str, Path]) -> None:
    ours = load_translation_tokenizer(str(translators[family]))
    own = load_translation_tokenizer(str(translators[family])).tokenizer
    if family != "marian":
        own.src_lang, own.tgt_lang = (token.strip("_") for token in PREFIX[family].split())
    source, target = ["United Kingdom", "Tibetan"], ["Royaume-Uni", "l'été"]
    assert ours.encode_source(source, "en", "fr") == own(source)["input_ids"]
    assert ours.encode_target(target, "fr") == own(text_target=target)["input_ids"]
    expected = None if family == "marian" else own.convert_tokens_to_ids(PREFIX[family].split()[1])
    assert ours.forced_bos_id("fr") == expected
    assert [ours.decode(ids) for ids in ours.encode_target(target, "fr")] == target


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_text_are_text(family: str, translators: dict[str, Path]) -> None:
    ours = load_translation_tokenizer(str(translators[family]))
    marks = ["</s>", "<s>", "<pad>", *ours.language_tokens()[:2]]
    (ids,) = ours.encode_source([" ".join(marks)], "en", "fr")
    (empty,) = ours.encode_source([""], "en", "fr")
    control = {*ours.tokenizer.convert_tokens_to_ids(marks)} - {ours.tokenizer.unk_token_id}
    assert sum(id in control for id in ids) == sum(id in control for id in empty)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_opens_with_its_encoder_and_learns(family: str, translators: dict[str, Path]) -> None:
    folder = str(translators[family])
    assert is_encoder_decoder(folder)
    model, tokenizer = load_model(folder), load_translation_tokenizer(folder)
    ids, labels = tokenizer.encode_source(["China"], "en", "fr"), tokenizer.encode_target(["Chine"], "fr")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.2 < losses[0]
    made = model.generate(
        torch.tensor(ids), forced_bos_token_id=tokenizer.forced_bos_id("fr"), max_new_tokens=10, do_sample=False
    )
    assert tokenizer.decode(made[0].tolist()) == "Chine"


def test_older_nllb_marks_languages_behind_the_text(translators: dict[str, Path]) -> None:
    own = load_translation_tokenizer(str(translators["nllb"])).tokenizer
    older = type(own).from_pretrained(translators["nllb"], legacy_behaviour=True, src_lang="eng_Latn")
    assert TranslationTokenizer(older).encode_source(["Tibetan"], "en", "fr") == older(["Tibetan"])["input_ids"]


@pytest.mark.parametrize(
    ("family", "language", "token"),
    [
        ("nllb", "bo", "bod_Tibt"),
        ("nllb", "zh_hant", "zho_Hant"),
        ("mbart50", "mn", "mn_MN"),
        ("m2m100", "mn", "__mn__"),
    ],
)
def test_a_profile_finds_its_token(family: str, language: str, token: str, translators: dict[str, Path]) -> None:
    assert load_translation_tokenizer(str(translators[family])).language_token(language) == token


def test_a_language_without_a_token_is_named(translators: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"no token for the language bo.*language_tokens: \{bo: TOKEN\}"):
        load_translation_tokenizer(str(translators["mbart50"])).encode_source(["x"], "bo", "en")
    given = load_translation_tokenizer(str(translators["mbart50"]), {"bo": "my_MM"})
    assert given.language_token("bo") == "my_MM"
    with pytest.raises(UserError, match="no token for the language bo"):
        load_translation_tokenizer(str(translators["mbart50"]), {"bo": "bo_CN"}).language_token("bo")


def test_a_marian_model_has_one_direction(translators: dict[str, Path]) -> None:
    tokenizer = load_translation_tokenizer(str(translators["marian"]))
    tokenizer.check_direction("en", "fr")
    with pytest.raises(UserError, match="translates en-fr, and only that; asked was fr-en"):
        tokenizer.encode_source(["x"], "fr", "en")


def test_a_decoder_is_none(tiny_model: Path) -> None:
    assert not is_encoder_decoder(str(tiny_model))
    with pytest.raises(UserError, match="known encoder-decoder families are M2M100, NLLB, mBART-50 and Marian"):
        load_translation_tokenizer(str(tiny_model))
