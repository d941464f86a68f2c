"""Normal forms, scripts and units."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langadapt.text import bleu_units, latin_words, normalize, numbers, script_share, sentences, units

TIBETAN_BLOCK = "".join(chr(c) for c in range(0x0F00, 0x0FDB) if unicodedata.category(chr(c)) != "Cn")
MARKS = (
    "".join(c for c in TIBETAN_BLOCK if unicodedata.combining(c)) + "\u0f7e\u0f82\u0f83\u0f77\u0f79\u0f0c\u0301\u200b"
)


@settings(max_examples=2000, deadline=None)
@given(st.text(TIBETAN_BLOCK + " \u200b\ufeffa", max_size=12) | st.text(MARKS, max_size=8))
def test_tibetan_form_is_idempotent_and_nfc(text: str) -> None:
    once = normalize(text, "tibetan")
    assert normalize(once, "tibetan") == once
    assert unicodedata.is_normalized("NFC", once)


MAP = {"\u0f0c": "\u0f0b", "\u0f77": "\u0fb2\u0f71\u0f80", "\u0f79": "\u0fb3\u0f71\u0f80"}
NASAL_MARKS = "\u0f7e\u0f82\u0f83"
# Without the vocalic letters U+0F76 to U+0F79: they are a subjoined consonant and a sign, and marks stay before those.
VOWELS = "".join(map(chr, [*range(0x0F71, 0x0F76), *range(0x0F7A, 0x0F7E), 0x0F80, 0x0F81]))


@settings(max_examples=500, deadline=None)
@given(st.text(TIBETAN_BLOCK + " \u200b\ufeffa", max_size=6), st.text(TIBETAN_BLOCK, max_size=6))
def test_every_entry_of_the_tibetan_map_holds_between_any_letters(before: str, after: str) -> None:
    for left, right in MAP.items():
        assert normalize(before + left + after, "tibetan") == normalize(before + right + after, "tibetan")
        assert left not in normalize(before + left + after, "tibetan")
        assert left in normalize(f"ཀ{left}ཁ")  # NFC alone leaves them apart


@settings(max_examples=500, deadline=None)
@given(st.text(TIBETAN_BLOCK + " \u200b\ufeffa", max_size=6), st.text(TIBETAN_BLOCK, max_size=6))
def test_a_vowel_and_a_nasal_mark_have_one_order_between_any_letters(before: str, after: str) -> None:
    for mark in NASAL_MARKS:
        for vowel in VOWELS:
            wanted = normalize(before + vowel + mark + after, "tibetan")
            assert normalize(before + mark + vowel + after, "tibetan") == wanted


@settings(max_examples=500, deadline=None)
@given(st.text(TIBETAN_BLOCK + "你（ é\u0301", max_size=12))
def test_what_is_canonically_equivalent_becomes_one_text(text: str) -> None:
    for form in ("nfc", "tibetan"):
        assert normalize(unicodedata.normalize("NFD", text), form) == normalize(text, form)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=12) | st.text("".join(sorted({*TIBETAN_BLOCK} - {*MAP, *NASAL_MARKS})), max_size=12))
def test_the_tibetan_form_is_nfc_but_for_its_map(text: str) -> None:
    """Also what NFC decomposes for good stays so: U+0F43, U+0F69, U+0F73, U+0F75, U+0F76, U+0F78, U+0F81."""
    if {*MAP, *NASAL_MARKS}.isdisjoint(text):
        plain = "".join(character for character in text if character not in "\ufeff\u200b")
        assert normalize(text, "tibetan") == normalize(text) == unicodedata.normalize("NFC", plain).strip()


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
        ("ཀ\u0f7e\u0f71\u0f84", "ཀ\u0f71\u0f7e\u0f84"),  # the halanta comes between them in canonical order
        ("ཀ\u0f7e\u0f39\u0f7e\u0f7a", "ཀ\u0f7a\u0f7e\u0f39\u0f7e"),  # the sign passes two nasal marks
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
