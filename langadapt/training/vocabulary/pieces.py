"""New pieces for a tokenizer: learned from text, and added so that text in other scripts is cut as before.

They become added tokens, which a tokenizer takes out of a text, the longest first, before it does anything else. Merges
of a byte-level BPE would come after its pattern has cut the text, and the patterns in use cut at the vowel signs of
Tibetan and Indic scripts; a pattern of our own would be lost where `AutoTokenizer` puts Qwen2's in its place. A piece
consists of characters of the new scripts, which one space may precede, so no other text can hold one.
"""

from __future__ import annotations

import copy
import unicodedata
from collections import Counter
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError

_LONGEST = 16  # characters: three or four Tibetan syllables; beyond are the formulas of one source
_LINE_END = "\n"  # no tokenizer joins it to what follows


def learn_pieces(
    texts: Sequence[str], scripts: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, min_frequency: int
) -> list[str]:
    """Return at most ``count`` strings of the scripts' characters, by BPE over the runs of those in ``texts``.

    Every one occurs ``min_frequency`` times or more, and is more than one token to ``tokenizer``. Characters come
    first, then merges in the order in which they were found: the first k are what a smaller ``count`` gives.
    """
    runs = Tokenizer(models.BPE())
    characters = "".join(rf"\p{{{script}}}" for script in scripts)
    runs.pre_tokenizer = pre_tokenizers.Split(Regex(f" ?[{characters}]+"), behavior="removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=2 * count + 1000,  # some are tokens already, some characters are rare
        min_frequency=min_frequency,
        max_token_length=_LONGEST,
        show_progress=False,
    )
    normal = [unicodedata.normalize("NFC", text) for text in texts]
    runs.train_from_iterator(normal, trainer)
    frequencies: Counter[str] = Counter()
    for text in normal:
        frequencies.update(text)
    vocabulary = runs.get_vocab()
    pieces = sorted(vocabulary.keys() - {" "}, key=vocabulary.__getitem__)
    frequent = [piece for piece in pieces if len(piece) > 1 or frequencies[piece] >= min_frequency]
    return [piece for piece, old in zip(frequent, cut(tokenizer, frequent), strict=True) if len(old) > 1][:count]


def cut(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str]) -> list[list[int]]:
    """Return the tokens of every piece as they are in the middle of a text: without the space of its beginning."""
    prefix = len(tokenizer(_LINE_END, add_special_tokens=False)["input_ids"])
    encoded = (
        tokenizer([_LINE_END + piece for piece in pieces], add_special_tokens=False)["input_ids"] if pieces else []
    )
    return [ids[prefix:] for ids in encoded]


def add_pieces(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], texts: Sequence[str]
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer with ``pieces`` as added tokens; their ids start at ``len(tokenizer)``, in order.

    Raises `UserError` when the tokenizer's ids have gaps, when the copy does not find a piece, or when it gives one of
    ``texts`` back as something else than the tokenizer does.
    """
    extended, first = copy.deepcopy(tokenizer), len(tokenizer)
    last = max(tokenizer.get_vocab().values())
    if last != first - 1:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer cannot take new pieces, as its ids have gaps: of {first} tokens, "
            f"the last is {last}. Leave out `vocabulary`, or start from another model."
        )
    # Normalised: found in the text's normal form, of which a mark may belong to the letter before it.
    extended.add_tokens([AddedToken(piece, special=False, normalized=True) for piece in pieces])
    found = cut(extended, pieces) == [[first + number] for number in range(len(pieces))]
    if not found or any(_round_trip(extended, text) != _round_trip(tokenizer, text) for text in texts):
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer cannot take new pieces, as it writes a space before every part "
            "of a text. Open it with AutoTokenizer, save it with save_pretrained, and try again with that."
        )
    return extended


def _round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]))
