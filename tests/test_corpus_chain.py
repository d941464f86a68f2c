"""Stage 1 as a user runs it: on files in the upstream layouts, good and broken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from langadapt.corpus.drawing import TWIN
from langadapt.corpus.twins import TwinIndex

NUMBER_OF_PAIRS = 60
MIX = "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json"
WORDS_BO = ["བོད", "སྐད", "ཡིག", "གནམ", "གཤིས", "ཡག", "པོ", "འདུག", "སློབ", "སྦྱོང", "བྱེད", "ཆེན", "གལ", "ནི", "དེ", "རིང"]
WORDS_ZH = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
WORDS_EN = ["sky", "earth", "dark", "time", "space", "moon", "sun", "star", "cold", "heat", "rain", "dew"]


def sentence(number: int) -> dict[str, str]:
    """One document in three languages; the number tells which belong together, the words differ from any other's."""
    steps = range(12)
    return {
        "bo": "་".join(WORDS_BO[(number * (k + 3) + k * k) % len(WORDS_BO)] for k in steps) + f"་{number + 1000}།",
        "zh": "".join(WORDS_ZH[(number * (k + 5) + k * k) % len(WORDS_ZH)] for k in steps) + f"{number + 1000}。",
        "en": " ".join(WORDS_EN[(number * (k + 7) + k * k) % len(WORDS_EN)] for k in steps) + f" {number + 1000}.",
    }


def write_sources(root: Path, documents: Iterable[dict[str, str]]) -> None:
    documents = list(documents)
    parallel = root / "CUTE-Datasets/parallel-corpus"
    parallel.mkdir(parents=True)
    for code in ("bo", "zh", "en"):
        lines = "".join(document[code] + "\n" for document in documents)
        (parallel / f"{code}.txt").write_text(lines, encoding="utf-8")
    mono = root / "CUTE-Datasets/non-parallel-corpus/n-bo.txt"
    mono.parent.mkdir()
    # The first monolingual documents contain parallel sentences: they must not be trained on if those are held out.
    own = [f"{sentence(n)['bo']} {sentence(n + 500)['bo']}" for n in range(0, NUMBER_OF_PAIRS, 3)]
    mono.write_text("".join(line + "\n" for line in own), encoding="utf-8")
    mix = root / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json"
    mix.parent.mkdir()
    records = [
        {"instruction": "བོད་ཡིག་འབྲི་རོགས།", "input": sentence(n)["bo"], "output": sentence(n + 700)["bo"]}
        for n in range(30)
    ]
    records += [{"instruction": sentence(n)["zh"], "input": "", "output": sentence(n)["bo"]} for n in range(20, 50)]
    records += [
        {"instruction": f"问{sentence(n + 300)['zh']}", "input": "", "output": sentence(n + 800)["zh"]}
        for n in range(40)
    ]
    records += [
        {"instruction": sentence(1)["bo"], "input": "", "output": "Kiribati"},
        {"instruction": "问", "input": "", "output": " "},
    ]
    mix.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    write_sources(tmp_path / "data", map(sentence, range(NUMBER_OF_PAIRS)))
    return tmp_path / "data"


@pytest.fixture
def stage_1(run_script: Callable, tiny_model: Path, tmp_path: Path) -> Callable:
    def run(data: Path, *overrides: str):
        fixed = [f"data_dir={data}", f"tokenizer={tiny_model}", f"output_dir={tmp_path / 'out'}"]
        fixed.append("deduplicate.near=null")  # the sentences here are near each other by design
        return run_script("1_preprocess.py", *fixed, *overrides)

    return run


def read(tmp_path: Path, name: str):
    return json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))


