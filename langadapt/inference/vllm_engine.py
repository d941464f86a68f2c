"""Generation by vLLM, where it is installed: the same prompts as token ids, greedy, with its own batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.inference.generation import Generation, Stop
from langadapt.models.folder import is_adapter

_CHUNK = 512  # prompts handed over at once: what a kill can cost


def require_vllm(path: str) -> None:
    """Raise `UserError` when vLLM is not installed, and for a model that is an adapter."""
    if find_spec("vllm") is None:
        raise UserError(
            "engine=vllm: vllm is not installed here. Install it (it needs a GPU), or set engine=transformers."
        )
    if is_adapter(path):
        raise UserError(f"engine=vllm: {path} is an adapter. Give the finished model, or set engine=transformers.")


def open_vllm(path: str, *, dtype: str, max_length: int | None, trust_remote_code: bool = False) -> Any:
    """Return vLLM's engine for a model; ``dtype`` and ``max_length``, in tokens, are what it is to be run with."""
    return import_module("vllm").LLM(
        model=path, dtype=dtype, max_model_len=max_length, trust_remote_code=trust_remote_code
    )


def generate_with_vllm(
    engine: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: Sequence[int],
    stop_text: str | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Yield ``(index of the prompt, its Generation)``, as `generate_batched` does, 512 prompts at a time."""
    sampling = import_module("vllm").SamplingParams
    stop = Stop(tokenizer, stop_ids, stop_text)
    for start in range(0, len(prompts), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(prompts)))
        wanted = [
            # The model's own end token is among stop_ids if it counts.
            sampling(
                temperature=0.0,
                max_tokens=max_new_tokens[index],
                stop_token_ids=list(stop_ids),
                stop=[stop_text] if stop_text else None,
                ignore_eos=True,
            )
            for index in indices
        ]
        asked = [{"prompt_token_ids": list(prompts[index])} for index in indices]
        for index, answer in zip(indices, engine.generate(asked, wanted, use_tqdm=False), strict=True):
            yield index, stop.cut(list(answer.outputs[0].token_ids))
