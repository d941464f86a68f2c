"""An answer appears while it is written, in whole characters and whole stacks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import regex
import torch
from conftest import CHINESE, ENGLISH, TIBETAN
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from langadapt.inference.output import printable
from langadapt.inference.streaming import TextStream, stream_answer
from langadapt.models import load_model, load_tokenizer
from langadapt.recipe.inference import Sampling


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_model))


def bytes_as_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The worst cut there is: a token for every byte."""
    symbols = bytes_to_unicode()
    return [tokenizer.convert_tokens_to_ids(symbols[byte]) for byte in text.encode()]


TEXTS = [*TIBETAN, *CHINESE, *ENGLISH, "རྒྱལ་བའི་བསྒྲུབས་པ། 👩‍👩‍👧 café e\u0301\n\nཨོཾ་མ་ཎི་པདྨེ་ཧཱུྃ།"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_clusters_and_together_the_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.add(token) for token in bytes_as_tokens(tokenizer, text)]
    pieces.append(stream.end())
    assert "".join(pieces) == text == stream.text
    clusters = regex.findall(r"\X", text)
    assert [cluster for piece in pieces for cluster in regex.findall(r"\X", piece)] == clusters
    # No more than one cluster is held back: the text appears as it is written, not at its end.
    assert sum(1 for piece in pieces if piece) == len(clusters)


def test_any_tokens_at_all_give_the_text_of_the_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    draw = random.Random(0)
    for _ in range(300):
        tokens = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 40))]
        stream = TextStream(tokenizer)
        shown = "".join(stream.add(token) for token in tokens)
        assert shown + stream.end() == tokenizer.decode(tokens, skip_special_tokens=True)


def test_greedy_answers_equal_those_of_generate(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_model(str(tiny_model))
    prompt = tokenizer(TIBETAN[0])["input_ids"]
    pieces: list[str] = []
    answer = stream_answer(
        model, tokenizer, prompt, stop_ids=[399], sampling=Sampling(max_new_tokens=20), emit=pieces.append
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=20, eos_token_id=[399], pad_token_id=399)
    expected = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
    assert answer.text == "".join(pieces) == tokenizer.decode(expected, skip_special_tokens=True)
    assert (answer.token_count, answer.prompt_tokens, answer.stop_reason) == (20, len(prompt), "length")
    assert 0 < answer.first_token_seconds <= answer.seconds


def test_a_seed_repeats_a_sampled_answer(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    model = load_model(str(tiny_model))

    def sampled(seed: int) -> str:
        torch.manual_seed(seed)
        sampling = Sampling(max_new_tokens=20, temperature=1.0, top_p=0.95, top_k=50)
        return stream_answer(model, tokenizer, [60, 61], stop_ids=[], sampling=sampling, emit=lambda piece: None).text

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_request_to_stop_ends_the_answer(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    seen: list[str] = []
    answer = stream_answer(
        load_model(str(tiny_model)),
        tokenizer,
        [60, 61],
        stop_ids=[],
        sampling=Sampling(max_new_tokens=400),
        emit=seen.append,
        stop_requested=lambda: len("".join(seen)) > 5,
    )
    assert answer.stop_reason == "interrupted"
    assert answer.token_count < 400
    assert "".join(seen) == answer.text


def test_a_terminal_is_shown_text_and_obeys_none_of_it() -> None:
    assert printable("\x1b[2J\x07\r\x7f\x9b31m\u202e") == "␛[2J␇␍␡\ufffd31m\ufffd"
    for text in [*TEXTS, "a\n\tb"]:
        assert printable(text) == text
