"""Opening a tokenizer, without what models need: torch takes seconds to load."""

from __future__ import annotations

import re
import unicodedata

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from langadapt.errors import UserError
from langadapt.models.folder import WAY_OUT, find_tokenizer, first_line

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece names the byte of a character that it has no piece for
_BYTES = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
_PICTURES = {**{code: chr(0x2400 + code) for code in range(32)}, 0x7F: "␡", 0x20: "␣", 0xFFFD: "▯"}
_SPACE = "\u2581"  # SentencePiece's


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


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """Return the bytes of text that a token stands for: whole characters, or parts of them."""
    piece: str = tokenizer.convert_ids_to_tokens(token)
    if token in tokenizer.added_tokens_decoder:
        return piece.encode()
    backend = getattr(tokenizer, "backend_tokenizer", None)  # not of M2M100 and Marian, which are plain Python
    if backend and "ByteLevel" in str(backend.decoder) and all(symbol in _BYTES for symbol in piece):
        return bytes(_BYTES[symbol] for symbol in piece)
    if match := _BYTE.fullmatch(piece):
        return bytes.fromhex(match[1])
    return piece.replace(_SPACE, " ").encode()


def spelt(piece: bytes) -> str:
    """Return the bytes of a token as a text that shows all of it.

    ▯ is a part of a character, ␣ a space; control characters are Unicode's pictures of them, such as ␊.
    """
    text = piece.decode(errors="replace").translate(_PICTURES)
    if unicodedata.category(text[:1] or "x").startswith("M"):
        text = "◌" + text  # a sign without the letter that it belongs to
    return text
