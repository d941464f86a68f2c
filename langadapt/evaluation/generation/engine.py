"""What generates for stage 4: the model that is evaluated, through transformers or vLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.inference.generation import Generation, generate_batched
from langadapt.inference.vllm_engine import generate_with_vllm, open_vllm, require_vllm
from langadapt.models import load_model, load_tokenizer, pick_device, pick_dtype, stop_token_ids
from langadapt.models.likelihood import longest_sequence
from langadapt.models.translation import TranslationTokenizer, is_encoder_decoder, load_translation_tokenizer
from langadapt.recipe.evaluation import EvaluationSettings

_VLLM_WINDOW = 8192  # tokens; vLLM sets memory aside for the whole of it


@dataclass(frozen=True)
class Engine:
    """A model that is ready to generate.

    ``generate`` takes prompts as token ids and ``stop_ids``, ``max_new_tokens`` (one a prompt) and ``stop_text``, and
    yields ``(index, Generation)`` as they are finished.
    """

    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer
    generation_config: GenerationConfig | None
    window: int | None  # the longest sequence in tokens: prompt and answer, of a translator each; None: not stated
    generate: Callable[..., Iterator[tuple[int, Generation]]]
    plan: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)  # of this process and run; what was resumed took no batch

    def stop_ids(self, chat: bool) -> list[int]:
        """Return the tokens that end an answer, with ``chat`` to a prompt in the chat format."""
        if isinstance(self.tokenizer, TranslationTokenizer):
            return [self.tokenizer.end_id]
        return stop_token_ids(self.tokenizer, self.generation_config, chat)

    def describe(self, ranks: Ranks) -> dict[str, Any]:
        """Return how everything was generated, with the counts of all processes; to be called by each of them."""
        return {**self.plan, "processes": ranks.count, **ranks.sum(self.counts)}


def open_model(settings: EvaluationSettings, ranks: Ranks) -> PreTrainedModel:
    """Return the model that the settings name, on this process's device; in float32 for ``strict``."""
    assert settings.model_path is not None, "settings without a model only compare"
    device = pick_device(ranks.device(settings.device))
    dtype = torch.float32 if settings.strict else pick_dtype(settings.dtype, device)
    return load_model(settings.model_path, dtype, device, settings.trust_remote_code)


def open_tokenizer(settings: EvaluationSettings) -> PreTrainedTokenizerBase | TranslationTokenizer:
    """Return the tokenizer of the model that the settings name, by which a translator is known as one."""
    assert settings.model_path is not None, "settings without a model only compare"
    if is_encoder_decoder(settings.model_path, settings.trust_remote_code):
        return load_translation_tokenizer(settings.model_path, settings.language_tokens)
    return load_tokenizer(settings.model_path)


def require_engine(settings: EvaluationSettings, ranks: Ranks) -> None:
    """Raise `UserError` for an engine that cannot run, or not so.

    That is vLLM where it is not installed, for an adapter or a translator, with beams, or under torchrun; and a
    translator with ``strict``.
    """
    assert settings.model_path is not None, "settings without a model only compare"
    translates = is_encoder_decoder(settings.model_path, settings.trust_remote_code)
    if translates and (settings.strict or settings.engine == "vllm"):
        asked = "strict" if settings.strict else "engine=vllm"
        raise UserError(f"{asked}: only for decoder models, and {settings.model_path} has an encoder. Leave it out.")
    if settings.engine == "transformers":
        return
    if settings.num_beams > 1:
        raise UserError("engine=vllm decodes greedily. Set num_beams=1, or engine=transformers.")
    if ranks.count > 1:
        raise UserError("engine=vllm runs in one process. Start 4_evaluate.py without torchrun.")
    require_vllm(settings.model_path)


def open_engine(settings: EvaluationSettings, ranks: Ranks) -> Engine:
    """Return the engine that the settings name, its model loaded for nothing else."""
    assert settings.model_path is not None, "settings without a model only compare"
    require_engine(settings, ranks)
    tokenizer = open_tokenizer(settings)
    if settings.engine == "vllm":
        assert not isinstance(tokenizer, TranslationTokenizer), "refused above"
        return vllm_engine(tokenizer, settings)
    return transformers_engine(open_model(settings, ranks), tokenizer, settings)


def transformers_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | TranslationTokenizer, settings: EvaluationSettings
) -> Engine:
    """Return the engine of a loaded model."""
    counts: Counter[str] = Counter()
    options: dict[str, Any] = {
        "num_beams": settings.num_beams,
        "strict": settings.strict,
        "token_budget": settings.token_budget,
    }
    return Engine(
        tokenizer=tokenizer,
        generation_config=model.generation_config,
        window=longest_sequence(model),
        generate=partial(generate_batched, model, tokenizer, counts=counts, **options),
        plan={"engine": "transformers", "dtype": str(model.dtype).removeprefix("torch."), **options},
        counts=counts,
    )


def vllm_engine(tokenizer: PreTrainedTokenizerBase, settings: EvaluationSettings) -> Engine:
    """Return an engine of vLLM for the model that the settings name, after `require_engine`, on the GPUs it finds."""
    assert settings.model_path is not None, "settings without a model only compare"
    trust = settings.trust_remote_code
    config = AutoConfig.from_pretrained(settings.model_path, trust_remote_code=trust).get_text_config()
    window = min(getattr(config, "max_position_embeddings", _VLLM_WINDOW), _VLLM_WINDOW)
    dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype  # as with transformers on a GPU
    llm = open_vllm(settings.model_path, dtype=dtype, max_length=window, trust_remote_code=trust)
    try:
        generation_config = GenerationConfig.from_pretrained(settings.model_path)
    except OSError:
        generation_config = None
    return Engine(
        tokenizer=tokenizer,
        generation_config=generation_config,
        window=window,
        generate=partial(generate_with_vllm, llm, tokenizer),
        plan={"engine": "vllm", "dtype": dtype, "num_beams": 1, "strict": False},
    )
