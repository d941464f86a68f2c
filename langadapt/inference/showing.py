"""What the prompt says about answers and texts: speed, tokens, likelihood, likeness to a reference."""

from __future__ import annotations

import math

from langadapt.errors import UserError
from langadapt.inference.columns import cells, pad
from langadapt.inference.conversation import Responder
from langadapt.inference.streaming import Answer
from langadapt.models import encode_text
from langadapt.models.likelihood import document_log_likelihoods, prefix_token_id
from langadapt.models.tokenizer import spelt, token_bytes
from langadapt.recipe import load_language
from langadapt.recipe.language import PROFILES, Language
from langadapt.text import normalize, script_share, units

_LONGEST_WINDOW = 2048  # tokens, as in stage 4
_ENDS = {
    "stop": "the model ended its answer",
    "length": "at the limit, of max_new_tokens or of the context",
    "interrupted": "by Ctrl-C",
}


def figures(answer: Answer) -> str:
    """Return length, speed and end of an answer in one line."""
    count = len(units(answer.text))
    ends = {"stop": "ended", "length": "cut: a larger max_new_tokens allows more", "interrupted": "stopped"}
    return (
        f"{answer.token_count} tokens, {answer.token_count / answer.seconds:.1f} tokens/s, "
        f"{count / answer.seconds:.1f} syllables/s, first after {answer.first_token_seconds:.2f} s, "
        f"{ends[answer.stop_reason]}"
    )


def describe_answer(answer: Answer, context_length: int | None) -> str:
    """Return length, speed, end and context use of an answer, in four lines."""
    count = len(units(answer.text))
    used, context = answer.prompt_tokens + answer.token_count, f" of {context_length}" if context_length else ""
    return "\n".join(
        [
            f"answer       {answer.token_count} tokens, {count} syllables or words, in {answer.seconds:.2f} s: "
            f"{answer.token_count / answer.seconds:.1f} tokens/s, {count / answer.seconds:.1f} syllables/s",
            f"first token  after {answer.first_token_seconds:.2f} s",
            f"stopped      {_ENDS[answer.stop_reason]}",
            f"context      {used}{context} tokens",
        ]
    )


def describe_tokens(responder: Responder, text: str) -> str:
    """Return a table of the tokens of a text, with their bytes and what these spell, and their number a syllable.

    Where a token holds a part of a character, ▯ stands for the part.
    """
    ids = encode_text(responder.tokenizer, text)
    pieces = [token_bytes(responder.tokenizer, token) for token in ids]
    rows = [("piece", "id", "bytes")]
    for token, piece in zip(ids, pieces, strict=True):
        rows.append((spelt(piece), str(token), piece.hex(" ")))
    widths = [max(cells(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{pad(piece, widths[0])}  {token:>{widths[1]}}  {of}" for piece, token, of in rows]
    count, size = len(units(text)), len(text.encode())
    a_unit = f"{len(ids) / count:.2f} a syllable or word ({count})" if count else "no syllable or word"
    return "\n".join([*lines, f"{len(ids)} tokens: {a_unit}, {size / max(1, len(ids)):.2f} bytes a token ({size})"])


def describe_likelihood(responder: Responder, text: str) -> str:
    """Return the bits per byte that a model needs for a text, as stage 4 counts them, in one line."""
    if responder.translator:
        return "not defined: a translator gives a text a likelihood only as the translation of another"
    ids = encode_text(responder.tokenizer, text)
    if not ids:
        raise UserError("expected /ppl TEXT, with some text")
    window = min(responder.context_length or _LONGEST_WINDOW, _LONGEST_WINDOW)
    (nats,) = document_log_likelihoods(
        responder.model,
        [ids],
        prefix_id=prefix_token_id(responder.tokenizer),
        max_length=window,
        stride=window,
        token_budget=window,
        quiet=True,
    )
    bits, count = -nats / math.log(2), len(units(text))
    a_unit = f", {bits / count:.1f} bits a syllable or word" if count else ""
    return f"{bits / len(text.encode()):.3f} bits per byte{a_unit}, {len(ids)} tokens"


def describe_likeness(answer: str, reference: str, target: str | None) -> str:
    """Return chrF and BLEU of an answer, as stage 4 counts them: in the language's normal form and units.

    Without a ``target`` the language is the first profile whose scripts hold most of the reference.
    """
    from langadapt.metrics import make_metric  # sacrebleu takes a while to load

    language = load_language(target) if target else _language_of(reference)
    hypotheses, references = ([normalize(text.strip(), language.normalization)] for text in (answer, reference))
    scores = []
    for name, title in (("chrf", "chrF"), ("bleu", "BLEU")):
        metric = make_metric(name, language)  # type: ignore[arg-type]
        scores.append(f"{title} {metric.corpus_score(hypotheses, [references]).score:.1f}")
    unit = "syllables" if language.bleu_tokenizer == "syllables" else f"tokenizer {language.bleu_tokenizer}"
    return f"{', '.join(scores)} (of {unit}; the reference read as {language.names.get('en', language.code)})"


def _language_of(text: str) -> Language:
    profiles = [load_language(file.stem) for file in sorted(PROFILES.glob("*.yaml"))]
    return max(profiles, key=lambda profile: script_share(text, profile.scripts))
