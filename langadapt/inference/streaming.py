"""One answer, shown while it is being written, in whole characters however the tokens cut them.

transformers' own TextStreamer waits for a space, so a Tibetan answer would appear all at once when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import regex
import torch
from tokenizers.decoders import DecodeStream
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.inference.decoding import decode, decoder_options, without_model_defaults
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.inference import Sampling

_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True)
class Answer:
    """One answer and what it took."""

    text: str
    ids: list[int]  # generated tokens, without the stop token
    prompt_tokens: int
    seconds: float  # from the prompt to the end
    first_token_seconds: float  # from the prompt to the first token
    stop_reason: Literal["stop", "length", "interrupted"]

    @property
    def token_count(self) -> int:
        """How many tokens were generated, the stop token not counted."""
        return len(self.ids)


class TextStream:
    """Turns tokens into text that can be shown at once and need never be changed.

    Held back are the bytes of a character that is not complete, and the last grapheme cluster: the next token may add
    a vowel sign or another letter to a Tibetan stack. The pieces together are the text of all tokens. The tokenizers of
    translators, some of which are plain Python, decode the whole of a translation at each token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | TranslationTokenizer) -> None:
        self._tokenizer = tokenizer
        self._characters = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = ""
        self._shown = 0

    def add(self, token: int) -> str:
        """Return the text that ``token`` settles; often empty."""
        self._ids.append(token)
        if isinstance(self._tokenizer, TranslationTokenizer):
            self._decoded = decode(self._tokenizer, self._ids).rstrip("\ufffd")
        else:
            self._decoded += self._characters.step(self._tokenizer.backend_tokenizer, token) or ""
        clusters = [match.start() for match in _CLUSTER.finditer(self._decoded, self._shown)]
        return self._show(clusters[-1]) if clusters else ""

    def end(self) -> str:
        """Return the rest of the text, with U+FFFD for bytes that are no character."""
        self._decoded = decode(self._tokenizer, self._ids)
        return self._show(len(self._decoded))

    @property
    def text(self) -> str:
        """The text so far; after `end` all of it."""
        return self._decoded

    @property
    def ids(self) -> list[int]:
        """The tokens that were added."""
        return self._ids

    def _show(self, end: int) -> str:
        piece = self._decoded[self._shown : end]
        self._shown = end
        return piece


def stream_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | TranslationTokenizer,
    prompt: Sequence[int],
    *,
    stop_ids: Sequence[int],
    sampling: Sampling,
    emit: Callable[[str], None],
    stop_requested: Callable[[], bool] = lambda: False,
    forced_bos_id: int | None = None,
) -> Answer:
    """Generate the answer to a prompt of token ids, calling ``emit`` with each piece of text as it is settled.

    ``stop_requested`` is asked after every token; once it says yes, the answer ends where it is. ``forced_bos_id`` is
    as for `generate_batched`. The model's own generation config is left out of it. Raises `UserError` when the GPU's
    memory does not hold the prompt.
    """
    streamer = _Streamer(TextStream(tokenizer), stop_ids, emit)

    def interrupted(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), stop_requested(), device=input_ids.device)

    config = _generation_config(sampling, stop_ids, decoder_options(model, forced_bos_id))
    start = time.perf_counter()
    try:
        with without_model_defaults(model), torch.inference_mode():
            model.generate(
                torch.tensor([list(prompt)], device=model.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
                generation_config=config,
                stopping_criteria=[interrupted],
                streamer=streamer,
            )
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU's memory does not hold a prompt of {len(prompt)} tokens and its answer. "
            "Shorten it, start anew with /clear, or lower max_new_tokens."
        ) from None
    end = time.perf_counter()
    stop_reason: Literal["stop", "length", "interrupted"] = "length"
    if streamer.stopped:
        stop_reason = "stop"
    elif len(streamer.stream.ids) < sampling.max_new_tokens:
        stop_reason = "interrupted"
    return Answer(
        text=streamer.stream.text,
        ids=streamer.stream.ids,
        prompt_tokens=len(prompt),
        seconds=end - start,
        first_token_seconds=streamer.first_token_time - start,
        stop_reason=stop_reason,
    )


def _generation_config(sampling: Sampling, stop_ids: Sequence[int], options: dict[str, Any]) -> GenerationConfig:
    choice: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        choice = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    return GenerationConfig(
        **choice,
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,
        use_cache=True,
        **options,
    )


class _Streamer:
    """What `generate` hands its tokens to: first the prompt, then one token at a time."""

    def __init__(self, stream: TextStream, stop_ids: Sequence[int], emit: Callable[[str], None]) -> None:
        self.stream = stream
        self.stopped = False
        self.first_token_time = 0.0
        self._stop_ids = frozenset(stop_ids)
        self._emit = emit
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        token = int(value.item())
        self.first_token_time = self.first_token_time or time.perf_counter()
        if token in self._stop_ids:
            self.stopped = True
        else:
            self._write(self.stream.add(token))

    def end(self) -> None:
        self._write(self.stream.end())

    def _write(self, piece: str) -> None:
        if piece:
            self._emit(piece)
