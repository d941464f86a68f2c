"""Ground: BLEU, chrF and chrF++ of sacrebleu for a language, cut as its profile says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from langadapt.errors import UserError
from langadapt.recipe import Language
from langadapt.text import bleu_units

MetricName = Literal["bleu", "chrf", "chrf++"]
METRICS: tuple[MetricName, ...] = ("bleu", "chrf", "chrf++")


def make_metric(name: MetricName, target: Language) -> Any:
    """Return sacrebleu's metric for text of the target language.

    - ``bleu`` counts what the profile's ``bleu_tokenizer`` cuts. Tsheg syllables and punctuation marks are cut here:
      sacrebleu's own tokenizers take a Tibetan sentence for one word, or count letters. The signature then says
      ``tok:tsheg-syllables``; the score is that of ``tok:none`` on text cut so.
    - ``chrf`` is chrF2 (Popović 2015): character n-grams up to 6, white space not counted.
    - ``chrf++`` (Popović 2017) adds words and pairs of words between spaces: in Tibetan, clauses.

    Raises `UserError` where the tokenizer cannot be had. None is replaced by another, and none is downloaded.
    """
    if name != "bleu":
        return CHRF(word_order=2 if name == "chrf++" else 0)
    if target.bleu_tokenizer == "syllables":
        metric = BLEU(tokenize="none", force=True)
        metric.tokenizer = _syllables
        metric.tokenizer_signature = "tsheg-syllables"
        return metric
    if target.bleu_tokenizer in SPM_MODELS:
        _require_sentencepiece_model(target)
    try:
        return BLEU(tokenize=target.bleu_tokenizer, force=True)
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"sacrebleu's tokenizer {target.bleu_tokenizer!r} cannot be used here: {reason}") from None


def _syllables(text: str) -> str:
    return " ".join(bleu_units(text))


def _require_sentencepiece_model(target: Language) -> None:
    """Refuse what sacrebleu would download unasked."""
    path = Path(SACREBLEU_DIR, "models", Path(SPM_MODELS[target.bleu_tokenizer]["url"]).name)
    if not path.is_file():
        raise UserError(
            f"configs/languages/{target.code}.yaml: bleu_tokenizer={target.bleu_tokenizer} needs the SentencePiece "
            f"model of FLORES-200 as {path}, and nothing is downloaded unasked. Put it there, or in the folder "
            "`models` of $SACREBLEU."
        )
