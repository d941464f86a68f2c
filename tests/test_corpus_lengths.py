"""Token lengths by the batch, and the shortcut by bytes: the same as one record after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, TIBETAN
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langadapt.corpus import lengths
from langadapt.models import conversation, encode_conversation, encode_text

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH, "", "<|im_end|> written as text", "e\u0301 zwölf 十二", "x" * 100]
RECORDS = [{"task": "lm", "text": text} for text in TEXTS]
RECORDS += [{"task": "instruction", "instruction": a, "input": "", "output": b} for a in TEXTS[::3] for b in TEXTS if a]
RECORDS += [
    {
        "task": "instruction",
        "instruction": "q",
        "output": "a",
        "system": "s",
        "history": [["x", "yy"], ["z", TIBETAN[0]]],
    }
]
RECORDS = [{"id": str(k), **record} for k, record in enumerate(RECORDS)]


def one_by_one(tokenizer, record) -> int:
    if record["task"] == "lm":
        return len(encode_text(tokenizer, record["text"])) + 1
    return len(encode_conversation(tokenizer, conversation(record))[0])


def test_batches_and_shortcut_equal_one_by_one(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = lengths.open_tokenizer(str(tiny_model), None)
    expected = [one_by_one(tokenizer, record) for record in RECORDS]
    assert lengths.token_lengths(tokenizer, RECORDS) == expected
    assert lengths.bounded_by_bytes(tokenizer)
    tokenised: list[int] = []
    count = lengths.token_lengths
    monkeypatch.setattr(lengths, "token_lengths", lambda t, r: tokenised.append(len(r)) or count(t, r))
    for cutoff in (1, 5, 20, 50, 100, 150, 400):
        assert lengths.Cutoff(tokenizer, cutoff).excess(RECORDS) == [n if n > cutoff else 0 for n in expected]
    assert tokenised[-1] == 0, "nothing has 400 bytes"
    assert tokenised[0] > 0


def test_other_tokenizers_take_no_shortcut() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not lengths.bounded_by_bytes(PreTrainedTokenizerFast(tokenizer_object=backend))
