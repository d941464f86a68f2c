"""Every shipped training file builds its model in full size, on the meta device: shapes and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from langadapt.recipe.training import TrainingSettings, load_training_settings
from langadapt.training.methods import adapt_model, weight_types

# The config.json of each model, as far as its shapes go, and millions of parameters (tied ones once). The translators'
# layers are transformers' own defaults for their families; vocabularies and NLLB's sizes are the published ones.
_SEQ2SEQ = {"encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096}
_NLLB_3B = {"encoder_layers": 24, "decoder_layers": 24, "encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192}
_QWEN2 = {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
_QWEN3 = {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
_LLAMA = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
_TIED = {"tie_word_embeddings": True}
_MARIAN = {
    **{f"{side}_layers": 6 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 2048 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 8 for side in ("encoder", "decoder")},
    "d_model": 512,
    "max_position_embeddings": 512,
    "vocab_size": 59514,
    "pad_token_id": 59513,
    "decoder_start_token_id": 59513,
    "eos_token_id": 0,
    "scale_embedding": True,
}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "qwen2-5-3b-base": ("qwen2", {**_QWEN2, "intermediate_size": 11008, "vocab_size": 151936, **_TIED}, 3086),
    "qwen3-4b": ("qwen3", {**_QWEN3, "intermediate_size": 9728, "head_dim": 128, "vocab_size": 151936, **_TIED}, 4022),
    "saves/smollm2/base": ("llama", {**_LLAMA, "intermediate_size": 1536, "vocab_size": 49152, **_TIED}, 135),
    "facebook/m2m100_418M": ("m2m_100", {**_SEQ2SEQ, "d_model": 1024, "vocab_size": 128112}, 484),
    "facebook/mbart-large-50-many-to-many-mmt": ("mbart", {**_SEQ2SEQ, "d_model": 1024, "vocab_size": 250054}, 611),
    "Helsinki-NLP/opus-mt-en-fr": ("marian", _MARIAN, 75),
    "Helsinki-NLP/opus-mt-fr-en": ("marian", _MARIAN, 75),
    "facebook/nllb-200-distilled-600M": ("m2m_100", {**_SEQ2SEQ, "d_model": 1024, "vocab_size": 256206}, 615),
    "facebook/nllb-200-3.3B": ("m2m_100", {**_NLLB_3B, "d_model": 2048, "vocab_size": 256206}, 3345),
}
_OTHERS = {"preprocess", "evaluate", "weights", "inference", "commands", "defaults", "preferences"}
FILES = [path for path in sorted(REPOSITORY.glob("configs/*/*.yaml")) if path.stem.partition("_")[0] not in _OTHERS]
TRAINING = [path for path in FILES if path.parent.name != "languages"]


def first_model(settings: TrainingSettings, by_output: dict[str, TrainingSettings]) -> TrainingSettings:
    """Follow the stages back to the one that starts from a model that no recipe makes."""
    while (before := by_output.get(str(settings.model_name_or_path))) is not None:
        settings = before
    return settings


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_model_of_a_shipped_file_is_built_in_full_size(path: Path, tmp_path: Path) -> None:
    every = [load_training_settings(file) for file in TRAINING]
    settings = load_training_settings(path)
    first = first_model(settings, {str(each.output_dir): each for each in every})
    name = str(first.model_name_or_path)
    if name == "saves/quickstart/new":
        pytest.skip("the quickstart makes its own model, and is run whole")
    if first.model_name_or_path is None:
        pytest.skip("a new model, whose settings say its size")
    kind, keys, millions = MODELS[name]
    config = AutoConfig.for_model(kind, **keys)
    config.save_pretrained(tmp_path)
    settings = load_training_settings(path, [f"model_name_or_path={tmp_path}"])
    with torch.device("meta"):
        builder = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = builder.from_config(config, dtype=weight_types(settings)[0])
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions
        model.name_or_path = str(tmp_path)
        if settings.vocabulary is not None:
            model.resize_token_embeddings(config.vocab_size + settings.vocabulary.new_tokens, mean_resizing=False)
        model = adapt_model(model, settings)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    if settings.finetuning_type in ("lora", "qlora"):
        assert all("lora_" in name for name in trained)