def test_chain_accounts_for_every_record_and_leaks_nothing(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    result = stage_1(sources)
    assert result.returncode == 0, result.stderr
    report = read(tmp_path, "data_report.json")
    for name, draw in report["draws"].items():
        used = draw["held out"] + draw[TWIN] + sum(draw["left out as unlike pairs"].values()) + draw["drawn"]
        assert used == draw["available"], name
    mix = report["sources"]["mix"]
    assert mix["records"] == sum(mix["by direction"].values()) + sum(mix["dropped"].values()) == 102

    # No held-out number may occur in training: a sentence and its translations share theirs and no other.
    def numbers_in(name: str) -> set[int]:
        texts = json.dumps(read(tmp_path, name), ensure_ascii=False)
        return {n for n in range(1000, 1000 + NUMBER_OF_PAIRS) if str(n) in texts}

    held_out = numbers_in("tibetan_cpt_test.json") | numbers_in("tibetan_sft_test.json")
    trained = numbers_in("tibetan_cpt_final.json") | numbers_in("tibetan_sft_final.json")
    assert held_out
    assert not held_out & trained

    translations = [
        r for r in read(tmp_path, "tibetan_sft_final.json") if r["task"] == "translation" and r["source"] == "cute"
    ]
    assert translations
    by_bo = {sentence(n)["bo"]: n for n in range(NUMBER_OF_PAIRS)}
    for record in translations:
        assert record["source_text"] == sentence(by_bo[record["output"]])[record["source_lang"]]
        assert record["source_text"] in record["instruction"]


def test_same_seed_same_files_and_another_seed_other_files(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    hashes = []
    for seed in (1, 1, 2):
        assert stage_1(sources, f"seed={seed}").returncode == 0
        hashes.append({name: file["sha256"] for name, file in read(tmp_path, "data_report.json")["files"].items()})
    assert hashes[0] == hashes[1] != hashes[2]


def test_blank_line_drops_one_text_and_shifts_nothing(stage_1: Callable, tmp_path: Path) -> None:
    documents = [sentence(n) for n in range(NUMBER_OF_PAIRS)]
    documents[7]["zh"] = ""
    documents[30]["en"] = "  "
    write_sources(tmp_path / "data", documents)
    assert stage_1(tmp_path / "data").returncode == 0
    cute = read(tmp_path, "data_report.json")["sources"]["cute"]
    assert {code: texts["dropped"].get("blank", 0) for code, texts in cute["texts"].items()} == {
        "bo": 0,
        "zh": 1,
        "en": 1,
    }
    assert (
        cute["parts"]["translation zh-bo"]["kept"] == cute["parts"]["translation en-bo"]["kept"] == NUMBER_OF_PAIRS - 1
    )
    pairs = {(r["source_text"], r["output"]) for r in read(tmp_path, "tibetan_sft_final.json") if r["source"] == "cute"}
    true = {(sentence(n)[code], sentence(n)["bo"]) for n in range(NUMBER_OF_PAIRS) for code in ("zh", "en")}
    assert pairs <= true


def test_pairs_longer_than_the_cutoff_are_cut_where_both_texts_have_a_sentence_end(
    stage_1: Callable, tmp_path: Path
) -> None:
    join = {"bo": " ", "zh": "", "en": " "}
    documents = [
        {code: gap.join(sentence(10 * n + k)[code] for k in range(8)) for code, gap in join.items()}
        for n in range(NUMBER_OF_PAIRS)
    ]
    write_sources(tmp_path / "data", documents)
    assert stage_1(tmp_path / "data", "cutoff_len=600", "split_long_pairs=false").returncode == 0
    whole = [r for r in read(tmp_path, "tibetan_sft_final.json") if r["source"] == "cute"]
    fitting = [r for r in read(tmp_path, "tibetan_sft_filtered_600.json") if r["source"] == "cute"]
    assert whole
    assert not fitting
    assert stage_1(tmp_path / "data", "cutoff_len=600").returncode == 0
    pieces = [r for r in read(tmp_path, "tibetan_sft_filtered_600.json") if r["source"] == "cute"]
    assert len(pieces) > len(whole)
    for record in pieces:
        assert re.fullmatch(r"cute:\d+:(zh|en)-bo/\d", record["id"])
        asked, answered = (re.findall(r"\d{4}", record[key]) for key in ("source_text", "output"))
        assert asked == answered != []
    drawn = read(tmp_path, "data_report.json")["draws"]["cute translation zh-bo"]
    assert drawn["more by cutting long pairs"] > 0


def test_odd_lines_and_records_are_counted_and_stop_nothing(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    parallel = sources / "CUTE-Datasets/parallel-corpus"
    lines = {code: (parallel / f"{code}.txt").read_text(encoding="utf-8").split("\n") for code in ("bo", "zh")}
    lines["zh"][3] = "\u200b"  # blank to the eye and after normalisation
    lines["bo"][5] = "An English line where Tibetan should be 1005."
    for code, text in lines.items():
        (parallel / f"{code}.txt").write_text("\r\n".join(text), encoding="utf-8-sig")
    records = json.loads((sources / MIX).read_text(encoding="utf-8"))
    records[0] = {"instruction": "", "input": records[0]["input"], "output": records[0]["output"]}
    records[1]["input"] = None
    (sources / MIX).write_text(json.dumps(records), encoding="utf-8")
    assert stage_1(sources).returncode == 0
    cute = read(tmp_path, "data_report.json")["sources"]["cute"]
    assert cute["texts"]["zh"]["dropped"] == {"blank": 1}
    assert cute["texts"]["bo"]["dropped"] == {"script_share: another script": 1}
    assert cute["parts"]["translation zh-bo"]["kept"] == NUMBER_OF_PAIRS - 2
    sft = [*read(tmp_path, "tibetan_sft_final.json"), *read(tmp_path, "tibetan_sft_test.json")]
    assert all(record["instruction"] for record in sft)
    assert all(record["text"].strip("\u200b") for record in read(tmp_path, "tibetan_cpt_final.json"))


def test_files_of_another_cutoff_do_not_stay_behind(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    assert stage_1(sources, "cutoff_len=120").returncode == 0
    assert stage_1(sources, "seed=2").returncode == 0
    written = {path.name for path in (tmp_path / "out").glob("tibetan_*.json")}
    assert written == set(read(tmp_path, "data_report.json")["files"])


def test_a_recipe_without_continual_pretraining_has_empty_files_of_it(
    stage_1: Callable, sources: Path, tmp_path: Path
) -> None:
    result = stage_1(sources, "cpt=null")
    assert result.returncode == 0, result.stderr
    for name in ("cpt_final", "cpt_test"):
        assert read(tmp_path, f"tibetan_{name}.json") == []
    assert read(tmp_path, "tibetan_sft_final.json")
    assert "held-out cpt" not in result.stdout


def test_anchors_stay_within_their_share(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    assert stage_1(sources).returncode == 0
    for name in ("tibetan_sft_final.json", "tibetan_sft_filtered_4k.json"):
        records = read(tmp_path, name)
        anchors = sum(record["target_lang"] == "zh" for record in records)
        assert 0 < anchors <= 0.2 * len(records)
        assert (anchors + 1) > 0.2 * (len(records) + 1), "cut further than needed"


def test_filtered_files_hold_what_fits_and_are_named_by_the_cutoff(
    stage_1: Callable, sources: Path, tmp_path: Path, tiny_model: Path
) -> None:
    from langadapt.corpus.lengths import open_tokenizer
    from langadapt.models import conversation, encode_conversation

    assert stage_1(sources, "cutoff_len=120").returncode == 0
    tokenizer = open_tokenizer(str(tiny_model), None)
    everything = read(tmp_path, "tibetan_sft_test.json")
    fitting = [record for record in everything if len(encode_conversation(tokenizer, conversation(record))[0]) <= 120]
    assert read(tmp_path, "tibetan_sft_test_filtered_120.json") == fitting
    assert 0 < len(fitting) < len(everything)


@pytest.mark.parametrize(
    ("file", "damage", "expected"),
    [
        ("CUTE-Datasets/parallel-corpus/zh.txt", None, ["zh.txt: no such file", "--download"]),
        ("CUTE-Datasets/parallel-corpus/en.txt", b"", ["en.txt: the file is empty"]),
        ("CUTE-Datasets/non-parallel-corpus/n-bo.txt", b"ok\n\xff\xfe\n", ["n-bo.txt, line 2: not valid UTF-8"]),
        (MIX, b'[{"instruction": "a",\n "output" }]', ["line 1: broken JSON"]),
        (MIX, b'[{"instruction": 1}]', ["line 1: `instruction` is int, expected a text"]),
        (MIX, b'{"a": 1}', ["line 1: none of `instruction`"]),
    ],
)  # fmt: skip
def test_broken_input_is_named_and_nothing_is_written(
    stage_1: Callable, sources: Path, tmp_path: Path, file: str, damage: bytes | None, expected: list[str]
) -> None:
    (sources / file).unlink()
    if damage is not None:
        (sources / file).write_bytes(damage)
    result = stage_1(sources)
    assert result.returncode == 2
    assert all(part in result.stderr for part in expected), result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_failing_run_leaves_the_old_result(stage_1: Callable, sources: Path, tmp_path: Path) -> None:
    assert stage_1(sources).returncode == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (sources / "CUTE-Datasets/parallel-corpus/zh.txt").unlink()
    assert stage_1(sources).returncode == 2
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_unknown_keys_are_reported_together_with_line_and_nearest_name(run_script: Callable, tmp_path: Path) -> None:
    recipe = yaml.safe_load(Path("configs/tibetan_qwen2.5_3b/preprocess.yaml").read_text(encoding="utf-8"))
    recipe["cutof_len"] = 1
    recipe["test"]["cpd"] = 3
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    result = run_script("1_preprocess.py", "--config", tmp_path / "r.yaml", "sed=1")
    assert result.returncode == 2
    for part in ("3 problems", "`cutoff_len`", "`cpt`", "`seed`", "command line", "r.yaml, line"):
        assert part in result.stderr, result.stderr


def test_download_without_network_is_one_clear_error(stage_1: Callable, sources: Path) -> None:
    result = stage_1(sources, "--download")
    assert result.returncode == 2
    assert "CMLI-NLP/CUTE-Datasets" in result.stderr
    assert "Traceback" not in result.stderr


def test_real_samples_are_paired_and_leak_free(stage_1: Callable, tmp_path: Path) -> None:
    """On the samples of the upstream layouts, where the instruction data quotes the parallel text."""
    samples = Path(__file__).resolve().parents[2] / "shared/data/upstream_layouts"
    if not samples.is_dir():
        pytest.skip("needs the sample files in ../shared/data/upstream_layouts")
    data = tmp_path / "data"
    shutil.copytree(samples, data, copy_function=shutil.copyfile)
    assert stage_1(data).returncode == 0
    index = TwinIndex()
    for record in read(tmp_path, "tibetan_cpt_test.json"):
        index.add(record["id"], [record["text"]])
    for record in read(tmp_path, "tibetan_cpt_final.json"):
        assert index.find([record["text"]]) is None
    report = read(tmp_path, "data_report.json")
    assert report["sources"]["cute"]["documents"] == 300
    assert report["draws"]["cute lm bo"][TWIN] + report["draws"]["cute_mono lm bo"][TWIN] > 0


def test_the_report_compares_tokenizers_on_every_language(
    stage_1: Callable, sources: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    assert stage_1(sources, f"tokenizer_report=[{other}]").returncode == 0
    table = read(tmp_path, "data_report.json")["tokenizers"]
    assert list(table["languages"]) == ["bo", "zh", "en"]
    assert list(table["tokenizers"]) == [tiny_model.name, "other"]
    assert table["tokenizers"]["other"] == table["tokenizers"][tiny_model.name]
    text = (tmp_path / "out/data_report.md").read_text(encoding="utf-8")
    assert all(f"| {code} | {name} | " in text for code in ("bo", "zh", "en") for name in (tiny_model.name, "other"))
    assert (tmp_path / "out/data_tokenizers.png").read_bytes().startswith(b"\x89PNG")
