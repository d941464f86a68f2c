"""Every layout of stage 1, from whatever container."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ENGLISH, REPOSITORY
from source_files import BO_ZH, RECORDS, read, write

from langadapt.corpus.check import read_test_sets
from langadapt.corpus.reading import Bad, Dropped, TextRow, TurnRow
from langadapt.errors import UserError
from langadapt.recipe import language
from langadapt.recipe.settings import Settings, load_settings
from langadapt.recipe.sources import Source

UPSTREAM = REPOSITORY.parent / "shared" / "data" / "upstream_layouts"


@pytest.fixture
def more_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Profiles of languages that the project may not have: French, and two that share the Chinese script."""
    folder = tmp_path / "languages"
    folder.mkdir()
    profile = (language.PROFILES / "zh.yaml").read_text(encoding="utf-8")
    for code, script in {"en": "Latin", "fr": "Latin", "mn": "Cyrillic", "zh": "Han", "lzh": "Han"}.items():
        changed = profile.replace("code: zh", f"code: {code}").replace("scripts: [Han]", f"scripts: [{script}]")
        (folder / f"{code}.yaml").write_text(changed, encoding="utf-8")
    language.load_language.cache_clear()
    monkeypatch.setattr(language, "PROFILES", folder)
    yield
    language.load_language.cache_clear()


def test_simplified_becomes_traditional(tmp_path: Path) -> None:
    write(tmp_path, "x.jsonl", [{"zh": "头发干燥，皇后计划在台湾里面出发。", "en": "a"}])
    (row,) = read(tmp_path, layout="fields", file="x.jsonl", fields={"zh": "zh", "en": "en"}, convert={"zh": "s2t"})
    assert row.texts == {"zh": "頭髮乾燥，皇后計劃在臺灣裏面出發。", "en": "a"}
    write(tmp_path, "y.jsonl", [{"instruction": "这是什么？", "output": "བོད་ཡིག"}])
    (row,) = read(tmp_path, layout="instructions", file="y.jsonl", languages=["bo", "zh"], convert={"zh": "s2tw"})
    assert row.record["instruction"] == "這是什麼？"


@pytest.mark.usefixtures("more_languages")
def test_a_pair_and_its_twin_the_other_way_round_count_once(tmp_path: Path) -> None:
    pairs = [("en", "a", "b"), ("fr", "b", "a"), ("fr", "c", "d"), ("de", "e", "f"), ("en", "a", "b"), ("en", " ", "g")]
    write(tmp_path, "x.jsonl", [{"source": s, "target": t, "source_lang": c} for c, s, t in pairs])
    rows = read(tmp_path, layout="pairs", file="x.jsonl", languages=["en", "fr"])
    assert [row.texts for row in rows if isinstance(row, TextRow)] == [
        {"en": "a", "fr": "b"},
        {"en": "d", "fr": "c"},
        {"en": "a", "fr": "b"},  # the same again in the same direction: deduplication counts those
    ]
    assert {row.number: row.reason for row in rows if isinstance(row, Dropped)} == {
        2: "the same pair the other way round",
        4: "not routed: source_lang is 'de'",
        6: "blank in at least one language",
    }


ASK, ANSWER = "这是什么？", "བོད་ཡིག"
LATER = [["你好", "བཀྲ་ཤིས་བདེ་ལེགས།"]]


