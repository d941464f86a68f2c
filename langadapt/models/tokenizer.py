"""Opening a tokenizer, without what models need: torch takes seconds to load."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from langadapt.errors import UserError
from langadapt.models.folder import WAY_OUT, find_tokenizer, first_line


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub name as its tokenizer.json states it, but that it cuts nothing short.

    `AutoTokenizer` would choose a class by the model type, and some classes put their own way of cutting text in the
    place of the file's, without a word. Raises `UserError` when there is no tokenizer.json to be had.
    """
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(find_tokenizer(name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: no tokenizer in it ({first_line(error)}). {WAY_OUT}") from None
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer
