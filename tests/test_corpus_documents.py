"""Stage 1 for translators: pairs of publications, a validation set, and no publication on two sides."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import REPOSITORY
from transformers import AutoTokenizer

from langadapt.corpus.check import prove_disjoint
from langadapt.corpus.lengths import Cutoff, open_tokenizer
from langadapt.corpus.templates import Templates
from langadapt.errors import UserError
from langadapt.files import read_json_array, read_json_object, write_json_array
from langadapt.models.small_translator import make_small_translator
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings

CONFIG = REPOSITORY / "configs" / "csas" / "preprocess.yaml"
PUBLICATIONS, SENTENCES = 40, 10
ENGLISH = ["river", "lake", "fish", "water", "salt", "ice", "shore", "tide", "catch", "survey", "storm", "harbour"]
FRENCH = ["fleuve", "lac", "poisson", "eau", "sel", "glace", "rive", "marée", "prise", "relevé", "orage", "port"]


def publications() -> list[tuple[str | None, str, str]]:
    """Sentences of 40 publications as (number, English, French); every tenth does not say where it is from."""
    chance = random.Random(1)
    rows = []
    for number in range(PUBLICATIONS * SENTENCES):
        words = [chance.randrange(len(ENGLISH)) for _ in range(12)]
        sides = (" ".join(vocabulary[k] for k in words) for vocabulary in (ENGLISH, FRENCH))
        name = None if number % 10 == 0 else f"2020-{number // SENTENCES:03}"
        rows.append((name, *(f"{side} {number}." for side in sides)))
    return rows


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m2m100")
    rows = publications()
    make_small_translator("m2m100", {"en": [row[1] for row in rows], "fr": [row[2] for row in rows]}, folder)
    return folder


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, translator: Path, run_script: Callable[..., subprocess.CompletedProcess]
) -> Path:
    """What stage 1 makes of the publications with the shipped recipe."""
    root = tmp_path_factory.mktemp("csas")
    lines = []
    for name, english, french in publications():
        known = {} if name is None else {"pub_number": name}
        lines += [{"source": english, "target": french, "source_lang": "en", **known}]
        lines += [{"source": french, "target": english, "source_lang": "fr", **known}]
    (root / "training_data.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    done = run_script(
        "1_preprocess.py",
        *("--config", CONFIG, f"data_dir={root}", f"tokenizer={translator}", f"output_dir={root / 'out'}"),
        *("test.sft=40", "validation.share=0.1", "workers=1"),
    )
    assert done.returncode == 0, done.stderr
    return root / "out"


def records(folder: Path, *parts: str) -> list[dict]:
    return [record for part in parts for record in read_json_array(folder / f"csas_sft_{part}.json")]


def test_no_publication_and_no_sentence_stands_on_two_sides(written: Path) -> None:
    number_of = {text: name for name, *texts in publications() for text in texts}
    sides = [records(written, part) for part in ("test", "valid", "final")]
    assert [len(side) for side in sides[:2]] == [40, 80]
    assert len(sides[2]) > 400
    for k, side in enumerate(sides):
        for other in sides[k + 1 :]:
            for key in (number_of.get, str):
                mine, theirs = ({key(r[t]) for r in some for t in ("source_text", "output")} for some in (side, other))
                assert not (mine - {None}) & theirs
    for record in (record for side in sides for record in side):
        assert record.get("document") == number_of[record["source_text"]]


def test_held_out_records_come_from_few_publications_and_both_directions(written: Path) -> None:
    test = records(written, "test")
    assert {(record["source_lang"], record["target_lang"]) for record in test} == {("en", "fr"), ("fr", "en")}
    assert len({record["document"] for record in test if "document" in record}) <= 8


def test_every_pair_is_trained_on_both_ways(written: Path) -> None:
    pairs = {
        way: {(record["source_text"], record["output"]) for record in records(written, "final") if way in record["id"]}
        for way in ("en-fr", "fr-en")
    }
    assert {pair[::-1] for pair in pairs["fr-en"]} == pairs["en-fr"]


def test_the_report_vouches_for_the_validation_set_and_counts_it(written: Path) -> None:
    report = read_json_object(written / "data_report.json")
    assert {"csas_sft_valid.json", "csas_sft_valid_filtered_512.json"} <= report["files"].keys()
    assert report["disjoint"]["validation records, compared with them"] == 80
    assert report["held out"]["sft validation"] == {"wanted": 80, "held out": 80}
    assert report["sources"]["publications"]["named documents"] == PUBLICATIONS


@pytest.mark.parametrize(("stolen", "put_into"), [("test", "valid"), ("test", "final"), ("valid", "final")])
@pytest.mark.parametrize("text", [True, False])
def test_the_proof_finds_text_and_publications_that_leak(
    written: Path, tmp_path: Path, stolen: str, put_into: str, text: bool
) -> None:
    for path in written.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    report = read_json_object(written / "data_report.json")
    leak = next(record for record in records(written, stolen) if "document" in record)
    if text:
        leak = {key: value for key, value in leak.items() if key != "document"}
    else:
        leak = {**leak, "source_text": "nothing like it", "output": "rien de tel"}
    write_json_array(tmp_path / f"csas_sft_{put_into}.json", [*records(written, put_into), leak])
    with pytest.raises(UserError, match="is a twin of" if text else "is of the document of"):
        prove_disjoint(tmp_path, report, Templates.of(report["templates"]), [], lambda share: None)


def test_lengths_of_a_translation_are_those_of_its_longer_side(translator: Path) -> None:
    plain = AutoTokenizer.from_pretrained(translator)
    sides = {"source_text": "river lake fish", "output": "fleuve lac poisson eau sel glace rive"}
    lengths = [len(plain(text)["input_ids"]) for text in sides.values()]
    assert lengths[0] < lengths[1]
    record = {"id": "1", "task": "translation", "source_lang": "en", "target_lang": "fr", **sides}
    for cutoff, excess in ((lengths[1], 0), (lengths[1] - 1, lengths[1])):
        assert Cutoff(open_tokenizer(str(translator), None), cutoff).excess([record]) == [excess]


def test_a_translator_counts_no_other_records(translator: Path) -> None:
    record = {"id": "7", "task": "lm", "text": "river"}
    with pytest.raises(UserError, match=r"record 7 is of task lm\. Set cpt: null"):
        Cutoff(open_tokenizer(str(translator), None), 512).excess([record])


@pytest.mark.parametrize("keys", [["validation={}"], ["validation.count=10"], ["validation.share=1.5"]])
def test_a_validation_set_has_one_size(keys: Sequence[str]) -> None:
    with pytest.raises(UserError, match="validation"):
        load_settings(PreprocessSettings, CONFIG, keys)
