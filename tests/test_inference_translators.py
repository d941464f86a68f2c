"""Stage 6 on encoder-decoder models: translations at the prompt and of files, whatever the tokenizer is made of."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PAIRS

from langadapt.errors import UserError
from langadapt.inference import Lineup, start_session, translate_file
from langadapt.inference import file_translation as module
from langadapt.inference.commands import handle
from langadapt.inference.streaming import TextStream
from langadapt.models.translation import load_translation_tokenizer
from langadapt.recipe import load_settings
from langadapt.recipe.inference import InferenceSettings
from langadapt.text import cut_to_fit, whole_sentences

ENGLISH, FRENCH = zip(*PAIRS, strict=True)


def translated(model: Path, source: Path, output: Path, *overrides: str) -> dict[str, object]:
    settings = load_settings(InferenceSettings, None, [f"model_path={model}", "device=cpu", *overrides])
    return translate_file(Lineup(settings), settings, str(source), str(output))


@pytest.mark.parametrize("family", ["m2m100", "marian"])
def test_a_stream_shows_nothing_that_changes(translators: dict[str, Path], family: str) -> None:
    tokenizer = load_translation_tokenizer(str(translators[family]))
    for target in FRENCH:
        stream = TextStream(tokenizer)
        [ids] = tokenizer.encode_target([target], "fr")
        pieces = [stream.add(token) for token in ids]
        assert target.startswith("".join(pieces))
        assert "".join([*pieces, stream.end()]) == stream.text == target
        assert sum(map(bool, pieces)) > 1  # not all at once


def test_the_prompt_with_translators_and_a_chat_model(
    run_script: Callable[..., subprocess.CompletedProcess[str]], translators: dict[str, Path], chat_model: Path
) -> None:
    lines = [
        "/set direction en-fr",
        ENGLISH[0],
        f"/translate fr en {FRENCH[2]}",
        "/set direction fr-en",
        FRENCH[2],
        f"/tokens {FRENCH[2]}",
        f"/ppl {FRENCH[2]}",
        f"/template {FRENCH[2]}",
        f"/compare {FRENCH[2]}",
        "/retry",
        "/set direction null",
        f"/use {translators['marian'].name}",
        ENGLISH[1],
    ]
    models = ["--model_path", str(translators["m2m100"]), "--model_path", str(translators["marian"])]
    models += ["--model_path", str(chat_model)]
    done = run_script("6_test_inference.py", *models, "device=cpu", "prompt_language=en", input="\n".join(lines))
    assert done.returncode == 0, done.stderr
    compared = f"[m2m100 (fr-en)]\n{ENGLISH[2]}\n\n[{chat_model.name}]\n"
    first, second = done.stdout.split(compared)[0], done.stdout.rsplit("\n", 2)[-2]
    assert first.splitlines() == [FRENCH[0], ENGLISH[2], ENGLISH[2]]
    assert done.stdout.count(compared) == 2
    assert second == FRENCH[1]
    for notice in (
        "m2m100 is a translator: it translates each text. (/set direction",
        "m2m100: not defined: a translator gives a text a likelihood only as the translation of another",
        "by what the encoder reads, fr-en; the decoder begins with __en__]",
        "translates en-fr, and only that; asked was fr-en.",
        "bits per byte",
    ):
        assert notice in done.stderr


def test_commands_for_chat_say_why_not(translators: dict[str, Path]) -> None:
    settings = load_settings(InferenceSettings, None, [f"model_path={translators['marian']}", "device=cpu"])
    session = start_session(Lineup(settings), settings)
    for line, problem in (("/raw x", "which continues no text"), ("/system x", "a translator, which has no system")):
        with pytest.raises(UserError, match=problem):
            handle(session, line)


def test_a_document_keeps_its_layout(translators: dict[str, Path], tmp_path: Path) -> None:
    a, b, c = ENGLISH[:3]
    (tmp_path / "in.txt").write_text(f"\n\n    {b}\n{a} {b} {c}\n\n  {c}\n***\n{a}\n\n\n", encoding="utf-8")
    done = translated(
        translators["m2m100"], tmp_path / "in.txt", tmp_path / "out.txt", "direction=en-fr", "segment_tokens=14"
    )
    expected = "\n\n    {}\n{} {} {}\n\n  {}\n***\n{}\n\n\n".format(FRENCH[1], *FRENCH[:3], FRENCH[2], FRENCH[0])
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == expected
    assert {key: done[key] for key in ("texts", "segments", "empty", "cut off")} == {
        "texts": 1, "segments": 3, "empty": 0, "cut off": 0
    }  # fmt: skip
    wrapped = f"{a}\n{b}\n\n{c}\n"
    (tmp_path / "in.txt").write_text(wrapped, encoding="utf-8")
    keys = ("direction=en-fr", "segment_tokens=14", "wrapped=true")
    translated(translators["m2m100"], tmp_path / "in.txt", tmp_path / "out.txt", *keys)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == f"{FRENCH[0]} {FRENCH[1]}\n\n{FRENCH[2]}\n"


@pytest.mark.parametrize("suffix", ["tsv", "csv", "json", "jsonl"])
def test_records_get_a_translation(translators: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    records = [{"id": str(n), "en": text} for n, text in enumerate(ENGLISH[:2])]
    if suffix in ("tsv", "csv"):
        with open(source, "w", encoding="utf-8", newline="") as handle:
            rows = [["id", "en"], *([record["id"], record["en"]] for record in records)]
            csv.writer(handle, delimiter="\t" if suffix == "tsv" else ",").writerows(rows)
    elif suffix == "json":
        source.write_text(json.dumps(records))
    else:
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
    translated(translators["marian"], source, output)
    text = output.read_text(encoding="utf-8")
    if suffix in ("tsv", "csv"):
        found = list(csv.DictReader(text.splitlines(), delimiter="\t" if suffix == "tsv" else ","))
    else:
        found = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert found == [record | {"translation": target} for record, target in zip(records, FRENCH, strict=False)]


def test_a_chat_model_translates_a_file_and_goes_on_after_a_kill(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import CHINESE, TIBETAN

    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(CHINESE), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            translated(chat_model, source, output, "direction=zh-bo")
    done = translated(chat_model, source, output, "direction=zh-bo")
    assert (done["resumed"], done["segments"]) == (4, 4)
    assert output.read_text(encoding="utf-8").splitlines() == list(reversed(TIBETAN))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_what_cannot_be_translated_is_said(translators: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    source, records = tmp_path / "in.txt", tmp_path / "in.jsonl"
    source.write_text("Hello.\n")
    records.write_text('{"other": "x"}\n')
    with pytest.raises(UserError, match="continues plain text"):
        translated(tiny_model, source, tmp_path / "out.txt", "direction=zh-bo")
    with pytest.raises(UserError, match="has the form of the original"):
        translated(translators["marian"], source, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"in\.jsonl, line 1: no text to translate .* there are 'other'"):
        translated(translators["marian"], records, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="translates en-fr, and only that; asked was fr-en"):
        translated(translators["marian"], source, tmp_path / "out.txt", "direction=fr-en")
    (tmp_path / "in.csv").write_text("id,en\n")
    with pytest.raises(UserError, match=r"in\.csv holds no records"):
        translated(translators["marian"], tmp_path / "in.csv", tmp_path / "out.csv")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("text", "ends", "spaced"),
    [
        ('Version 3.5 is out. "Is it?" Yes, it is; take it, or leave it. Superlongword', ".!?;", True),
        ("今天很好。“真的吗？”是的，真的；我们走吧", "。！？；…", False),
        ("བོད་ཡིག་སློབ་སྦྱོང་བྱེད། དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག །", "།༎༏༐༑༔", False),
    ],
)
def test_a_cut_loses_nothing_and_fits(text: str, ends: str, spaced: bool) -> None:
    assert "".join(whole_sentences(text, ends, spaced)) == text
    for longest in (1, 5, 12, 30, 500):
        parts = cut_to_fit(text, lambda part, longest=longest: len(part) <= longest, ends, spaced)
        assert "".join(parts) == text
        assert longest < 5 or max(map(len, parts)) <= longest
    assert parts == [text]


def test_sentences_end_where_they_do() -> None:
    text = 'Version 3.5 is out. "Is it?" Yes!'
    assert whole_sentences(text, ".!?;", spaced=True) == ["Version 3.5 is out. ", '"Is it?" ', "Yes!"]
