"""What scores hide: hypotheses that are no translation at all, each kind counted by a rule that can be read here.

What the reference does as well is no fault: a reference in Latin letters, one that repeats a name of the source, one
that ends in a refrain. Every rule but those for empty and cut-off hypotheses leaves such an item out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import regex

from langadapt.errors import UserError
from langadapt.evaluation.results import Diagnostics
from langadapt.recipe import Language
from langadapt.text import script_share, units

Identifier = Callable[[str], str]  # text -> label of its language

_RUN = 4  # units in a row
_MOST = 0.5
_TIMES = 3
_LOOP = 12  # characters
_LETTER = regex.compile(r"\p{L}")
# A combining mark needs something to stand on. In UTF-8 cut within a character, U+FFFD takes its place.
_BROKEN = regex.compile(r"[\ufffd\ud800-\udfff]|(?:^|[\p{Z}\p{P}\p{Cc}])\p{M}")


def diagnose(
    hypotheses: Sequence[str],
    references: Sequence[str],
    sources: Sequence[str],
    stop_reasons: Sequence[str],
    target: Language,
    identifier: Identifier | None = None,
) -> Diagnostics:
    """Return how many hypotheses fail in which way; a hypothesis may count in several.

    - ``empty``: no text; ``cut_off``: stopped by the length limit.
    - ``looping``: see `loops`. ``copied``: see `holds_most`. ``broken``: see `is_broken`.
    - ``off_script``: of its letters and marks, more than half are in another script than the target's.
    - ``off_language``: the identifier calls it by another name than the target. The target's is the name it gives to
      most references, so any set of labels will do; items whose reference it calls otherwise are not judged. It cannot
      tell apart what has one label (Chinese in both scripts), and errs on short texts.

    All texts are in the target's normal form. ``length_ratio`` is the sum of the hypotheses' units (syllables,
    characters or words) over the references'; None where these have none.
    """
    pairs = list(zip(hypotheses, references, strict=True))
    triples = list(zip(hypotheses, references, sources, strict=True))
    length = sum(len(units(text)) for text in references)
    return Diagnostics(
        empty=sum(not text for text in hypotheses),
        cut_off=sum(reason == "length" for reason in stop_reasons),
        looping=sum(loops(text) and not loops(reference) for text, reference in pairs),
        copied=sum(
            holds_most(text, source) and not holds_most(reference, source) for text, reference, source in triples
        ),
        off_script=sum(_off_script(text, target) and not _off_script(reference, target) for text, reference in pairs),
        off_language=_off_language(pairs, identifier) if identifier else None,
        broken=sum(is_broken(text) and not is_broken(reference) for text, reference in pairs),
        length_ratio=sum(len(units(text)) for text in hypotheses) / length if length else None,
    )


def loops(text: str) -> bool:
    """Say whether a text ends in a passage that stands there three times or more, of 12 characters in all or more.

    The last time may be cut short, also within a character. Of 164,000 texts in Tibetan, Dzongkha, Chinese, English,
    French and Mongolian that people wrote, none does.
    """
    backwards = text.rstrip("\ufffd")[::-1]
    for period, repeated in enumerate(_z_function(backwards)):
        if period and period + repeated >= max(_TIMES * period, _LOOP):
            return True
    return False


def holds_most(text: str, source: str) -> bool:
    """Say whether more than half of the source's runs of four units, or a shorter source as a whole, are in a text."""
    wanted, size = _runs(units(source), _RUN)
    held = set(_runs(units(text), size)[0])
    return sum(run in held for run in wanted) > _MOST * len(wanted)


def is_broken(text: str) -> bool:
    """Say whether a text holds U+FFFD, half a surrogate pair, or a combining mark with nothing to stand on."""
    return _BROKEN.search(text) is not None


def load_identifier(path: str | Path) -> Identifier:
    """Return what names the language of a text by a fastText model (.bin or .ftz).

    Raises `UserError` where the file is none, or no package that reads it is installed.
    """
    try:
        import fasttext
    except ImportError:
        raise UserError(
            f"language_identifier={path}: nothing that reads fastText models is installed. Run: pip install "
            "fasttext-predict. Or leave the key out."
        ) from None
    if not Path(path).is_file():
        raise UserError(f"language_identifier={path}: no such file. Give a fastText model (.bin or .ftz).")
    try:
        model: Any = fasttext.load_model(str(path))
        _label(model, "a")
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UserError(f"language_identifier={path}: no fastText classifier ({error}). Copy the file again.") from None
    return lambda text: _label(model, text)


def _label(model: Any, text: str) -> str:
    """Return the likeliest label, by the binding beneath `predict`: that itself fails in fastText 0.9 with numpy 2."""
    line = " ".join(text.encode("utf-8", "replace").decode().split()) + "\n"
    found = model.f.predict(line, 1, 0.0, "strict")
    return str(found[0][1]) if found else ""


def _off_language(pairs: Sequence[tuple[str, str]], identifier: Identifier) -> int:
    labels = [identifier(reference) for _, reference in pairs]
    [(target, _)] = Counter(labels).most_common(1)
    return sum(
        bool(_LETTER.search(text)) and identifier(text) != target
        for (text, _), label in zip(pairs, labels, strict=True)
        if label == target
    )


def _off_script(text: str, target: Language) -> bool:
    return bool(_LETTER.search(text)) and script_share(text, target.scripts) < 1 - _MOST


def _runs(text: Sequence[str], size: int) -> tuple[list[tuple[str, ...]], int]:
    """Return every ``size`` units in a row, or all units where there are fewer, and how many are in a run."""
    size = min(size, len(text))
    return [tuple(text[start : start + size]) for start in range(len(text) - size + 1)] if size else [], size


def _z_function(text: str) -> list[int]:
    """Return for each position how many characters from there on are those that ``text`` begins with; 0 for the first.

    In linear time (Gusfield 1997, section 1.3).
    """
    same = [0] * len(text)
    left = right = 0
    for start in range(1, len(text)):
        count = min(right - start, same[start - left]) if start < right else 0
        while start + count < len(text) and text[count] == text[start + count]:
            count += 1
        same[start] = count
        if start + count > right:
            left, right = start, start + count
    return same
