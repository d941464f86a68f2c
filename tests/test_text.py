"""Normal forms, scripts and units."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langadapt.text import bleu_units, latin_words, normalize, numbers, script_share, sentences, units

TIBETAN_BLOCK = "".join(chr(c) for c in range(0x0F00, 0x0FDB) if unicodedata.category(chr(c)) != "Cn")


@settings(max_examples=2000, deadline=None)
@given(st.text(alphabet=TIBETAN_BLOCK + " \u200b\ufeffa", max_size=12))
def test_tibetan_form_is_idempotent_and_nfc(text: str) -> None:
    once = normalize(text, "tibetan")
    assert normalize(once, "tibetan") == once
    assert unicodedata.is_normalized("NFC", once)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12))
def test_nfc_form_is_idempotent(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ཀ\u0f0cཁ", "ཀ\u0f0bཁ"),  # non-breaking tsheg
        ("ཀ\u0f7e\u0f72", "ཀ\u0f72\u0f7e"),  # vowel typed after the anusvara
        ("\u0f77", "\u0fb2\u0f71\u0f80"),
        ("\u0f79", "\u0fb3\u0f71\u0f80"),
        ("\u0f73", "\u0f71\u0f72"),
        ("\ufeffབོད\u200b", "བོད"),
    ],
)
def test_spellings_of_one_tibetan_text_become_one(one: str, other: str) -> None:
    assert normalize(one, "tibetan") == normalize(other, "tibetan")


def test_full_width_punctuation_stays() -> None:
    assert normalize("你好，（世界）！") == "你好，（世界）！"


def test_units_are_syllables_characters_and_words() -> None:
    assert units("བོད་སྐད་ནི་ཡག་པོ།") == ["བོད", "སྐད", "ནི", "ཡག", "པོ"]
    assert units("我们学习，藏文。") == list("我们学习藏文")
    assert units("We're learning!") == ["We", "re", "learning"]
    assert units("AMsདེའི་2001ལོ") == ["AMs", "དེའི", "2001", "ལོ"]
    assert units("Уэлсийн ассамблей") == ["Уэлсийн", "ассамблей"]


def test_bleu_units_count_punctuation_but_no_tsheg() -> None:
    assert bleu_units("ཀ་ཁ། ག༎") == ["ཀ", "ཁ", "།", "ག", "༎"]


def test_sentences_lose_nothing_but_space() -> None:
    text = "ཀ་ཁ། ག་ང༎  ཅ་ཆ"
    assert sentences(text, "།༎") == ["ཀ་ཁ།", "ག་ང༎", "ཅ་ཆ"]


def test_what_survives_translation() -> None:
    assert numbers("༢༠༠༡ and ７ and 007") == ["2001", "7", "7"]
    assert latin_words("Welsh AMsརང་ a") == ["welsh", "ams"]


def test_script_share_counts_letters_and_marks_only() -> None:
    assert script_share("བོད 123 !", ["Tibetan"]) == 1.0
    assert script_share("123", ["Tibetan"]) == 0.0
    assert script_share("བོdd", ["Tibetan"]) == 0.5