def turns(*texts: str, role: str = "role", names: tuple[str, str] = ("user", "assistant")) -> list[dict[str, str]]:
    value = "content" if role == "role" else "value"
    return [{role: names[k % 2], value: text} for k, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"instruction": ASK, "output": ANSWER}, {}),
        ({"instruction": " ", "input": ASK, "output": ANSWER, "history": [], "system": None}, {}),
        ({"instruction": "看", "input": ASK, "output": ANSWER}, {"instruction": "看", "input": ASK}),
        ({"instruction": ASK, "output": ANSWER, "history": LATER, "system": "s"}, {"history": LATER, "system": "s"}),
        ({"messages": turns(ASK, ANSWER)}, {}),
        ({"conversations": turns(*LATER[0], ASK, ANSWER, role="from", names=("human", "gpt"))}, {"history": LATER}),
        ({"conversations": [{"role": "system", "content": "s"}, *turns(ASK, ANSWER)]}, {"system": "s"}),
    ],
)
def test_every_instruction_layout_gives_the_same_record(
    tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]
) -> None:
    write(tmp_path, "x.jsonl", [{"id": 7, **record}])
    rows = read(tmp_path, layout="instructions", file="x.jsonl", languages=["bo", "zh"])
    assert rows == [TurnRow(1, "7", {"instruction": ASK, "input": "", "output": ANSWER} | expected, "zh", "bo")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": ASK}, "none of `instruction`"),
        ({"instruction": ["x"], "output": ANSWER}, "`instruction` is list"),
        ({"instruction": ASK, "output": ANSWER, "history": [["a"]]}, "`history` is no list of"),
        ({"messages": turns(ASK, ANSWER, ASK)}, "does not end with the assistant"),
        ({"messages": turns(ASK, ANSWER, names=("assistant", "assistant"))}, "do not alternate"),
        ({"messages": turns(ASK, ANSWER, names=("user", "tool"))}, "a message is from 'tool'"),
        ({"messages": "x"}, "`messages` is str"),
    ],
)
def test_a_conversation_that_is_none_is_set_aside(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    write(tmp_path, "x.jsonl", [record, {"instruction": ASK, "output": ANSWER}])
    bad, good = read(tmp_path, layout="instructions", file="x.jsonl", languages=["bo", "zh"])
    assert (bad.line, good.number) == (1, 2)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "x", "instruction": ASK}, "no output"),
        ({"instruction": " ", "output": ANSWER}, "no instruction"),
        ({"instruction": f"{ASK}{ANSWER}", "output": ANSWER}, "not routed: asked in ?, answered in bo"),
        ({"instruction": ASK, "output": "Kiribati"}, "not routed: asked in zh, answered in ?"),
    ],
)
def test_records_of_no_use_say_why(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    write(tmp_path, "x.json", [record])
    (row,) = read(tmp_path, layout="instructions", file="x.json", languages=["bo", "zh"])
    assert (row.number, row.reason) == (1, reason)


ROUTES = {"zh-lzh": "文言文|古文|古代", "lzh-zh": "現代文|白話"}


@pytest.mark.usefixtures("more_languages")
def test_languages_of_one_script_are_routed_by_the_prompt(tmp_path: Path) -> None:
    prompts = ["翻譯成文言文：\n天氣很好", "天朗\n翻譯成現代文：", "今天\n這句話在中國古代怎麼說：", "翻譯：天朗"]
    write(tmp_path, "x.json", [{"id": str(k), "instruction": p, "output": "天"} for k, p in enumerate(prompts)])
    rows = read(tmp_path, layout="instructions", file="x.json", languages=["zh", "lzh"], routes=ROUTES)
    assert [(row.source_lang, row.target_lang) for row in rows[:3]] == [("zh", "lzh"), ("lzh", "zh"), ("zh", "lzh")]
    assert rows[3].reason == "not routed: asked in ?, answered in ?"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"chosen": turns(ASK, ANSWER), "rejected": turns(ASK, "ཡིན།")}, {}),
        ({"prompt": ASK, "chosen": ANSWER, "rejected": "ཡིན།"}, {}),
        ({"prompt": turns(ASK), "chosen": [turns(ASK, ANSWER)[1]], "rejected": [turns(ASK, "ཡིན།")[1]]}, {}),
        ({"prompt": ASK, "chosen": turns(ASK, ANSWER), "rejected": turns(ASK, "ཡིན།")}, {}),
        (
            {"chosen": turns(*LATER[0], ASK, ANSWER), "rejected": turns(*LATER[0], ASK, "ཡིན།")},
            {"history": LATER},
        ),
    ],
)
def test_every_preference_layout_gives_the_same_record(
    tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]
) -> None:
    write(tmp_path, "x.jsonl", [record])
    rows = read(tmp_path, layout="preferences", file="x.jsonl", languages=["bo", "zh"])
    pair = {"instruction": ASK, "input": "", "output": ANSWER, "rejected": "ཡིན།"}
    assert rows == [TurnRow(1, None, pair | expected, "zh", "bo")]


