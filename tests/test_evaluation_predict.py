"""Prediction files: every instruction answered once, in the input's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHINESE, TIBETAN
from peft import LoraConfig, get_peft_model

from langadapt.errors import UserError
from langadapt.evaluation.generation import predict as module
from langadapt.evaluation.generation.engine import open_engine
from langadapt.evaluation.generation.predict import predict
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.files import read_json_array, write_json_array
from langadapt.models import encode_prompt, load_model, load_tokenizer, stop_token_ids
from langadapt.recipe.evaluation import EvaluationSettings

Record = dict[str, Any]
ALONE = Ranks()
RECORDS = [
    {"id": "b", "instruction": "翻译：" + CHINESE[0] * 3},
    {"id": 7, "instruction": "翻译：", "input": CHINESE[1]},
    {"id": None, "instruction": CHINESE[2], "system": "简短。", "history": [[CHINESE[3], TIBETAN[3]]]},
    {"id": "a", "instruction": CHINESE[3], "input": None, "output": "not looked at"},
]
PROMPTS = [
    [{"role": "user", "content": "翻译：" + CHINESE[0] * 3}],
    [{"role": "user", "content": "翻译：\n" + CHINESE[1]}],
    [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": CHINESE[3]},
        {"role": "assistant", "content": TIBETAN[3]},
        {"role": "user", "content": CHINESE[2]},
    ],
    [{"role": "user", "content": CHINESE[3]}],
]


@pytest.fixture(scope="module")
def varied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with large random weights, so that its greedy answers vary."""
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    folder = tmp_path_factory.mktemp("varied_model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_json_array(tmp_path / "input.json", RECORDS)
    return tmp_path / "input.json"


def settings(model: Path, **changes: Any) -> EvaluationSettings:
    return EvaluationSettings(
        **{"model_path": str(model), "model_name": "m", "device": "cpu", "max_new_tokens": 12} | changes
    )


def expected(model_path: Path) -> list[str]:
    """The oracle: transformers' generate, one at a time."""
    model, tokenizer = load_model(str(model_path)), load_tokenizer(str(model_path))
    stops = stop_token_ids(tokenizer, model.generation_config, chat=True)
    answers = []
    for messages in PROMPTS:
        ids = torch.tensor([encode_prompt(tokenizer, messages)])
        new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, eos_token_id=stops)
        answers.append(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_every_record_is_answered_in_order(varied_model: Path, source: Path, tmp_path: Path) -> None:
    done = predict(settings(varied_model), source, tmp_path / "out" / "predictions.json", ALONE)
    answers = expected(varied_model)
    assert len({*answers}) == 4
    written = [{"id": name, "output": answer} for name, answer in zip(["b", 7, "2", "a"], answers, strict=True)]
    text = (tmp_path / "out" / "predictions.json").read_text(encoding="utf-8")
    assert json.loads(text) == written
    assert len(text.splitlines()) == 2 + len(RECORDS)
    assert (done["records"], done["cut_off"], done["batches"], done["resumed"]) == (4, done["cut_off"], 1, 0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]

    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
    (tmp_path / "input.jsonl").write_text(f"{lines}\n", encoding="utf-8")
    predict(settings(varied_model), tmp_path / "input.jsonl", tmp_path / "from_lines.json", ALONE)
    assert read_json_array(tmp_path / "from_lines.json") == written


def test_an_adapter_answers_as_its_base_with_it_merged(varied_model: Path, source: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapter = get_peft_model(load_model(str(varied_model)), config)
    adapter.peft_config["default"].base_model_name_or_path = str(varied_model)
    adapter.save_pretrained(tmp_path / "adapter")
    predict(settings(tmp_path / "adapter"), source, tmp_path / "predictions.json", ALONE)
    outputs = [record["output"] for record in read_json_array(tmp_path / "predictions.json")]
    assert outputs == expected(tmp_path / "adapter") != expected(varied_model)


def test_a_run_that_died_goes_on(
    varied_model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying_engine(asked: EvaluationSettings, ranks: Ranks) -> Any:
        engine = open_engine(asked, ranks)
        generate = engine.generate

        def two_answers(*arguments: Any, **options: Any) -> Any:
            yield from list(generate(*arguments, **options))[:2]
            raise KeyboardInterrupt

        object.__setattr__(engine, "generate", two_answers)
        return engine

    output = tmp_path / "predictions.json"
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_engine", dying_engine)
        with pytest.raises(KeyboardInterrupt):
            predict(settings(varied_model), source, output, ALONE)
    assert not output.exists()
    assert len((tmp_path / "predictions.partial.jsonl").read_bytes().splitlines()) == 3
    done = predict(settings(varied_model), source, output, ALONE)
    assert done["resumed"] == 2
    assert [record["output"] for record in read_json_array(output)] == expected(varied_model)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"id": "a", "instruction": "x"}, r"record 5: its id 'a' is that of record 4"),
        ({"instruction": ""}, "record 5: no text under `instruction`"),
        ({"instruction": "x", "input": 3}, "record 5: `input` is no text"),
        ({"instruction": "x", "system": 3}, "record 5: `system` is no text"),
        ({"instruction": "x", "history": [["x"]]}, "record 5: `history` is no list of"),
        ({"instruction": "x", "history": "xy"}, "record 5: `history` is no list of"),
        ({"id": [1], "instruction": "x"}, r"record 5: `id` is \[1\]"),
        ({"instruction": "字" * 700}, "'4': the text takes .* holds 512"),
    ],
)
def test_a_record_that_cannot_be_answered_is_named(
    varied_model: Path, tmp_path: Path, record: Record, said: str
) -> None:
    write_json_array(tmp_path / "input.json", [*RECORDS, record])
    with pytest.raises(UserError, match=said):
        predict(settings(varied_model), tmp_path / "input.json", tmp_path / "predictions.json", ALONE)
    assert not (tmp_path / "predictions.json").exists()


def test_answers_never_replace_the_instructions(varied_model: Path, source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(UserError, match="Choose another --output"):
        predict(settings(varied_model), source, source.parent / "." / source.name, ALONE)
    assert source.read_bytes() == before


def test_a_model_without_a_chat_template_is_refused(varied_model: Path, source: Path, tmp_path: Path) -> None:
    load_model(str(varied_model)).save_pretrained(tmp_path / "bare")
    tokenizer = load_tokenizer(str(varied_model))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="no chat template"):
        predict(settings(tmp_path / "bare"), source, tmp_path / "predictions.json", ALONE)
