"""A new tokenizer and a new model, from text and from a size: where there is nothing to start from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models.folder import first_line
from langadapt.models.templates import CHATML, control_tokens

END_OF_TEXT = "<|endoftext|>"
BYTES_ONLY = 259  # tokens of a vocabulary without merges: 256 bytes, three control tokens


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the ChatML template, trained on ``texts``; it can encode any text.

    ``vocab_size`` counts everything: the 256 bytes, the merges and the three control tokens. Text is cut before the
    merges as Qwen2 cuts it, because `AutoTokenizer` puts Qwen2's own pattern in for any other in a Qwen2 folder, in
    silence. That pattern starts a new piece at every combining mark, so no merge spans a Tibetan vowel sign.
    """
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    specials = control_tokens("chatml")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials) - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.chat_template = CHATML
    return tokenizer


def new_qwen2(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int, heads: int, max_length: int, seed: int
) -> Qwen2ForCausalLM:
    """Return a Qwen2 model: random float32 weights, tied embeddings, a feed-forward of 4 x ``hidden_size``."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen2ForCausalLM(config)


def new_model(config: Mapping[str, Any] | str | Path, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Return a model as `new_config` describes it: random float32 weights, drawn with ``seed``."""
    torch.manual_seed(seed)
    made = new_config(config, tokenizer)
    try:
        return AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"model.config: no model can be made of it ({first_line(error)}).") from None


def new_config(config: Mapping[str, Any] | str | Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """Return the config of a new model of any architecture that transformers has.

    ``config`` holds the keys of a config.json, or is the path of one. ``vocab_size`` and the ids of special tokens are
    the tokenizer's where it does not say them. Raises `UserError` for a config that transformers cannot use.
    """
    keys = dict(config) if isinstance(config, Mapping) else read_json_object(config)
    ours = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        # Padding begins as a row of zeros, which the end of text must not: its gradient is a thousand times too large.
        "pad_token_id": None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id,
    }
    kind = keys.pop("model_type", None)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(str(kind), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3)
        hint = f"Near ones: {', '.join(near)}." if near else "For example qwen2 or llama."
        raise UserError(f"model.config: model_type is {kind!r}, which is no causal language model here. {hint}")
    keys.pop("dtype", None)
    try:
        known = AutoConfig.for_model(kind).to_dict()
        for key in keys.keys() - known.keys():
            # transformers takes any key, some under older names; one misspelt would leave a default in its place.
            if near := difflib.get_close_matches(key, known, n=1, cutoff=0.85):
                raise UserError(f"model.config: {kind} has no key {key}. Did you mean {near[0]}?")
        return AutoConfig.for_model(kind, **(ours | keys))
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"model.config: not one of {kind} ({' '.join(str(error).split())}).") from None