def test_preferences_without_a_preference_are_left_out(tmp_path: Path) -> None:
    records = [
        {"chosen": turns(ASK, ANSWER), "rejected": turns("你好", "ཡིན།")},
        {"prompt": ASK, "chosen": ANSWER},
        {"prompt": ASK, "chosen": ANSWER, "rejected": f" {ANSWER}"},
        {"prompt": ASK, "chosen": ANSWER, "rejected": " "},
    ]
    write(tmp_path, "x.jsonl", records)
    rows = read(tmp_path, layout="preferences", file="x.jsonl", languages=["bo", "zh"])
    assert [type(row) for row in rows] == [Bad, Bad, Dropped, Dropped]
    assert [row.reason for row in rows] == [
        "`chosen` and `rejected` answer different prompts",
        "the key `rejected` is missing",
        "the rejected answer is the chosen one",
        "no rejected answer",
    ]


class Recipe(Settings):
    sources: dict[str, Source]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("layout: fields, fields: {bo: text}", "either `file` or `dataset`"),
        ("layout: fields, fields: {bo: text}, file: x.txt, dataset: {name: a/b}", "not both"),
        ("layout: fields, fields: {bo: text}, file: x.xlsx.gz", r"suffix of 'x.xlsx.gz' is not known; known are \.txt"),
        ("layout: fields, fields: {bo: b}, file: x.tsv, columns: [a]", "columns that `columns` does not: b"),
        ("layout: fields, fields: {bo: a}, file: x.jsonl, columns: [a]", "records elsewhere carry their names"),
        ("layout: fields, fields: {bo: text}, dataset: {nam: a/b}", "unknown key `sources.s.dataset.nam`"),
        ("layout: fields, fields: {zh: a}, file: x.csv, convert: {zh: s2x}", "'s2x', which OpenCC .*s2t"),
        ("layout: fields, fields: {bo: a}, file: x.csv, convert: {zh: s2t}", "'zh', which the source does not have"),
        ("layout: lines, files: {bo: x.jsonl}", "`layout: fields`"),
        ("layout: pairs, languages: [en, en], file: x.jsonl", "a pair needs two languages"),
        ("layout: instructions, languages: [zh], file: x.json, routes: {zh-lzh: a}", "lzh is not among `languages`"),
        ("layout: instructions, languages: [zh], file: x.json, routes: {zh-zh: '('}", "no regular expression"),
        ("layout: jsonl, file: x.jsonl", "'lines', 'fields', 'pairs', 'instructions', 'preferences'"),
    ],
)
def test_contradictory_sources_are_refused_with_their_line(tmp_path: Path, keys: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"# a recipe\nsources:\n  s: {{{keys}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"recipe\.yaml, line 3.*{said}"):
        load_settings(Recipe, tmp_path / "recipe.yaml")


MIX = "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json"
CUTE = {code: f"CUTE-Datasets/parallel-corpus/{code}.txt" for code in ("bo", "zh", "en")}


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="needs the sample files of ../shared")
@pytest.mark.usefixtures("more_languages")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"layout": "lines", "files": {"en": CUTE["en"], "zh": CUTE["zh"]}, "align": "never"}, {"texts": 300}),
        ({"layout": "fields", "file": "minimind/pretrain_t2t_mini.jsonl", "fields": {"zh": "text"}}, {"texts": 160}),
        (
            {"layout": "pairs", "file": "csas/training_data.jsonl", "languages": ["en", "fr"]},
            {"texts": 150, "the same pair the other way round": 150},
        ),
        (
            {
                "layout": "fields",
                "file": "mongolian_capstone/mn-en-parallel.jsonl",
                "fields": {"mn": "src", "en": "tgt"},
            },
            {"texts": 100},
        ),
        (
            {
                "layout": "instructions",
                "file": "mongolian_capstone/qwen_training_data.json",
                "languages": ["mn", "en"],
                "routes": {"mn-en": "Mongolian sentence into English"},
            },
            {"mn-en": 150},
        ),
        (
            {"layout": "instructions", "file": ["adl_hw3/*.json"], "languages": ["zh", "lzh"], "routes": ROUTES},
            {"zh-lzh": 133, "lzh-zh": 117},
        ),
    ],
)
def test_the_published_layouts_read_in_full(keys: dict[str, Any], expected: dict[str, int]) -> None:
    assert count(keys) == expected


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="needs the sample files of ../shared")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"layout": "lines", "files": {"bo": "CUTE-Datasets/non-parallel-corpus/n-bo.txt"}}, {"texts": 40}),
        ({"layout": "fields", "file": "mc2/bo-crawl-sample.jsonl", "fields": {"bo": "text"}}, {"texts": 20}),
        ({"layout": "instructions", "file": MIX}, {"zh-bo": 112, "zh-zh": 60, "bo-bo": 60}),
        ({"layout": "instructions", "file": "minimind/sft_t2t_mini.jsonl"}, {"zh-bo": 72, "zh-zh": 32}),
        ({"layout": "preferences", "file": "minimind/dpo.jsonl"}, {"zh-bo": 40, "zh-zh": 13, "bo-zh": 2}),
    ],
)
def test_the_published_tibetan_layouts_read_in_full(keys: dict[str, Any], expected: dict[str, int]) -> None:
    routed = {"languages": ["bo", "zh"]} if keys["layout"] in ("instructions", "preferences") else {}
    counts = count(keys | routed)
    unrouted = {reason for reason in counts if reason.startswith("not routed: ")}
    assert {key: number for key, number in counts.items() if key not in unrouted} == expected


