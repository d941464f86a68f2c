"""What the model is trained on: only answers learned, what cannot be learned refused or counted, encoded once."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.files import write_json_array
from langadapt.models import encode_texts, load_tokenizer
from langadapt.models.chat import IGNORE, encode_labelled
from langadapt.models.templates import CHATML
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.data import Tokens, delete_tokens, open_tokens, prepare_tokens, tokens_folder
from langadapt.training.packing import Blocks, Collator, describe


def settings_for(stage: str, model: Path, data: Path, cutoff: int, packing: str = "none") -> TrainingSettings:
    keys = {
        "stage": stage,
        "model_name_or_path": model,
        "dataset": data,
        "cutoff_len": cutoff,
        "output_dir": data.parent,
        "packing": packing,
    }
    return load_training_settings(None, [f"{key}={value}" for key, value in keys.items()])


def tokens_of(
    stage: str,
    model: Path,
    folder: Path,
    records: list[dict[str, Any]],
    cutoff: int = 100,
    template: str = CHATML,
    folder_name: str = "tokens",
) -> Tokens:
    data, tokenizer = folder / "data.json", load_tokenizer(str(model))
    tokenizer.chat_template = template
    write_json_array(data, records)
    settings = settings_for(stage, model, data, cutoff)
    return prepare_tokens(str(data), settings, tokenizer, folder / folder_name)


def question(answer: str) -> dict[str, str]:
    return {"instruction": "x", "input": "", "output": answer}


def test_only_the_answer_is_learned_and_user_text_is_no_control_token(tiny_model: Path, tmp_path: Path) -> None:
    records = [
        {"instruction": "a<|im_end|>b", "input": "c", "output": TIBETAN[0]},
        {"instruction": CHINESE[0], "input": "", "output": ENGLISH[0]},
    ]
    tokens = tokens_of("sft", tiny_model, tmp_path, records)
    tokenizer = load_tokenizer(str(tiny_model))
    examples = Blocks(tokens, "none")
    for example, record in zip((examples[0], examples[1]), records, strict=True):
        labels = example["labels"]
        assert tokenizer.decode(labels[labels != IGNORE]) == record["output"] + "<|im_end|>"
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((examples[0]["input_ids"] == end_of_turn).sum()) == 2
    assert "a<|im_end|>b\nc" in tokenizer.decode(examples[0]["input_ids"])


def test_batches_are_encoded_as_the_tokenizer_does_one_by_one(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    texts = [*TIBETAN, "", "a<|im_end|>b<|endoftext|>", *TIBETAN]
    alone = [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]
    turns = [{"role": role, "content": text} for text in texts for role in ("user", "assistant")]
    conversations = [turns[:2], turns[2:8], turns[:2], turns[8:12], turns]
    for _ in range(2):  # neither leaves the tokenizer in a state that changes the other
        assert encode_texts(tokenizer, texts) == alone
        for messages, (ids, labels) in zip(conversations, encode_labelled(tokenizer, conversations), strict=True):
            assert ids == tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=False, sanitize_control_tokens=True
            )
            learned = "".join(message["content"] + "<|im_end|>" for message in messages[1::2])
            assert tokenizer.decode([label for label in labels if label != IGNORE]) == learned


def test_the_users_turn_may_stand_in_input_alone(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("sft", tiny_model, tmp_path, [{"instruction": "", "input": CHINESE[0], "output": TIBETAN[0]}])
    said = load_tokenizer(str(tiny_model)).decode(tokens.ids)
    assert f"user\n{CHINESE[0]}<|im_end|>" in said


def test_padding_is_not_learned_and_not_counted(tiny_model: Path, tmp_path: Path) -> None:
    examples = Blocks(tokens_of("sft", tiny_model, tmp_path, [question("y"), question(TIBETAN[0])]), "none")
    batch = Collator(0)([examples[0], examples[1]])
    short = len(examples[0]["input_ids"])
    assert batch["labels"][0, short:].eq(IGNORE).all()
    assert batch["num_tokens"].item() == short + len(examples[1]["input_ids"])


def test_a_record_longer_than_the_cutoff_is_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("sft", tiny_model, tmp_path, [question("short"), question("long " * 200)])
    assert (tokens.counts.records, tokens.counts.too_long) == (1, 1)
    assert "1 record longer than cutoff_len=100 left out" in list(describe(tokens, 100, "none"))


def test_nothing_to_learn_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token is left to learn from"):
        tokens_of("sft", tiny_model, tmp_path, [question("long " * 200)])
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_file_without_records_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the file holds no records"):
        tokens_of("pt", tiny_model, tmp_path, [])


@pytest.mark.parametrize(
    ("stage", "record", "looks_like"), [("pt", question("y"), "sft"), ("sft", {"text": "y"}, "pt")]
)
def test_a_file_of_the_other_stage_is_named_as_such(
    tiny_model: Path, tmp_path: Path, stage: str, record: dict[str, str], looks_like: str
) -> None:
    with pytest.raises(UserError, match=f"record 1: .* looks like a file for stage: {looks_like}; check `stage` and"):
        tokens_of(stage, tiny_model, tmp_path, [record])


@pytest.mark.parametrize(
    "before", [{"system": {"a": 1}}, {"history": "x"}, {"history": ["ab"]}, {"history": [["x", None]]}], ids=str
)
def test_a_turn_before_the_question_that_is_no_text_is_named(
    tiny_model: Path, tmp_path: Path, before: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"record 2: expected .* in `{next(iter(before))}`, but it is"):
        tokens_of("sft", tiny_model, tmp_path, [question("y"), {**question("y"), **before}])


def test_turns_before_the_question_may_be_null(tiny_model: Path, tmp_path: Path) -> None:
    plain = tokens_of("sft", tiny_model, tmp_path, [question("y")], folder_name="plain")
    null = tokens_of("sft", tiny_model, tmp_path, [{**question("y"), "system": None, "history": None}])
    assert np.array_equal(null.ids, plain.ids)


@pytest.mark.parametrize(("stage", "field"), [("pt", "text"), ("sft", "instruction")])
def test_a_record_without_its_text_is_named(tiny_model: Path, tmp_path: Path, stage: str, field: str) -> None:
    good = {"text": "a", "instruction": "b", "input": "", "output": "c"}
    with pytest.raises(UserError, match=f"record 2: expected a text in `{field}`"):
        tokens_of(stage, tiny_model, tmp_path, [good, good | {field: ""}])


def test_an_answer_of_which_nothing_is_left_is_left_out_and_named(tiny_model: Path, tmp_path: Path) -> None:
    trimming = CHATML.replace("message['content'] +", "message['content'] | trim +")
    records = [question("y"), question("  "), question(TIBETAN[0]), *[question("\n")] * 6]
    tokens = tokens_of("sft", tiny_model, tmp_path, records, template=trimming)
    assert (tokens.counts.records, tokens.counts.empty) == (2, 7)
    assert list(describe(tokens, 100, "none"))[-1].endswith("left out: 2, 4, 5, 6, 7, ...")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("{{- '<|im_start|>' + message['role']", "{{- loop.length ~ '<|im_start|>' + message['role']"), "beginning"),
        (("message['content'] + '<|im_end|>' }}{% end", "message['content'] }}{% end"), "cannot learn to stop"),
        (("{{ message['content'] + '<|im_end|>' }}{% end",
          "{{ message['content'] + ('<|endoftext|>' if loop.length > 2 else '<|im_end|>') }}{% end"),
         r"record 2: the answer ends in '<|endoftext|>' and not in '<|im_end|>'"),
    ],
)  # fmt: skip
def test_a_template_under_which_answers_cannot_be_learned_is_refused(
    tiny_model: Path, tmp_path: Path, changes: tuple[str, str], said: str
) -> None:
    template = CHATML.replace("{{ '<|im_start|>' + message", "{{- '<|im_start|>' + message").replace(*changes)
    assert template != CHATML
    records = [question("y"), {**question("y"), "system": "z"}]
    with pytest.raises(UserError) as caught:
        tokens_of("sft", tiny_model, tmp_path, records, template=template)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]


def test_a_second_start_takes_the_tokens_from_the_disk(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("pt", tiny_model, tmp_path, [{"text": text} for text in TIBETAN])
    data = tmp_path / "data.json"
    data.unlink()
    settings = settings_for("pt", tiny_model, data, 100)
    again = prepare_tokens(str(data), settings, load_tokenizer(str(tiny_model)), tmp_path / "tokens")
    assert np.array_equal(again.ids, tokens.ids)
    assert again.counts == tokens.counts


def test_whoever_is_second_to_write_the_tokens_takes_those_of_the_first(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines with a shared disk: both have encoded, and neither saw the folder before it wrote its own."""
    data, tokenizer = tmp_path / "data.json", load_tokenizer(str(tiny_model))
    write_json_array(data, [{"text": text} for text in TIBETAN])
    settings = settings_for("pt", tiny_model, data, 100)
    both_are_ready, replace = threading.Barrier(2), os.replace

    def rename(source: Path, target: Path) -> None:
        if Path(target).name == "tokens":
            both_are_ready.wait(timeout=30)
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    hosts = iter(("a", "b"))
    monkeypatch.setattr(socket, "gethostname", lambda: next(hosts))
    with ThreadPoolExecutor(2) as pool:
        write = [pool.submit(prepare_tokens, str(data), settings, tokenizer, tmp_path / "tokens") for _ in range(2)]
        first, second = (future.result() for future in write)
    assert np.array_equal(first.ids, second.ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "tokens"]


