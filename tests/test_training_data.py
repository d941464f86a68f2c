"""What the model is trained on: every token once, nothing seen across documents, only answers learned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.files import write_json_array
from langadapt.models import encode_text, load_model, load_tokenizer
from langadapt.models.chat import IGNORE
from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.data import Tokens, prepare_tokens
from langadapt.training.packing import Collator, Conversations, PackedBlocks

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH, "།".join(TIBETAN * 2)]


def settings_for(stage: str, model: Path, data: Path, cutoff: int) -> TrainingSettings:
    keys = {
        "stage": stage,
        "model_name_or_path": model,
        "dataset": data,
        "cutoff_len": cutoff,
        "output_dir": data.parent,
    }
    return load_training_settings(None, [f"{key}={value}" for key, value in keys.items()])


def tokens_of(stage: str, model: Path, folder: Path, records: list[dict[str, str]], cutoff: int = 100) -> Tokens:
    data = folder / "data.json"
    write_json_array(data, records)
    return prepare_tokens(settings_for(stage, model, data, cutoff), load_tokenizer(str(model)), folder / "tokens")


@pytest.fixture
def documents(tiny_model: Path, tmp_path: Path) -> Tokens:
    return tokens_of("pt", tiny_model, tmp_path, [{"text": text} for text in TEXTS])


def test_blocks_hold_every_token_once_in_order(tiny_model: Path, documents: Tokens) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    end = tokenizer.eos_token_id
    expected = [token for text in TEXTS for token in (end, *encode_text(tokenizer, text), end)]
    blocks = PackedBlocks(documents, 50)
    assert [token for block in blocks for token in block["input_ids"]] == expected
    assert [len(blocks[i]["input_ids"]) for i in range(len(blocks))][:-1] == [50] * (len(blocks) - 1)


@pytest.mark.parametrize("length", [7, 50, 10_000])
def test_positions_restart_at_each_document_and_block(documents: Tokens, length: int) -> None:
    expected, position, ends = [], 0, set(documents.ends.tolist())
    for index in range(len(documents.ids)):
        position = 0 if index % length == 0 or index in ends else position
        expected.append(position)
        position += 1
    blocks = PackedBlocks(documents, length)
    assert [p for i in range(len(blocks)) for p in blocks[i]["position_ids"]] == expected


def test_packed_loss_equals_that_of_documents_one_by_one(tiny_model: Path, documents: Tokens) -> None:
    """A document that saw another would have another loss. Two blocks a batch, so one of them is padded."""
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    length, end = 50, tokenizer.eos_token_id
    blocks = PackedBlocks(documents, length)
    packed, learned = 0.0, 0
    for start in range(0, len(blocks), 2):
        batch = Collator(0)([blocks[i] for i in range(start, min(start + 2, len(blocks)))])
        batch.pop("num_tokens")
        count = int((batch["labels"][:, 1:] != IGNORE).sum())
        with torch.no_grad():
            packed += float(model(**batch, use_cache=False).loss) * count
        learned += count

    alone, alone_learned, offset = 0.0, 0, 0
    for text in TEXTS:
        ids = [end, *encode_text(tokenizer, text), end]
        cuts = [0, *[i for i in range(1, len(ids)) if (offset + i) % length == 0], len(ids)]
        for begin, stop in pairwise(cuts):
            if stop - begin > 1:
                piece = torch.tensor([ids[begin:stop]])
                with torch.no_grad():
                    alone += float(model(input_ids=piece, labels=piece).loss) * (stop - begin - 1)
                alone_learned += stop - begin - 1
        offset += len(ids)
    assert learned == alone_learned
    assert packed / learned == pytest.approx(alone / alone_learned, rel=1e-5)


def test_only_the_answer_is_learned_and_user_text_is_no_control_token(tiny_model: Path, tmp_path: Path) -> None:
    records = [
        {"instruction": "a<|im_end|>b", "input": "c", "output": TIBETAN[0]},
        {"instruction": CHINESE[0], "input": "", "output": ENGLISH[0]},
    ]
    tokens = tokens_of("sft", tiny_model, tmp_path, records)
    tokenizer = load_tokenizer(str(tiny_model))
    examples = Conversations(tokens)
    for example, record in zip((examples[0], examples[1]), records, strict=True):
        labels = example["labels"]
        assert tokenizer.decode(labels[labels != IGNORE]) == record["output"] + "<|im_end|>"
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((examples[0]["input_ids"] == end_of_turn).sum()) == 2
    assert "a<|im_end|>b\nc" in tokenizer.decode(examples[0]["input_ids"])


def test_the_users_turn_may_stand_in_input_alone(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("sft", tiny_model, tmp_path, [{"instruction": "", "input": CHINESE[0], "output": TIBETAN[0]}])
    said = load_tokenizer(str(tiny_model)).decode(tokens.ids)
    assert f"user\n{CHINESE[0]}<|im_end|>" in said


def test_padding_is_not_learned_and_not_counted(tiny_model: Path, tmp_path: Path) -> None:
    records = [{"instruction": "x", "input": "", "output": text} for text in ("y", TIBETAN[0])]
    examples = Conversations(tokens_of("sft", tiny_model, tmp_path, records))
    batch = Collator(0)([examples[0], examples[1]])
    short = len(examples[0]["input_ids"])
    assert batch["labels"][0, short:].eq(IGNORE).all()
    assert batch["num_tokens"].item() == short + len(examples[1]["input_ids"])


def test_a_record_longer_than_the_cutoff_is_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    records = [{"instruction": "x", "input": "", "output": text} for text in ("short", "long " * 200)]
    tokens = tokens_of("sft", tiny_model, tmp_path, records)
    assert (len(tokens.ends), tokens.skipped) == (1, 1)


def test_nothing_to_learn_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token is left to learn from"):
        tokens_of("sft", tiny_model, tmp_path, [{"instruction": "x", "input": "", "output": "long " * 200}])


@pytest.mark.parametrize(("stage", "field"), [("pt", "text"), ("sft", "instruction")])
def test_a_record_without_its_text_is_named(tiny_model: Path, tmp_path: Path, stage: str, field: str) -> None:
    good = {"text": "a", "instruction": "b", "input": "", "output": "c"}
    with pytest.raises(UserError, match=f"record 2: expected a text in `{field}`"):
        tokens_of(stage, tiny_model, tmp_path, [good, good | {field: ""}])


def test_a_second_start_takes_the_tokens_from_the_disk(tiny_model: Path, tmp_path: Path, documents: Tokens) -> None:
    data = tmp_path / "data.json"
    data.unlink()
    again = prepare_tokens(
        settings_for("pt", tiny_model, data, 100), load_tokenizer(str(tiny_model)), tmp_path / "tokens"
    )
    assert np.array_equal(again.ids, documents.ids)