def count(keys: dict[str, Any]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for row in read(UPSTREAM, **keys):
        if isinstance(row, TurnRow):
            kinds[f"{row.source_lang}-{row.target_lang}"] += 1
        else:
            kinds["texts" if isinstance(row, TextRow) else row.reason] += 1
    return dict(kinds)


def test_a_pattern_finds_the_files_of_all_folders_below(tmp_path: Path) -> None:
    for name in ("b/deep/x.jsonl", "a/y.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        write(tmp_path, name, RECORDS[:2])
    assert len(read(tmp_path, **BO_ZH, file="**")) == 4
    assert len(read(tmp_path, **BO_ZH, file="b/**")) == 2
    with pytest.raises(UserError, match=r"c/\*: no file matches. Fetch it"):
        read(tmp_path, **BO_ZH, file="c/*")


def test_a_test_set_without_a_known_suffix_is_text(tmp_path: Path) -> None:
    text = "".join(f"{line}\n" for line in ENGLISH)
    (tmp_path / "eng_Latn.devtest").write_text(text, encoding="utf-8")
    (tmp_path / "eng_Latn.dev.gz").write_bytes(gzip.compress(text.encode()))
    expected = [(f"{{}}:{number}", line) for number, line in enumerate(ENGLISH, start=1)]
    for name in ("eng_Latn.devtest", "eng_Latn.dev.gz"):
        assert read_test_sets([tmp_path / name]) == [(place.format(name), line) for place, line in expected]
    (tmp_path / "x.devtest").write_bytes(b"good\n\xff\n")
    with pytest.raises(UserError, match=r"x\.devtest, line 2: not valid UTF-8"):
        read_test_sets([tmp_path / "x.devtest"])
    with pytest.raises(UserError, match=r"none\.devtest: no such file"):
        read_test_sets([tmp_path / "none.devtest"])
