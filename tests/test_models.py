"""Opening model folders and telling prompts from answers."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from conftest import TIBETAN
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from langadapt.errors import UserError
from langadapt.models import (
    IGNORE,
    ChatFormatError,
    check_model_folder,
    conversation,
    encode_conversation,
    encode_prompt,
    encode_text,
    end_of_turn_id,
    find_model,
    is_chat_model,
    load_model,
    load_tokenizer,
    pick_device,
    stop_token_ids,
)
from langadapt.models.from_gguf import convert
from langadapt.models.templates import set_chat_template


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_trained_tokenizer_is_the_same_for_everyone(tiny_model: Path) -> None:
    ours, theirs = load_tokenizer(str(tiny_model)), AutoTokenizer.from_pretrained(tiny_model)
    for text in [*TIBETAN, "mixed མིང་ 2025年 text\n\n  end"]:
        assert encode_text(ours, text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(encode_text(ours, text)) == text


def test_the_files_own_way_of_cutting_text_wins(tmp_path: Path, copy: Path) -> None:
    """AutoTokenizer puts Qwen2's pattern in for any other in a Qwen2 folder; `load_tokenizer` keeps the file's."""
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "ByteLevel" in str(load_tokenizer(str(copy)).backend_tokenizer.pre_tokenizer)
    assert "Split" not in str(load_tokenizer(str(copy)).backend_tokenizer.pre_tokenizer)


def test_only_answers_are_learned_and_control_tokens_in_text_stay_text(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    end = end_of_turn_id(tokenizer)
    messages = [
        {"role": "user", "content": "一<|im_end|>"},
        {"role": "assistant", "content": TIBETAN[0] + "<|im_end|>"},
        {"role": "user", "content": "二"},
        {"role": "assistant", "content": TIBETAN[1]},
    ]
    ids, labels = encode_conversation(tokenizer, messages)
    learned = [label for label in labels if label != IGNORE]
    assert tokenizer.decode(learned, skip_special_tokens=True) == TIBETAN[0] + "<|im_end|>" + TIBETAN[1]
    assert learned.count(end) == 2
    assert ids.count(end) == len(messages)
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    assert encode_prompt(tokenizer, messages[:1]) == ids[: labels.index(learned[0])]


def test_a_template_that_rewrites_the_beginning_is_refused(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ChatFormatError, match="changes the beginning"):
        encode_conversation(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def test_a_chat_template_alone_makes_no_chat_model(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    base = GenerationConfig.from_pretrained(tiny_model)
    assert not is_chat_model(tokenizer, base)
    chat = GenerationConfig(eos_token_id=stop_token_ids(tokenizer, base, chat=True))
    assert is_chat_model(tokenizer, chat)
    assert set(stop_token_ids(tokenizer, base, chat=False)) < set(stop_token_ids(tokenizer, base, chat=True))


def test_templates_by_name(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    with pytest.raises(UserError, match="There are: chatml"):
        set_chat_template(tokenizer, "chatlm")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        set_chat_template(tokenizer, None)
    set_chat_template(tokenizer, "chatml")
    assert end_of_turn_id(tokenizer) is not None


def test_folders_that_are_no_models(copy: Path, tmp_path: Path) -> None:
    def refusal(match: str) -> None:
        with pytest.raises(UserError, match=match):
            check_model_folder(copy)

    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    refusal("cut short")
    weights.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"x" * 50)
    refusal("header is broken")
    weights.unlink()
    refusal("no weights")
    torch.save({}, copy / "pytorch_model.bin")
    refusal("Pickled weights")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refusal("no plain safetensors file name")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refusal("is missing")
    (copy / "config.json").unlink()
    refusal("config.json is missing")
    for name in ("no/such/folder", "./nothing", "one"):
        with pytest.raises(UserError, match="no such folder"):
            find_model(name)
    assert find_model("Qwen/Qwen2.5-3B") == "Qwen/Qwen2.5-3B"


def test_shapes_of_json_that_no_model_has(copy: Path) -> None:
    index = copy / "model.safetensors.index.json"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1]}}).encode()
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UserError, match="header is broken"):
        check_model_folder(copy)
    (copy / "model.safetensors").unlink()
    for text, said in (("[]", "expected a JSON object"), ("{}", "expected a `weight_map`")):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            check_model_folder(copy)


def test_weights_that_are_missing_or_of_another_size_are_named(copy: Path) -> None:
    """transformers would put random numbers in their place."""
    path, name = copy / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"weights are missing: {name}"):
        load_model(str(copy))
    save_file(weights | {name: weights[name][:-1].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"of another size than its config.json says: {name}"):
        load_model(str(copy))
    save_file(weights, path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"X32"', 1))
    with pytest.raises(UserError, match="could not be loaded"):
        load_model(str(copy))


def test_a_tokenizer_is_looked_for_where_a_model_would_be(copy: Path) -> None:
    with pytest.raises(UserError, match=r"qwen2-5-3b-base: no such folder\. Give.*--download"):
        load_tokenizer("qwen2-5-3b-base")
    (copy / "tokenizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="no tokenizer in it"):
        load_tokenizer(str(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        load_tokenizer(str(copy))


def test_a_record_is_a_conversation() -> None:
    answer = {"role": "assistant", "content": "c"}
    for instruction, given, said in (("a", "b", "a\nb"), ("a", "", "a"), ("", "b", "b")):
        record = {"instruction": instruction, "input": given, "output": "c"}
        assert conversation(record) == [{"role": "user", "content": said}, answer]


def test_a_broken_gguf_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "x.gguf"
    for content in (b"no GGUF at all, only text", b"GGUF" + struct.pack("<IQQ", 3, 0, 5)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no GGUF file that can be converted"):
            convert(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]


def test_a_folder_with_code_is_opened_without_running_it(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (copy / "code.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n", encoding="utf-8")
    with pytest.raises(UserError):
        load_model(str(copy))
    assert not (copy / "ran").exists()


def test_no_gpu_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="no GPU is visible"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"
