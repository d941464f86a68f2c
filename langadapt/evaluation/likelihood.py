"""How many bits a model needs for held-out text: every byte of it, whatever the tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.bootstrap import middle_95, resampled_ratios
from langadapt.evaluation.results import Document, Interval, Likelihood
from langadapt.evaluation.test_sets import TextSet, sha256_of_items
from langadapt.models import encode_texts
from langadapt.models.likelihood import document_log_likelihoods, longest_sequence, prefix_token_id
from langadapt.recipe import load_language
from langadapt.text import units

_LONGEST_WINDOW = 2048  # tokens, where the recipe names none
_MOST_NATS = 700  # a token, beyond which a float does not hold the perplexity


def measure_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: TextSet,
    *,
    max_length: int | None,
    stride: int | None,
    token_budget: int,
    resamples: int,
) -> tuple[Likelihood, list[Document]]:
    """Return how well a model predicts the texts of a set, all together and one by one, in the set's order.

    ``max_length`` is the length of a window in tokens; None stands for the model's longest sequence, 2,048 at most.
    ``stride`` is how many of its tokens a window predicts, the others being context; None stands for all of them.

    Bits per byte is -sum(log2 p) / sum(UTF-8 bytes), as in lm-evaluation-harness; like bits per character (a code
    point of the normalised text) and per unit it compares across tokenizers, token perplexity does not. The interval
    is the percentile bootstrap of that ratio over documents (Efron and Tibshirani 1993, chapter 13), with a fixed seed.

    Raises `UserError` when the window is longer than the model's longest sequence or shorter than the stride, when the
    texts hold no unit, and when the model gives no number.
    """
    max_length, stride = _window_lengths(model, max_length, stride)
    if not any(map(units, texts.texts)):
        raise UserError(f"the test set {texts.name} holds no letter and no number in {texts.language}. Leave it out.")
    tokens = encode_texts(tokenizer, texts.texts)
    log_likelihoods = document_log_likelihoods(
        model,
        tokens,
        prefix_id=prefix_token_id(tokenizer),
        max_length=max_length,
        stride=stride,
        token_budget=token_budget,
    )
    nats = -math.fsum(log_likelihoods)
    token_count = sum(map(len, tokens))
    if not nats / token_count < _MOST_NATS:
        raise UserError(
            f"{model.name_or_path}: {nats / token_count:.3g} nats a token of {texts.name} ({texts.language}) is no "
            "likelihood. Try dtype=float32; if it stays, the weights are broken."
        )
    documents = [
        Document(
            test_set=texts.name,
            language=texts.language,
            id=key,
            bits=-value / math.log(2),
            bytes=len(text.encode()),
            characters=len(text),
            units=len(units(text)),
            tokens=len(ids),
        )
        for key, text, ids, value in zip(texts.ids, texts.texts, tokens, log_likelihoods, strict=True)
    ]
    bits = nats / math.log(2)
    size = sum(document.bytes for document in documents)
    characters = sum(document.characters for document in documents)
    unit_count = sum(document.units for document in documents)
    likelihood = Likelihood(
        test_set=texts.name,
        language=texts.language,
        bits_per_byte=bits / size,
        interval=_interval(documents, resamples),
        bits_per_character=bits / characters,
        bits_per_unit=bits / unit_count,
        unit=load_language(texts.language).segmentation,
        token_perplexity=math.exp(nats / token_count),
        bytes=size,
        characters=characters,
        units=unit_count,
        tokens=token_count,
        documents=len(documents),
        max_length=max_length,
        stride=stride,
        items_sha256=sha256_of_items(texts.texts),
        tokenization_sha256=hashlib.sha256(str(sorted(tokens)).encode()).hexdigest(),
    )
    return likelihood, documents


def _window_lengths(model: PreTrainedModel, max_length: int | None, stride: int | None) -> tuple[int, int]:
    longest = longest_sequence(model)
    if max_length is None:
        max_length = min(longest or _LONGEST_WINDOW, _LONGEST_WINDOW)
    elif longest is not None and max_length > longest:
        raise UserError(f"max_length={max_length}: the longest sequence of {model.name_or_path} is {longest} tokens.")
    if stride is not None and stride > max_length:
        raise UserError(
            f"stride={stride}: a window has {max_length} tokens, and each must be predicted. Use a smaller stride."
        )
    return max_length, stride or max_length


def _interval(documents: Sequence[Document], resamples: int) -> Interval | None:
    """Return the middle 95 % of bits per byte over documents drawn with replacement; None for a single document.

    Documents are drawn from their list in the order of their ids, so that the order of the test set does not matter.
    """
    if len(documents) < 2:
        return None
    ordered = sorted(documents, key=lambda document: document.id)
    bits = np.array([document.bits for document in ordered])
    sizes = np.array([document.bytes for document in ordered], np.float64)
    return middle_95(resampled_ratios(bits, sizes, resamples))
