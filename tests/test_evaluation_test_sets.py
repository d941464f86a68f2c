"""The test sets of stage 4, from every layout in which they are kept."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import CHINESE, ENGLISH, REPOSITORY, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.test_sets import TestSets, read_test_sets, sha256_of_items
from langadapt.files import sha256_of, write_json_array
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings

TEXTS = {"bo": TIBETAN, "zh": CHINESE, "en": ENGLISH}
LABELS = {"bo": "bod_Tibt", "zh": "zho_Hans", "en": "eng_Latn", "dz": "dzo_Tibt"}
DIRECTIONS = ["zh-bo", "en-bo", "bo-en"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of stage 1 with a text and a translation, on which nothing hangs but that it is there."""
    write_json_array(tmp_path / "tibetan_cpt_test.json", [{"id": "t", "text": TIBETAN[0]}])
    write_json_array(tmp_path / "tibetan_sft_test_filtered_4k.json", [translation("a", "一", "ཀ")])
    write_json_array(tmp_path / "tibetan_sft_filtered_4k.json", [translation("b", "二", "ཁ")])
    return tmp_path


def translation(key: str, source: str, target: str, direction: str = "zh-bo", **changes: Any) -> dict[str, Any]:
    source_lang, target_lang = direction.split("-")
    record = {
        "id": key, "source": "x", "task": "translation", "source_lang": source_lang, "target_lang": target_lang,
        "instruction": f"翻译：{source}", "input": "", "output": target, "source_text": source,
    }  # fmt: skip
    return record | changes


