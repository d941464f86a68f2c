"""Which rows of an embedding or output matrix moved: by the script of their tokens' text, and token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from langadapt.models.tokenizer import load_tokenizer, spelt, token_bytes
from langadapt.text import main_script

MOST_MOVED = 50  # tokens that are named of each script and stage
PARTIAL = "part of a character"
SHARED = "no script"  # digits, punctuation, spaces
CONTROL = "control token"
NO_TOKEN = "no token"  # matrices are often padded

Record = dict[str, Any]


class Token(NamedTuple):
    """What a row stands for: its text as it can be shown, its bytes in hexadecimal, and its group."""

    text: str
    bytes: str
    script: str


def tokens_of(folder: Path) -> dict[int, Token]:
    """Return the tokens of a folder with a tokenizer.json, by row."""
    tokenizer = load_tokenizer(str(folder))
    added = tokenizer.added_tokens_decoder
    found = {}
    for row in tokenizer.get_vocab().values():
        piece = token_bytes(tokenizer, row)
        control = row in added and added[row].special
        found[row] = Token(spelt(piece), piece.hex(" "), CONTROL if control else _script(piece))
    return found


def describe_rows(
    products: NDArray[numpy.float64], rows: Sequence[int], tokens: Mapping[int, Token], pairs: Mapping[str, int]
) -> list[Record]:
    """Return a record for each group of rows, those of most rows first.

    ``products`` [rows, 6] are those of `Sums.by_row`, ``rows`` the number of each row in the model that ``tokens`` are
    of. ``pairs`` names the stages: 0 is the change from the first to the second checkpoint, 1 to the third. A record
    holds ``script``, ``rows``, and for each stage ``mean_l2`` (the mean of the rows' L2 norms), ``relative`` (of the
    rows as one long vector), ``share`` of the matrix's squared change, ``unchanged`` (how many rows did not move) and
    ``moved``: the `MOST_MOVED` tokens of largest L2, each with its row as ``id``. Figures that a zero norm leaves
    undefined are None.
    """
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(tokens[row].script if row in tokens else NO_TOKEN, []).append(place)
    aa, ad, _, dd, _, ee = products.T
    before = numpy.stack([aa, numpy.maximum(0, aa + 2 * ad + dd)])
    change = numpy.stack([dd, ee])
    records = []
    for script, places in sorted(groups.items(), key=lambda item: -len(item[1])):
        record: Record = {"script": script, "rows": len(places)}
        for pair, stage in pairs.items():
            squares, norms, whole = change[stage, places], before[stage, places], change[stage].sum()
            most = numpy.argsort(-squares, kind="stable")[:MOST_MOVED]
            record[pair] = {
                "mean_l2": float(numpy.sqrt(squares).mean()),
                "relative": _root(squares.sum(), norms.sum()),
                "share": float(squares.sum() / whole) if whole else None,
                "unchanged": int((squares == 0).sum()),
                "moved": [
                    _moved(rows[places[n]], tokens, float(squares[n]), float(norms[n])) for n in most if squares[n]
                ],
            }
        records.append(record)
    return records


def most_moved(scripts: Sequence[Record], pair: str, count: int) -> list[Record]:
    """Return the ``count`` (at most `MOST_MOVED`) tokens that moved furthest, each with its script, the furthest first.

    ``scripts`` are what `describe_rows` returns.
    """
    tokens = [{"script": record["script"], **token} for record in scripts for token in record[pair]["moved"]]
    return sorted(tokens, key=lambda token: -token["l2"])[: min(count, MOST_MOVED)]


def _script(piece: bytes) -> str:
    try:
        return main_script(piece.decode()) or SHARED
    except UnicodeDecodeError:
        return PARTIAL


def _moved(row: int, tokens: Mapping[int, Token], square: float, norm: float) -> Record:
    token = tokens.get(row, Token("", "", NO_TOKEN))
    return {
        "id": int(row),
        "text": token.text,
        "bytes": token.bytes,
        "l2": square**0.5,
        "relative": _root(square, norm),
    }


def _root(square: float, of: float) -> float | None:
    return float((square / of) ** 0.5) if of else None
