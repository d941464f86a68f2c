"""The tokenizer report against counts made another way, and its command."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN
from matplotlib.figure import Figure
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langadapt.corpus import tokenizer_report
from langadapt.corpus.tokenizer_report import (
    draw_tokenizers,
    main,
    measure_tokenizers,
    open_tokenizers,
    tokenizer_table,
)
from langadapt.errors import UserError
from langadapt.models import load_tokenizer
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings

TEXTS = {"bo": TIBETAN, "zh": CHINESE, "en": ENGLISH}


@pytest.fixture(scope="module")
def word_level() -> PreTrainedTokenizerFast:
    """A tokenizer that knows few words, and takes each other one for unknown."""
    words = ["[UNK]", "The", "Tibetan", "language", "is", "very", "good"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer without merges: a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_token_a_byte() -> None:
    text = "བོད་ཡིག a1"
    table = measure_tokenizers({"bytes": byte_level()}, {"bo": [text]})
    measures = table["tokenizers"]["bytes"]["languages"]["bo"]
    assert table["languages"]["bo"] == {
        "unit": "syllable",
        "texts": 1,
        "bytes": 3 * 7 + 3,
        "characters": 10,
        "syllables": 4,  # བོད, ཡིག, a, 1
        "words": None,
    }
    assert measures["tokens"] == 24
    assert measures["tokens_per_byte"] == measures["bytes_per_token"] == 1
    assert measures["tokens_per_syllable"] == 6
    assert measures["tokens_per_character"] == 2.4
    assert measures["tokens_per_word"] is None
    assert measures["broken_character_share"] == 21 / 24
    assert measures["unknown_share"] is None


def test_against_the_tokenizers_library(tiny_model: Path) -> None:
    own = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    table = measure_tokenizers({"tiny": load_tokenizer(str(tiny_model))}, TEXTS)
    assert table["tokenizers"]["tiny"]["vocabulary"] == own.get_vocab_size(with_added_tokens=True)
    for code, texts in TEXTS.items():
        measures = table["tokenizers"]["tiny"]["languages"][code]
        ids = [i for text in texts for i in own.encode(text, add_special_tokens=False).ids]
        size = sum(len(text.encode()) for text in texts)
        assert measures["tokens"] == len(ids)
        assert measures["bytes_per_token"] == pytest.approx(size / len(ids))
        whole = 0
        unbyte = {character: byte for byte, character in bytes_to_unicode().items()}
        for i in ids:
            try:
                bytes(unbyte[character] for character in own.id_to_token(i)).decode()
                whole += 1
            except UnicodeDecodeError:
                pass
        assert measures["broken_character_share"] == pytest.approx(1 - whole / len(ids))
    assert table["tokenizers"]["tiny"]["languages"]["en"]["tokens_per_syllable"] is None
    words = sum(len(text.replace(".", "").split()) for text in ENGLISH)
    assert table["languages"]["en"]["words"] == words


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters, from its definition: the printable ones stand for themselves."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def test_unknown_words_are_told(word_level: PreTrainedTokenizerFast) -> None:
    table = measure_tokenizers({"words": word_level}, {"en": ["The Tibetan language is very rich"]})
    measures = table["tokenizers"]["words"]["languages"]["en"]
    assert measures["unknown_share"] == pytest.approx(1 / 6)
    assert measures["broken_character_share"] == 0


def test_text_is_measured_in_its_normal_form() -> None:
    composed = "བོད\u0f0cཡིག"  # a non-breaking tsheg
    table = measure_tokenizers({"a": byte_level()}, {"bo": [composed], "en": [unicodedata.normalize("NFD", "café")]})
    assert table["languages"]["bo"]["syllables"] == 2
    assert table["languages"]["en"]["bytes"] == 5
    assert table["tokenizers"]["a"]["languages"]["en"]["tokens"] == 5


def test_many_texts_come_from_an_iterator_and_control_tokens_are_text(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    once = measure_tokenizers({"t": tokenizer}, {"en": ["a <|im_end|> b"]})["tokenizers"]["t"]["languages"]["en"]
    many = measure_tokenizers({"t": tokenizer}, {"en": ("a <|im_end|> b" for _ in range(600))})
    assert many["tokenizers"]["t"]["languages"]["en"]["tokens"] == 600 * once["tokens"]
    assert many["languages"]["en"]["texts"] == 600
    assert once["tokens"] > 5


def test_no_text_is_refused(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    with pytest.raises(UserError, match="'bo' has no syllable"):
        measure_tokenizers({"t": tokenizer}, {"bo": ["", " །"]})
    with pytest.raises(UserError, match="no profile"):
        measure_tokenizers({"t": tokenizer}, {"xx": ["a"]})


def test_table_and_figure(
    tiny_model: Path, word_level: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = measure_tokenizers({"tiny": load_tokenizer(str(tiny_model)), "words": word_level}, TEXTS)
    rows = [line.split(" | ") for line in tokenizer_table(table).splitlines()]
    assert len(rows) == 2 + 3 * 2
    assert {len(row) for row in (rows[0], *rows[2:])} == {11}
    assert rows[2][5] == "–"  # words in Tibetan
    saved: list[Figure] = []
    save = tokenizer_report.save_figure
    monkeypatch.setattr(
        tokenizer_report, "save_figure", lambda figure, path: (saved.append(figure), save(figure, path))
    )
    draw_tokenizers(table, tmp_path / "chart.png")
    measures = [tokenizer["languages"] for tokenizer in table["tokenizers"].values()]
    units = [("bo", "tokens_per_syllable"), ("zh", "tokens_per_character"), ("en", "tokens_per_word")]
    for container, measured in zip(saved[0].axes[0].containers, measures, strict=True):
        assert [bar.get_width() for bar in container] == [measured[code][key] for code, key in units]
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_command(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bo.txt").write_text("\n".join(TIBETAN), encoding="utf-8")
    records = [json.dumps({"zh": text}, ensure_ascii=False) for text in CHINESE]
    (tmp_path / "pairs.jsonl").write_text("\n".join(records), encoding="utf-8")

    def run(*texts: str) -> None:
        given = [part for text in texts for part in ("--text", text)]
        command = ["tokenizer_report", "--tokenizer", str(tiny_model), "--output", str(tmp_path / "out"), *given]
        monkeypatch.setattr(sys, "argv", command)
        main()

    run(f"bo={tmp_path}/bo.txt", f"zh={tmp_path}/pairs.jsonl:zh")
    names = {f"tokenizer_report.{suffix}" for suffix in ("json", "md", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    expected = measure_tokenizers({tiny_model.name: load_tokenizer(str(tiny_model))}, {"bo": TIBETAN, "zh": CHINESE})
    assert json.loads((tmp_path / "out/tokenizer_report.json").read_text(encoding="utf-8")) == expected
    assert tokenizer_table(expected) in capsys.readouterr().out
    for text, problem in (
        (f"zh={tmp_path}/pairs.jsonl:bo", r"pairs.jsonl, line 1: no text in the field 'bo'. It has: zh"),
        (f"zh={tmp_path}/pairs.jsonl", "which field"),
        (f"zh={tmp_path}/none.jsonl:zh", "none.jsonl: no such file"),
        (str(tmp_path), "CODE=FILE"),
    ):
        with pytest.raises(UserError, match=problem):
            run(text)


def test_the_recipes_own_tokenizer_comes_first(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    load_tokenizer(str(tiny_model)).save_pretrained(other)

    def settings(*names: Path) -> PreprocessSettings:
        given = [f"tokenizer={tiny_model}", f"tokenizer_report={json.dumps([str(name) for name in names])}"]
        return load_settings(PreprocessSettings, REPOSITORY / "configs/quickstart/preprocess.yaml", given)

    own = load_tokenizer(str(tiny_model))
    assert list(open_tokenizers(settings(other), own)) == [tiny_model.name, "other"]
    assert open_tokenizers(settings(), own) == {tiny_model.name: own}
    with pytest.raises(UserError, match="missing: no such"):
        open_tokenizers(settings(tmp_path / "missing"), own)
    for names in ([other, other], [tiny_model]):
        with pytest.raises(UserError, match=f"tokenizer_report names '{names[0]}' once more"):
            settings(*names)


def test_the_published_fertility_of_qwen() -> None:
    """On FLORES a token of Qwen2 to 3 holds 2.19 bytes of Tibetan; on other news text it should come near that."""
    folder, data = REPOSITORY / "qwen2-5-3b-base", REPOSITORY.parent / "shared" / "data" / "bo_zh_en.jsonl"
    if not (folder / "tokenizer.json").is_file() or not data.is_file():
        pytest.skip("needs the tokenizer of Qwen2.5 in qwen2-5-3b-base/ and ../shared/data")
    texts = [json.loads(line)["bo"] for line in data.read_text(encoding="utf-8").splitlines()]
    table = measure_tokenizers({"qwen": load_tokenizer(str(folder))}, {"bo": texts})
    assert table["tokenizers"]["qwen"]["languages"]["bo"]["bytes_per_token"] == pytest.approx(2.19, abs=0.05)