def write_lines(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return str(path)


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> str:
    return write_lines(path, [json.dumps(record) for record in records])


def write_flores(folder: Path, texts: dict[str, list[str]], split: str = "devtest") -> dict[str, Any]:
    for language, lines in texts.items():
        write_lines(folder / split / f"{LABELS[language]}.{split}", lines)
    return {"layout": "flores", "folder": str(folder)}


def read(data: Path, test_set: dict[str, Any], **changes: Any) -> TestSets:
    """Read one named set and leave out what stage 1 held out."""
    measured = {"texts": ["bo", "en"], "directions": DIRECTIONS}
    settings = EvaluationSettings(dataset_dir=str(data), test_sets={"x": measured | test_set}, **changes)
    sets = read_test_sets(settings, "way out")
    return TestSets(
        [each for each in sets.texts if each.name == "x"],
        [each for each in sets.translations if each.name == "x"],
        {key: reason for key, reason in sets.missing.items() if ".x." in key},
        {path: sha256 for path, sha256 in sets.files.items() if Path(path).name[:7] != "tibetan"},
    )


def pairs(sets: TestSets) -> dict[str, list[tuple[str, str]]]:
    return {s.direction: [(r["source_text"], r["output"]) for r in s.records] for s in sets.translations}


def lines_set(data: Path) -> dict[str, Any]:
    files = {code: write_lines(data / f"{code}.txt", texts) for code, texts in TEXTS.items()}
    return {"layout": "lines", "files": files}


def flores_200(data: Path) -> dict[str, Any]:
    return write_flores(data / "flores", TEXTS)


def flores_plus_lines(data: Path) -> dict[str, Any]:
    for code, texts in TEXTS.items():
        write_lines(data / "devtest" / f"devtest.{LABELS[code].replace('zho', 'cmn')}", texts)
    return {"layout": "flores", "folder": str(data)}


def flores_plus_jsonl(data: Path) -> dict[str, Any]:
    for code, texts in TEXTS.items():
        records = [{"id": number, "text": text, "domain": "x"} for number, text in enumerate(texts, start=1)]
        write_jsonl(data / "devtest" / f"{LABELS[code].replace('zho', 'cmn')}.jsonl", records)
    return {"layout": "flores", "folder": str(data)}


def flores_plus_parquet(data: Path) -> dict[str, Any]:
    (data / "devtest").mkdir()
    for code, texts in TEXTS.items():
        table = pa.table({"id": range(1, len(texts) + 1), "text": texts, "domain": texts})
        parquet.write_table(table, data / "devtest" / f"{LABELS[code]}.parquet")
    return {"layout": "flores", "folder": str(data)}


def ntrex(data: Path) -> dict[str, Any]:
    write_lines(data / "newstest2019-src.eng.txt", ENGLISH)
    write_lines(data / "newstest2019-ref.zho-CN.txt", CHINESE)
    write_lines(data / "newstest2019-ref.bod.txt", TIBETAN)
    return {"layout": "ntrex", "folder": str(data)}


def rows() -> list[dict[str, str]]:
    return [dict(zip(("བོད", "zh", "en"), row, strict=True)) for row in zip(TIBETAN, CHINESE, ENGLISH, strict=True)]


def fields_set(path: Path) -> dict[str, Any]:
    return {"layout": "fields", "file": str(path), "fields": {"bo": "བོད", "zh": "zh", "en": "en"}}


def fields_tsv(data: Path) -> dict[str, Any]:
    write_lines(data / "x.tsv", ["\t".join(rows()[0]), *("\t".join(row.values()) for row in rows())])
    return fields_set(data / "x.tsv")


def fields_csv(data: Path) -> dict[str, Any]:
    with open(data / "x.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, rows()[0])
        writer.writeheader()
        writer.writerows(rows())
    return fields_set(data / "x.csv")


def fields_json(data: Path) -> dict[str, Any]:
    write_json_array(data / "x.json", rows())
    return fields_set(data / "x.json")


def fields_jsonl(data: Path) -> dict[str, Any]:
    write_jsonl(data / "x.jsonl", rows())
    return fields_set(data / "x.jsonl")


@pytest.mark.parametrize(
    "layout",
    [
        lines_set, flores_200, flores_plus_lines, flores_plus_jsonl, flores_plus_parquet, ntrex,
        fields_tsv, fields_csv, fields_json, fields_jsonl,
    ],
    ids=lambda layout: layout.__name__,
)  # fmt: skip
def test_every_layout_gives_the_same_items(layout: Any, data: Path) -> None:
    sets = read(data, layout(data), prompt_format="chat")
    assert [(s.language, s.ids, s.texts) for s in sets.texts] == [
        (code, ["1", "2", "3", "4"], TEXTS[code]) for code in ("bo", "en")
    ]
    assert pairs(sets) == {
        "zh-bo": list(zip(CHINESE, TIBETAN, strict=True)),
        "en-bo": list(zip(ENGLISH, TIBETAN, strict=True)),
        "bo-en": list(zip(TIBETAN, ENGLISH, strict=True)),
    }
    assert [record["id"] for record in sets.translations[0].records] == ["1", "2", "3", "4"]
    assert sets.missing == {}
    assert sets.files
    assert all(sha256 == sha256_of(path) for path, sha256 in sets.files.items())


def test_records_of_flores_are_paired_by_id_and_not_by_row(data: Path) -> None:
    flores_plus_jsonl(data)
    zh = [{"id": number, "text": text} for number, text in enumerate(CHINESE, start=1)]
    write_jsonl(data / "devtest/cmn_Hans.jsonl", [zh[3], zh[0], zh[1]])
    sets = read(data, {"layout": "flores", "folder": str(data)}, prompt_format="chat")
    assert pairs(sets)["zh-bo"] == [(CHINESE[k], TIBETAN[k]) for k in (0, 1, 3)]
    assert sets.missing == {"translation.x.zh-bo": "1 of 4 items are left out: empty in zh or bo"}


def test_a_record_is_asked_with_the_template_of_its_direction(data: Path) -> None:
    sets = read(
        data,
        lines_set(data) | {"directions": ["zh-bo", "en-bo"]},
        prompt_format="chat",
        prompt_language="en",
        translation_template="{source} to {target}: {text}",
        translation_templates={"en-bo": "{text} ({target})"},
    )
    assert sets.translations[0].records[0] == {
        "id": "1",
        "source": "x",
        "task": "translation",
        "source_lang": "zh",
        "target_lang": "bo",
        "instruction": f"Chinese to Tibetan: {CHINESE[0]}",
        "input": "",
        "output": TIBETAN[0],
        "source_text": CHINESE[0],
    }
    assert sets.translations[1].records[0]["instruction"] == f"{ENGLISH[0]} (Tibetan)"


def test_texts_come_in_the_normal_form_of_their_language(data: Path) -> None:
    files = {
        "bo": write_lines(data / "bo", ["\ufeffབོད\u0f0cཡིག "]),
        "en": write_lines(data / "en", ["re\u0301sume\u0301"]),
    }
    sets = read(data, {"layout": "lines", "files": files, "directions": ["en-bo"]}, prompt_format="chat")
    assert [s.texts for s in sets.texts] == [["བོད\u0f0bཡིག"], ["résumé"]]
    assert pairs(sets) == {"en-bo": [("résumé", "བོད\u0f0bཡིག")]}


def test_limit_draws_the_same_items_everywhere_and_fills_up_for_empty_ones(data: Path) -> None:
    texts = {code: [f"{code}{number}" for number in range(40)] for code in ("bo", "zh", "en")}
    whole = read(data, write_flores(data / "whole", texts), limit=10, prompt_format="chat")
    ids = whole.texts[0].ids
    assert len(ids) == 10
    assert ids == sorted(ids, key=int)
    assert whole.texts[1].ids == ids
    assert [[record["id"] for record in s.records] for s in whole.translations] == [ids] * 3
    other = read(data, write_flores(data / "whole", texts), limit=10, seed=1, prompt_format="chat")
    assert other.texts[0].ids != ids

    texts["zh"][int(ids[4]) - 1] = " "
    sparse = read(data, write_flores(data / "sparse", texts), limit=10, prompt_format="chat")
    kept = [record["id"] for record in sparse.translations[0].records]
    assert len(kept) == 10
    assert set(ids) - set(kept) == {ids[4]}
    assert [record["id"] for record in sparse.translations[1].records] == ids
    assert sparse.missing == {"translation.x.zh-bo": "1 of 40 items are left out: empty in zh or bo"}


def test_a_language_without_any_text_is_missing(data: Path) -> None:
    sets = read(data, write_flores(data, {**TEXTS, "zh": [""] * 4}), prompt_format="chat")
    assert [s.direction for s in sets.translations] == ["en-bo", "bo-en"]
    assert sets.missing == {"translation.x.zh-bo": "4 of 4 items are left out: empty in zh or bo"}


def test_examples_come_from_the_other_split_and_none_is_tested(data: Path) -> None:
    seen = {code: ["", texts[3], f"{code} new", f"{code} too"] for code, texts in TEXTS.items()}
    seen["en"][2] = ENGLISH[0]
    write_flores(data, seen, split="dev")
    sets = read(data, write_flores(data, TEXTS), limit=1)  # also what `limit` leaves out is not shown
    examples = {s.direction: [(r["source_text"], r["output"]) for r in s.examples] for s in sets.translations}
    assert examples == {
        "zh-bo": [("zh new", "bo new"), ("zh too", "bo too")],
        "en-bo": [("en too", "bo too")],
        "bo-en": [("bo too", "en too")],
    }
    assert len(sets.files) == 6
    swapped = read(data, write_flores(data, TEXTS) | {"split": "dev"})
    assert pairs(swapped)["zh-bo"][1:] == examples["zh-bo"]


@pytest.mark.parametrize(("layout", "reason"), [(ntrex, "no development set"), (lines_set, "examples is empty")])
def test_a_set_without_examples_says_so(layout: Any, reason: str, data: Path) -> None:
    sets = read(data, layout(data))
    assert all(s.examples == [] for s in sets.translations)
    assert sets.missing.keys() == {f"translation.x.{direction}.examples" for direction in DIRECTIONS}
    assert all(reason in said for said in sets.missing.values())
    assert read(data, layout(data), num_fewshot=0).missing == {}


def test_lines_and_fields_have_examples_of_their_own(data: Path) -> None:
    shown = {code: write_lines(data / f"shown.{code}", [f"{code} new"]) for code in TEXTS}
    sets = read(data, lines_set(data) | {"examples": shown})
    assert [record["output"] for record in sets.translations[0].examples] == ["bo new"]
    file = write_jsonl(data / "shown.jsonl", [{"བོད": "ཀ", "zh": "一", "en": "one"}])
    sets = read(data, fields_json(data) | {"examples": file})
    assert [(r["source_text"], r["output"]) for r in sets.translations[1].examples] == [("one", "ཀ")]


def test_a_neighbour_stands_in_the_records_of_its_target(data: Path) -> None:
    texts = {**TEXTS, "dz": ["རྫོང་ཁ", "", "ཀ", "ཁ"]}
    sets = read(data, write_flores(data, texts) | {"neighbours": {"bo": "dz"}}, prompt_format="chat")
    assert [record.get("neighbour") for record in sets.translations[0].records] == ["རྫོང་ཁ", None, "ཀ", "ཁ"]
    assert not any("neighbour" in record for record in sets.translations[2].records)
    assert sets.missing == {}


def test_fields_bring_ids_and_origins(data: Path) -> None:
    records = [row | {"key": f"k{number}", "from": "news"} for number, row in enumerate(rows())]
    write_jsonl(data / "x.jsonl", records)
    columns = {"id_field": "key", "source_field": "from"}
    sets = read(data, fields_set(data / "x.jsonl") | columns, prompt_format="chat")
    assert sets.texts[0].ids == ["k0", "k1", "k2", "k3"]
    assert {(record["id"][0], record["source"]) for record in sets.translations[0].records} == {("k", "news")}


def broken(data: Path, name: str) -> dict[str, Any]:
    """A test set with one thing wrong."""
    lines = lines_set(data)
    match name:
        case "no folder":
            return {"layout": "flores", "folder": str(data / "nowhere")}
        case "no file":
            return write_flores(data, {"bo": TIBETAN, "en": ENGLISH})
        case "mixed":
            flores_plus_jsonl(data)
            return write_flores(data, {"en": ENGLISH})
        case "no label":
            return write_flores(data, TEXTS) | {"texts": ["lzh"]}
        case "same id":
            flores_plus_jsonl(data)
            write_jsonl(data / "devtest/eng_Latn.jsonl", [{"id": 7, "text": "a"}, {"id": 7, "text": "b"}])
            return {"layout": "flores", "folder": str(data)}
        case "unequal":
            write_lines(data / "zh.txt", CHINESE[:3])
            return lines
        case "no such language":
            return lines | {"neighbours": {"bo": "dz"}}
        case "no column":
            return fields_tsv(data) | {"fields": {"bo": "བོད", "zh": "chinese", "en": "en"}}
        case "no key":
            write_jsonl(data / "x.jsonl", [*rows(), {"zh": "一", "en": "one"}])
            return fields_set(data / "x.jsonl")
        case "no text":
            write_jsonl(data / "x.jsonl", [*rows(), rows()[0] | {"en": 5}])
            return fields_set(data / "x.jsonl")
        case "broken":
            write_lines(data / "x.jsonl", ['{"zh": '])
            return fields_set(data / "x.jsonl")
        case "no profile":
            return lines | {"texts": ["xx"], "files": lines["files"] | {"xx": lines["files"]["en"]}}
    raise ValueError(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no folder", r"test_sets\.x: .*nowhere/devtest: no such folder"),
        ("no file", r"no file for zh \(zho_Hans or cmn_Hans\); there are: bod_Tibt\.devtest, eng_Latn\.devtest"),
        ("mixed", "some hold lines and some records"),
        ("no label", r"lzh\.yaml has no `flores`"),
        ("same id", r"eng_Latn\.jsonl, line 2: the id '7' stands in line 1 too"),
        ("unequal", r"bo\.txt has 4 lines, .*zh\.txt has 3 lines"),
        ("no such language", r"test_sets\.x\.files: nothing for dz.*there are bo, zh, en"),
        ("no column", r"x\.tsv: no column 'chinese'; there are 'བོད', 'zh', 'en'"),
        ("no key", r"x\.jsonl, line 5: no column 'བོད'; there are 'zh', 'en'"),
        ("no text", r"x\.jsonl, line 5: 'en' is int, expected a text"),
        ("broken", r"x\.jsonl, line 1: broken JSON"),
        ("no profile", r"no profile for the language 'xx'"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(name: str, said: str, data: Path) -> None:
    with pytest.raises(UserError, match=said):
        read(data, broken(data, name), prompt_format="chat")


def test_two_items_of_one_id_are_refused(data: Path) -> None:
    write_jsonl(data / "x.jsonl", [row | {"key": "k"} for row in rows()])
    with pytest.raises(UserError, match=r"x\.jsonl, line 2: the id 'k' stands in line 1 too"):
        read(data, fields_set(data / "x.jsonl") | {"id_field": "key"})


def own(data: Path, **changes: Any) -> TestSets:
    return read_test_sets(EvaluationSettings(dataset_dir=str(data), **changes), "way out")


def test_what_stage_1_held_out_is_read_as_it_is(data: Path) -> None:
    write_json_array(data / "tibetan_cpt_test.json", [{"id": "p", "text": "བོད\u0f0cཡིག"}, {"id": "q", "text": " "}])
    records = [translation("a", "一", "ཀ"), translation("b", "one", "ཀ", "en-bo"), {"id": "c", "task": "instruction"}]
    write_json_array(data / "tibetan_sft_test_filtered_4k.json", records)
    sets = own(data, directions=["en-bo", "zh-bo", "zh-en"], prompt_format="chat")
    assert [(s.name, s.language, s.ids, s.texts) for s in sets.texts] == [("held_out", "bo", ["p"], ["བོད\u0f0bཡིག"])]
    assert [(s.name, s.direction, s.records) for s in sets.translations] == [
        ("held_out", "en-bo", [records[1]]),
        ("held_out", "zh-bo", [records[0]]),
    ]
    assert sets.missing.keys() == {"translation.held_out.zh-en"}
    assert {Path(path).name for path in sets.files} == {"tibetan_cpt_test.json", "tibetan_sft_test_filtered_4k.json"}


def test_no_training_record_that_shares_a_text_with_a_test_record_is_an_example(data: Path) -> None:
    tests = [translation("a", "一", "ཀ"), translation("b", "two", "ཁ", "en-bo")]
    training = [translation("c", "三", "ག"), translation("d", "四", "ཁ"), translation("e", "一", "ང")]
    write_json_array(data / "tibetan_sft_test_filtered_4k.json", tests)
    write_json_array(data / "tibetan_sft_filtered_4k.json", [*training, *training])  # repeated, as mixtures do
    sets = own(data)
    assert [(s.direction, [r["id"] for r in s.examples]) for s in sets.translations] == [
        ("zh-bo", ["c", "c"]),
        ("en-bo", []),
    ]
    (data / "tibetan_sft_filtered_4k.json").unlink()
    assert own(data, num_fewshot=0).translations[0].examples == []
    with pytest.raises(UserError, match="way out"):
        own(data)


def test_an_empty_set_of_stage_1_is_missing(data: Path) -> None:
    for name in ("tibetan_cpt_test.json", "tibetan_sft_test_filtered_4k.json"):
        write_json_array(data / name, [])
    sets = own(data)
    assert (sets.texts, sets.translations) == ([], [])
    assert sets.missing.keys() == {"likelihood.held_out.bo", "translation.held_out"}


def test_records_that_stage_1_did_not_write_are_refused(data: Path) -> None:
    test = data / "tibetan_sft_test_filtered_4k.json"
    write_json_array(test, [{"id": "odd", "instruction": "ཀ"}])
    with pytest.raises(UserError, match=r"record 1 \(odd\).*`task`"):
        own(data)
    write_json_array(test, [translation("a", "一", "ཀ"), translation("a", "二", "ཁ")])
    with pytest.raises(UserError, match="2 records have the id 'a'"):
        own(data)


def test_items_are_the_same_in_any_order() -> None:
    assert sha256_of_items(["a", "b"]) == sha256_of_items(["b", "a"]) != sha256_of_items(["a", "b", "b"])


def test_labels_of_the_profiles_have_the_form_of_their_set() -> None:
    profiles = [load_language(path.stem) for path in (REPOSITORY / "configs/languages").glob("*.yaml")]
    labels = [label for profile in profiles for label in profile.flores]
    assert len(labels) == len(set(labels))
    assert all(len(label) == 8 and label[3] == "_" and label[4].isupper() for label in labels)
    ntrex_labels = [profile.ntrex for profile in profiles if profile.ntrex]
    assert len(ntrex_labels) == len(set(ntrex_labels))
    assert all(len(label.split("-")[0]) == 3 for label in ntrex_labels)


def test_the_recipes_own_files_can_be_left_out(tmp_path: Path) -> None:
    lines = {language: write_lines(tmp_path / f"{language}.txt", TEXTS[language]) for language in ("bo", "zh")}
    test_set = {"layout": "lines", "files": lines, "texts": ["zh"], "directions": ["zh-bo"]}
    found = read_test_sets(
        EvaluationSettings(
            dataset_dir=str(tmp_path / "nowhere"), likelihood_file=None, translation_file=None,
            test_sets={"x": test_set},
        ),
        "",
    )  # fmt: skip
    assert [(texts.name, texts.language) for texts in found.texts] == [("x", "zh")]
    assert [(each.name, each.direction) for each in found.translations] == [("x", "zh-bo")]
    assert sorted(found.files) == sorted(lines.values())


def test_no_direction_wanted_is_nothing_missing(data: Path) -> None:
    found = read_test_sets(EvaluationSettings(dataset_dir=str(data), directions=[]), "")
    assert found.translations == []
    assert found.missing == {}
