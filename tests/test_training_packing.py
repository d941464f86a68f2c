"""Packing: best fit, every piece once, isolated documents learn what they learn alone."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN
from hypothesis import given, settings, strategies
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from langadapt.files import write_json_array
from langadapt.models import encode_text, load_tokenizer
from langadapt.models.chat import IGNORE
from langadapt.recipe.training import Packing, load_training_settings
from langadapt.training.best_fit import best_fit, pack
from langadapt.training.data import Tokens, prepare_tokens
from langadapt.training.packing import Blocks, Collator, describe, efficiency, show_block

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH, "།".join(TIBETAN * 2)]
CUTOFF = 50


def tokens_of(stage: str, model: Path, folder: Path, packing: Packing, cutoff: int = CUTOFF) -> Tokens:
    folder.mkdir(exist_ok=True)
    data = folder / "data.json"
    records = (
        [{"text": text} for text in TEXTS]
        if stage == "pt"
        else [{"instruction": a, "input": "", "output": b} for a, b in zip(TEXTS, reversed(TEXTS), strict=True)]
    )
    write_json_array(data, records)
    keys = {
        "stage": stage,
        "model_name_or_path": model,
        "dataset": data,
        "cutoff_len": cutoff,
        "output_dir": folder,
        "packing": packing,
    }
    recipe = load_training_settings(None, [f"{key}={value}" for key, value in keys.items()])
    return prepare_tokens(str(data), recipe, load_tokenizer(str(model)), folder / f"tokens-{packing}")


def by_hand(lengths: list[int], capacity: int) -> list[int]:
    """Best fit, one piece at a time over all blocks; return how full each block is, sorted."""
    filled: list[int] = []
    for length in lengths:
        fitting = [block for block, used in enumerate(filled) if used + length <= capacity]
        if fitting:
            filled[max(fitting, key=lambda block: filled[block])] += length
        else:
            filled.append(length)
    return sorted(filled)


@settings(deadline=None)
@given(strategies.lists(strategies.integers(1, 30), min_size=1, max_size=200), strategies.integers(30, 60))
def test_each_piece_goes_into_the_block_that_it_fills_best(lengths: list[int], capacity: int) -> None:
    filled = np.bincount(best_fit(lengths, capacity), weights=lengths)
    assert sorted(filled) == by_hand(lengths, capacity)


@settings(deadline=None)
@given(strategies.lists(strategies.integers(1, 30), min_size=1, max_size=200), strategies.integers(0, 3))
def test_every_piece_stands_in_one_block_that_it_fits(lengths: list[int], seed: int) -> None:
    order, bounds = pack(np.array(lengths), 30, seed)
    assert sorted(order) == list(range(len(lengths)))
    assert (bounds[0], bounds[-1]) == (0, len(lengths))
    for start, end in pairwise(bounds):
        assert 1 <= sum(lengths[piece] for piece in order[start:end]) <= 30
        assert list(order[start:end]) == sorted(order[start:end])


def test_the_order_of_blocks_is_the_seeds_alone_and_not_that_of_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 500)
    order, bounds = pack(lengths, 400, seed=1)
    again, _ = pack(lengths, 400, seed=1)
    other, _ = pack(lengths, 400, seed=2)
    assert np.array_equal(order, again)
    assert not np.array_equal(order, other)
    longest = [lengths[order[a:b]].max() for a, b in pairwise(bounds)]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.3


def test_long_pieces_come_first_and_short_ones_are_mixed() -> None:
    lengths = np.random.default_rng(0).integers(1, 401, 2000)
    order, bounds = pack(lengths, 400, seed=1)
    blocks = [lengths[order[a:b]] for a, b in pairwise(bounds)]
    long_only = [block[block > 100] for block in blocks]
    decreasing = sorted(lengths[lengths > 100].tolist(), reverse=True)
    assert sorted(block.sum() for block in long_only if len(block)) == by_hand(decreasing, 400)
    short_only = [block[block <= 100] for block in blocks if (block <= 100).sum() > 1]
    within = np.mean([block.std() for block in short_only])
    assert within > 0.5 * lengths[lengths <= 100].std()
    assert lengths.sum() > 0.98 * 400 * len(blocks)


@pytest.mark.parametrize("packing", ["isolated", "joined", "none"])
def test_blocks_hold_every_token_once(tiny_model: Path, tmp_path: Path, packing: Packing) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    end = tokenizer.eos_token_id
    documents = [[end, *encode_text(tokenizer, text), end] for text in TEXTS]
    expected = [tuple(ids[a : a + CUTOFF]) for ids in documents for a in range(0, len(ids), CUTOFF)]
    tokens = tokens_of("pt", tiny_model, tmp_path, packing)
    found = []
    for block in Blocks(tokens, packing):
        assert len(block["input_ids"]) <= CUTOFF
        starts = np.flatnonzero(block["position_ids"] == 0)
        if packing == "joined":
            assert np.array_equal(block["position_ids"], np.arange(len(block["input_ids"])))
        else:
            found += [tuple(piece) for piece in np.split(block["input_ids"], starts[1:])]
            assert (block["labels"][starts] == IGNORE).all()
        if packing == "none":
            assert len(starts) == 1
    if packing == "joined":
        together = np.concatenate([block["input_ids"] for block in Blocks(tokens, packing)])
        assert sorted(together) == sorted(token for piece in expected for token in piece)
    elif packing == "none":
        assert found == expected
    else:
        assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("stage", ["pt", "sft"])
def test_packed_loss_and_gradient_equal_those_of_the_same_documents_one_by_one(
    tiny_model: Path, tmp_path: Path, stage: str, attention: str
) -> None:
    """A document that saw another, or a token learned from another, would change both. Batches of three are padded."""
    cutoff = CUTOFF if stage == "pt" else 120
    packed = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention)
    alone, joined = copy.deepcopy(packed), copy.deepcopy(packed)
    blocks = Blocks(tokens_of(stage, tiny_model, tmp_path, "isolated", cutoff), "isolated")
    assert len(blocks) < len(Blocks(tokens_of(stage, tiny_model, tmp_path, "none", cutoff), "none"))

    def summed(model: torch.nn.Module, packing: Packing) -> tuple[float, int]:
        examples = list(Blocks(tokens_of(stage, tiny_model, tmp_path, packing, cutoff), packing))
        size = 1 if packing == "none" else 3
        total, learned = 0.0, 0
        for start in range(0, len(examples), size):
            batch = Collator(0)(examples[start : start + size])
            # Unpacked, the model gets nothing but the tokens: that is what packing has to equal.
            more = {} if packing == "none" else {"position_ids": batch["position_ids"]}
            logits = model(input_ids=batch["input_ids"], use_cache=False, **more).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORE)
            loss.backward()
            total, learned = total + loss.item(), learned + int((labels != IGNORE).sum())
        return total, learned

    (loss, learned), (loss_alone, learned_alone) = summed(packed, "isolated"), summed(alone, "none")
    assert learned == learned_alone == blocks.tokens.counts.learned
    assert loss == pytest.approx(loss_alone, rel=1e-6)
    for ours, theirs in zip(packed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    loss_joined, learned_joined = summed(joined, "joined")
    assert learned_joined == learned
    assert loss_joined != pytest.approx(loss, rel=1e-6)


def test_a_flat_batch_is_the_same_row_by_row(tiny_model: Path, tmp_path: Path) -> None:
    """And no padding is in it: every token of the blocks, and the same loss."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokens = tokens_of("pt", tiny_model, tmp_path, "isolated")
    stacked, flat = (Collator(0, flat=flat)(list(Blocks(tokens, "isolated"))) for flat in (False, True))
    assert flat["num_tokens"] == stacked["num_tokens"] == len(tokens.ids)
    assert flat["input_ids"].shape == (1, len(tokens.ids))
    assert stacked["input_ids"].numel() > len(tokens.ids)
    losses = []
    for batch in (stacked, flat):
        batch.pop("num_tokens")
        losses.append(model(**batch, use_cache=False).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_what_was_packed_and_cut_is_said(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("pt", tiny_model, tmp_path, "isolated")
    lengths = np.diff(tokens.pieces)
    blocks = len(tokens.blocks) - 1
    assert efficiency(tokens, CUTOFF) == lengths.sum() / (blocks * CUTOFF)
    assert tokens.counts.cut == 1
    said = "\n".join(describe(tokens, CUTOFF, "isolated"))
    assert f"13 records, {lengths.sum():,} tokens, {tokens.counts.learned:,} learned" in said
    assert f"into {blocks} blocks of 50 tokens, isolated: {len(lengths) / blocks:.1f} documents a block" in said
    assert f"1 document longer than cutoff_len=50 cut, which makes {len(lengths) - 13} further pieces" in said


def test_a_block_is_shown_with_its_borders_and_what_is_not_learned(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tokens_of("sft", tiny_model, tmp_path, "none", cutoff=200)
    shown = show_block(tokens, load_tokenizer(str(tiny_model)))
    assert shown.startswith(f"  [1] «<|im_start|>user\n{TEXTS[0]}<|im_end|>\n<|im_start|>assistant\n»")
    assert shown.endswith("<|im_end|>«\n»")
    packed = tokens_of("pt", tiny_model, tmp_path, "isolated", cutoff=500)
    lines = show_block(packed, load_tokenizer(str(tiny_model))).split("\n")
    assert [line[:5] for line in lines] == ["  [1]", "  [2]", "  [3]", "  [4]"]
    assert lines[0] == f"  [1] «<|endoftext|>»{TEXTS[0]}<|endoftext|>"
    assert lines[-1] == f"  [4] ({packed.blocks[1] - 3} more)"


@pytest.mark.parametrize("packing", ["isolated", "none"])
def test_a_document_one_token_longer_than_a_block_still_learns_its_end(
    tiny_model: Path, tmp_path: Path, packing: Packing
) -> None:
    whole = tokens_of("pt", tiny_model, tmp_path, packing, cutoff=500)
    lengths = np.diff(whole.pieces)
    cut = tokens_of("pt", tiny_model, tmp_path / "cut", packing, cutoff=int(lengths[0]) - 1)
    assert np.diff(cut.pieces)[:2].tolist() == [lengths[0] - 2, 2]
    assert cut.learned[lengths[0] - 1]
    assert np.array_equal(cut.ids, whole.ids)