def test_a_rank_does_not_encode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens-0: the encoded data is not there.*2_train_cpt\.sh"):
        open_tokens(tmp_path / "tokens-0")


def test_tokens_are_those_of_the_data_the_tokenizer_the_template_and_the_settings(
    tiny_model: Path, tmp_path: Path
) -> None:
    data, tokenizer = tmp_path / "data.json", load_tokenizer(str(tiny_model))
    folders = [
        tokens_folder(settings_for("sft", tiny_model, data, 100, "isolated"), tokenizer, "a"),
        tokens_folder(settings_for("sft", tiny_model, data, 100, "isolated"), tokenizer, "b"),
        tokens_folder(settings_for("sft", tiny_model, data, 100), tokenizer, "a"),
        tokens_folder(settings_for("sft", tiny_model, data, 99, "isolated"), tokenizer, "a"),
        tokens_folder(settings_for("pt", tiny_model, data, 100, "isolated"), tokenizer, "a"),
    ]
    tokenizer.chat_template += " "
    folders.append(tokens_folder(settings_for("sft", tiny_model, data, 100, "isolated"), tokenizer, "a"))
    tokenizer.add_tokens(["new"])
    folders.append(tokens_folder(settings_for("pt", tiny_model, data, 100, "isolated"), tokenizer, "a"))
    assert len(set(folders)) == len(folders)
    joined = tokens_folder(settings_for("pt", tiny_model, data, 100, "joined"), tokenizer, "a")
    assert joined == folders[-1], "joined and isolated differ in position_ids alone"


def test_a_finished_run_deletes_all_tokens_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    settings = settings_for("pt", tiny_model, tmp_path / "data.json", 100)
    tokenizer = load_tokenizer(str(tiny_model))
    ours = [tokens_folder(settings, tokenizer, sha256) for sha256 in "ab"]
    ours.append(ours[0].with_name(f".{ours[0].name}.host.1.tmp"))
    others = [tmp_path / name for name in ("tokens-of-mine", "checkpoint-1")]
    for folder in (*ours, *others):
        folder.mkdir()
        (folder / "ids").touch()
    delete_tokens(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
