"""Attention document by document is the same attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import losses, recipe, train
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from langadapt.errors import UserError
from langadapt.models.folder import SINGLE
from langadapt.training.attention import BY_DOCUMENT, can_attend_by_document, set_attention

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
SIZES |= {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}


def model_of(kind: str, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **changes}))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "olmo2", "gemma", "phi3", "smollm3"])
def test_it_is_that_of_the_mask_in_value_and_gradient(kind: str) -> None:
    """Rows of one, two and four documents, the last being padding."""
    model = model_of(kind, sliding_window=None, pad_token_id=None)
    assert can_attend_by_document(model)
    ids = torch.randint(100, (3, 24))
    documents = ([24], [10, 14], [1, 9, 6, 8])
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in documents])
    found = {}
    for attention in ("eager", BY_DOCUMENT):
        model.set_attn_implementation(attention)
        loss = model(input_ids=ids, labels=ids, position_ids=positions, use_cache=False).loss
        loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found[attention] = loss.item(), gradients
        model.zero_grad()
    assert found[BY_DOCUMENT][0] == pytest.approx(found["eager"][0], rel=1e-6)
    for name, gradient in found["eager"][1].items():
        assert torch.allclose(found[BY_DOCUMENT][1][name], gradient, atol=1e-6), name


@pytest.mark.parametrize(
    ("kind", "isolated", "said"),
    [
        ("falcon", True, r"a falcon model, in which the documents of a block see each other\. Set packing: none"),
        ("qwen3_next", True, "see each other"),
        ("falcon", False, None),
        ("bloom", False, "takes no positions"),
    ],
)
def test_models_in_which_documents_see_each_other_are_refused(kind: str, isolated: bool, said: str | None) -> None:
    model = model_of(kind)
    if said is None:
        set_attention(model, BY_DOCUMENT, isolated)
        return
    with pytest.raises(UserError, match=said):
        set_attention(model, BY_DOCUMENT, isolated)


@pytest.mark.parametrize(
    ("kind", "used"),
    # The mask of OPT knows nothing of positions; GPT-BigCode's attention is told none; Gemma 2 caps its scores.
    [("opt", BY_DOCUMENT), ("gpt_bigcode", "sdpa"), ("gemma2", "eager")],
)
def test_a_model_that_cannot_have_it_gets_what_it_can(kind: str, used: str) -> None:
    model = model_of(kind, **({"word_embed_proj_dim": 32, "ffn_dim": 64} if kind == "opt" else {}))
    set_attention(model, BY_DOCUMENT, isolated=kind == "opt")
    assert model.config._attn_implementation == used


def test_models_whose_attention_is_another_keep_theirs() -> None:
    assert not can_attend_by_document(model_of("mistral", sliding_window=8))
    assert not can_attend_by_document(model_of("gemma2"))
    assert not can_attend_by_document(model_of("gemma3_text"))


def test_a_run_takes_it_and_the_saved_model_knows_nothing_of_it(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    runs = {}
    for attention in ("auto", "sdpa"):
        output = train(recipe("pt", tiny_model, data, tmp_path / attention, attn_implementation=attention))
        assert "by_document" not in (output / "config.json").read_text()
        runs[attention] = [loss for _, loss in losses(output)], (output / SINGLE).read_bytes()
    assert runs["auto"][0] == pytest.approx(runs["sdpa"][0], rel=1e-5)
    assert runs["auto"][1] != runs["sdpa"][1], "the last bits tell that it was another computation"
