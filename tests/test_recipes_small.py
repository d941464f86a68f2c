"""Small forms of recipes, whole or in part: on real text where it is there, else on what they write themselves."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from langadapt.files import read_json_array
from langadapt.files.records import Record
from langadapt.recipe.training import load_training_settings
from langadapt.runs.commands import recipe_commands

DATA = REPOSITORY.parent / "shared" / "data"
needs_text = pytest.mark.skipif(not DATA.is_dir(), reason="needs the text of ../shared")


def run_small(recipe: str, wanted: str, **given: Path | str) -> str:
    """Run those of a recipe's small commands that match ``wanted``, in order; return what they printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        commands, _ = recipe_commands(recipe, True, {name: str(value) for name, value in given.items()})
    printed = ""
    for command in (each for each in commands if not each.made and re.search(wanted, each.line)):
        program, *arguments = shlex.split(command.line)
        done = subprocess.run(
            [sys.executable if program == "python" else program, *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command.line}\n{done.stdout}{done.stderr}"
        printed += done.stdout
    return printed


def texts_of(records: list[Record]) -> set[str]:
    return {record[key] for record in records for key in ("text", "source_text", "output") if key in record}


def assert_nothing_held_out_is_trained_on(folder: Path) -> None:
    train, test = (
        texts_of([record for path in folder.glob(f"*_{kind}.json") for record in read_json_array(path)])
        for kind in ("final", "test")
    )
    assert train
    assert test
    assert train.isdisjoint(test)


def assert_archive_holds_the_adapter(trained: Path, base: Path, folder: Path) -> None:
    """PEFT opens the archive, and merging it into the base gives the finished model."""
    with zipfile.ZipFile(trained / "adapter.zip") as archive:
        archive.extractall(folder)
    model, finished = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (base, trained))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = PeftModel.from_pretrained(model, folder / "adapter")
    assert adapted.peft_config["default"].r == 16
    merged = adapted.merge_and_unload().state_dict()
    found = finished.state_dict()
    assert all(torch.equal(weight, merged[name]) for name, weight in found.items())
    assert not torch.equal(found["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])


@needs_text
@pytest.mark.slow
def test_mongolian_qwen_lora_and_mongolian_vocabulary(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pairs = [json.loads(line) for line in (DATA / "en_mn.jsonl").read_text(encoding="utf-8").splitlines()[150:2000]]
    rows = [json.dumps({"src": pair["mn"], "tgt": pair["en"]}, ensure_ascii=False) for pair in pairs]
    (data / "mn-en-parallel.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (data / "mn_mono.jsonl").symlink_to(DATA / "mn_mono.jsonl")
    for name in ("extracted_input_output.json", "qwen_training_data.json"):
        (data / name).symlink_to(DATA / "upstream_layouts" / "mongolian_capstone" / name)
    out = tmp_path / "out"
    given = {"DATA": data, "BASE": tiny_model, "STEPS": "3"}
    said = run_small("mongolian_qwen_lora", r"[123]_", OUT=out, **given)
    assert len(re.findall(r"trainable parameters: [\d,]+ of [\d,]+ \(", said)) == 2
    assert_nothing_held_out_is_trained_on(out / "data")
    assert_archive_holds_the_adapter(out / "sft", out / "cpt", tmp_path)
    for chart in ("data/data_flow.png", "cpt/loss_curve.png", "sft/loss_curve.png"):
        assert (out / chart).is_file()

    shutil.copytree(out / "data", out / "vocabulary" / "data")
    said = run_small("mongolian_vocabulary", r"2_|4_.* cpt", OUT=out / "vocabulary", NEW="1000", **given)
    fertility = re.search(r"before: ([\d.]+) tokens.*\n.*after: ([\d.]+) tokens", said)
    assert fertility
    assert float(fertility[2]) < float(fertility[1]) / 2
    record = json.loads((out / "vocabulary" / "embeddings" / "extended_base" / "vocabulary.json").read_text())
    trained, total = re.findall(r"trainable parameters: ([\d,]+) of ([\d,]+) \(", said)[0]
    assert int(trained.replace(",", "")) == (record["rows"] - record["old_size"]) * 32 < int(total.replace(",", ""))
    base, embeddings = (
        AutoModelForCausalLM.from_pretrained(out / "vocabulary" / "embeddings" / name).get_input_embeddings().weight
        for name in ("extended_base", ".")
    )
    old = record["old_size"]
    assert torch.equal(base[:old], embeddings[:old])
    assert not torch.equal(base[old:], embeddings[old:])


@pytest.mark.slow
def test_a_decoder_recipe_from_raw_text_to_a_prompt(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run_small("classical_chinese_qwen3_4b_qlora", "", OUT=out, STEPS="3")
    steps = [int(number) for number in re.findall(r"^\[(\d)/6\]", said, re.MULTILINE)]
    assert list(dict.fromkeys(steps)) == [1, 2, 3, 4, 5, 6]
    assert re.search(r"trainable parameters: [\d,]+ of [\d,]+ \(", said)
    assert_nothing_held_out_is_trained_on(out / "data")
    assert_archive_holds_the_adapter(out / "sft", out / "base", tmp_path)
    predictions = (out / "evaluation" / "sft_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["direction"] for line in predictions} == {"zh_hant-lzh", "lzh-zh_hant"}
    for written in (
        "data/data_flow.png",
        "sft/loss_curve.png",
        "evaluation/translation_metrics_comparison.png",
        "evaluation/base_evaluation.json",
        "weights/analysis_summary.txt",
    ):
        assert (out / written).is_file()


@pytest.mark.slow
@pytest.mark.skipif(
    not (REPOSITORY / "configs" / "csas_opus_mt_en_fr" / "train.yaml").is_file(), reason="needs stage seq2seq"
)
def test_a_translator_recipe_from_raw_text_to_a_prompt(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_small("csas_opus_mt_en_fr", "", OUT=out, STEPS="3")
    assert_nothing_held_out_is_trained_on(out / "data")
    predictions = (out / "evaluation" / "opus_mt_en_fr_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["direction"] for line in predictions} == {"en-fr"}


def test_the_classical_chinese_recipe_has_the_published_hyperparameters() -> None:
    settings = load_training_settings(REPOSITORY / "configs" / "classical_chinese_qwen3_4b_qlora" / "sft.yaml")
    assert (settings.finetuning_type, settings.quantization_type) == ("qlora", "nf4")
    assert settings.double_quantization
    assert (settings.lora_rank, settings.lora_alpha, settings.lora_dropout) == (16, 32, 0.05)
    assert set(settings.lora_target) == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert (settings.per_device_train_batch_size, settings.gradient_accumulation_steps) == (4, 4)
    assert (settings.learning_rate, settings.lr_scheduler_type, settings.warmup_steps) == (2e-4, "cosine", 100)
    assert (settings.num_train_epochs, settings.cutoff_len, settings.bf16) == (3, 512, True)
    assert settings.optim == "paged_adamw_8bit"
    assert settings.adapter_archive


@needs_text
@pytest.mark.slow
def test_minimind_en_zh_hant(tmp_path: Path) -> None:
    """From raw text to bars: a tokenizer and a model from nothing, fine-tuning, an adapter for a domain."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    lines = (DATA / "en_zh_hant.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [{code: json.loads(line)[code] for code in ("en", "zh_hant")} for line in lines[:1700]]
    simplified = [json.loads(line)["zh"] for line in (DATA / "lzh_zh.jsonl").read_text(encoding="utf-8").splitlines()]
    files: dict[str, list[Record]] = {
        "pretrain.jsonl": [{"text": text} for text in simplified[:300]],
        "parallel.jsonl": pairs[:1200],
        "finance.jsonl": pairs[1300:],
        "sft.jsonl": [
            {
                "conversations": [
                    {"role": "user", "content": f"翻譯成繁體中文：{pair['en']}"},
                    {"role": "assistant", "content": pair["zh_hant"]},
                ]
            }
            for pair in pairs[1200:1300]
        ],
    }
    for name, rows in files.items():
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    wanted = r"[12]_|3_.*/(sft|lora)\.yaml|4_.*_name lora "  # preferences take a model that has learned something
    run_small("minimind_en_zh_hant", wanted, DATA=data, OUT=out, STEPS="10")
    for name in ("data", "finance"):
        assert_nothing_held_out_is_trained_on(out / name)
    held_out = texts_of(read_json_array(out / "finance" / "finance_sft_test.json"))
    assert held_out.isdisjoint(texts_of(read_json_array(out / "data" / "minimind_sft_final.json")))
    texts = {record["text"] for record in read_json_array(out / "data" / "minimind_cpt_final.json")}
    assert held_out.isdisjoint(texts)
    assert any("學" in text for text in texts)
    assert not any("学" in text for text in texts), "OpenCC left Simplified text"
    for folder in ("pretrain", "lora"):
        tokenizer, theirs = (AutoTokenizer.from_pretrained(out / name) for name in ("tokenizer", folder))
        assert theirs("The bank. 銀行").input_ids == tokenizer("The bank. 銀行").input_ids
        assert AutoModelForCausalLM.from_pretrained(out / folder).config.model_type == "llama"
    assert (out / "lora" / "adapter.zip").is_file()
    verdicts = json.loads((out / "evaluation" / "evaluation_bars.json").read_text(encoding="utf-8"))
    assert {verdict["outcome"] for verdict in verdicts} == {"not measured"}
    assert [verdict["measured"] for verdict in verdicts] == [
        "no model pretrain was evaluated",
        "no model sft was evaluated",
        "comet_model was not set",
        "no model dpo was evaluated",
    ]
