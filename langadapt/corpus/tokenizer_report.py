"""How well tokenizers serve languages: tokens a syllable, word, character and byte.

    python -m langadapt.corpus.tokenizer_report --tokenizer qwen2-5-3b-base --tokenizer saves/other \\
        --text bo=bo.txt --text zh=pairs.jsonl:zh --output tokenizer_report

A text is a file of lines, or a .jsonl file and the field to read. Writes tokenizer_report.json, .md and .png into the
output folder. Text is brought into the normal form of its language first, as it is for training. The data report of
stage 1 holds the same of a sample of its sources.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from langadapt.corpus.lengths import Tokenizer
from langadapt.errors import UserError, run_command
from langadapt.figures import color_of, label, new_figure, note, save_figure
from langadapt.files import probe_folder, read_jsonl, read_lines, write_json, write_text
from langadapt.models import encode_texts, load_tokenizer
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.language import load_language
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.text import normalize, units

Table = dict[str, Any]

_NAME = "tokenizer_report"
CHART = f"{_NAME}.png"
_BATCH = 256  # texts
_NOT_WHOLE = "\ufffd"  # what a decoder writes for bytes that are no whole character
_UNIT_OF = {"syllables": "syllable", "words": "word", "characters": "character"}  # by a profile's segmentation


def measure_tokenizers(tokenizers: Mapping[str, PreTrainedTokenizerBase], texts: Mapping[str, Iterable[str]]) -> Table:
    """Return how tokenizers, by name, cut texts, by language code; the texts are read once and not kept.

    ::

        {"languages": {code: {unit, texts, bytes, characters, syllables, words}},
         "tokenizers": {name: {vocabulary, "languages": {code: {
             tokens, tokens_per_syllable, tokens_per_word, tokens_per_character, tokens_per_byte, bytes_per_token,
             unknown_share, broken_character_share}}}}}

    All are ratios of sums over the normalised texts. Bytes are of UTF-8, characters are code points with white space,
    syllables and words are those of `langadapt.text.units` where the profile counts in them (``unit`` says in what).
    The shares, 0 to 1, are of tokens that stand for unknown text and of tokens that do not decode to whole characters.
    What a language or tokenizer does not have is None. Raises `UserError` for a language without a profile or text.
    """
    table: Table = {"schema_version": 1, "languages": {}, "tokenizers": {}}
    for name, tokenizer in tokenizers.items():
        table["tokenizers"][name] = {"vocabulary": len(tokenizer), "languages": {}}
    for code, language_texts in texts.items():
        sizes, ids = _count(code, tokenizers, language_texts)
        table["languages"][code] = sizes
        for name, tokenizer in tokenizers.items():
            table["tokenizers"][name]["languages"][code] = _measures(sizes, tokenizer, ids[name])
    return table


def open_tokenizers(settings: PreprocessSettings, own: Tokenizer) -> dict[str, PreTrainedTokenizerBase]:
    """Return the recipe's ``own`` tokenizer, then those to compare with it, by name; raise `UserError` without one."""
    first = own.tokenizer if isinstance(own, TranslationTokenizer) else own
    others = [load_tokenizer(name) for name in settings.tokenizer_report]
    return dict(
        zip(_short_names([settings.tokenizer_source, *settings.tokenizer_report]), [first, *others], strict=True)
    )


def tokenizer_table(table: Table) -> str:
    """Return the measures as Markdown, one row a language and tokenizer."""
    columns = ["language", "tokenizer", "vocabulary", "tokens", "a syllable", "a word", "a character", "a byte"]
    columns += ["bytes a token", "unknown", "no whole characters"]
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "---:|" * (len(columns) - 2)]
    for code, name, measures in _rows(table):
        cells = [code, name, f"{table['tokenizers'][name]['vocabulary']:,}", f"{measures['tokens']:,}"]
        ratios = [measures[f"tokens_per_{unit}"] for unit in ("syllable", "word", "character", "byte")]
        cells += [_number(ratio) for ratio in (*ratios, measures["bytes_per_token"])]
        cells += [_percent(measures[share]) for share in ("unknown_share", "broken_character_share")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_tokenizers(table: Table, path: str | Path) -> None:
    """Draw, for each language and tokenizer: tokens a unit, bytes a token, and the share of tokens in pieces."""
    languages, tokenizers = table["languages"], table["tokenizers"]
    height = 0.8 / len(tokenizers)
    inches = 1.7 + len(languages) * (0.3 + 0.24 * len(tokenizers))
    figure, axes = new_figure(1, 3, width=13, height=inches, sharey=True)
    for position, (name, tokenizer) in enumerate(tokenizers.items()):
        rows = [row + (position - (len(tokenizers) - 1) / 2) * height for row in range(len(languages))]
        measured = [tokenizer["languages"][code] for code in languages]
        panels = (
            [
                measures[f"tokens_per_{size['unit']}"]
                for measures, size in zip(measured, languages.values(), strict=True)
            ],
            [measures["bytes_per_token"] for measures in measured],
            [measures["broken_character_share"] for measures in measured],
        )
        for ax, values, written in zip(axes, panels, (_number, _number, _percent), strict=True):
            lengths = [math.nan if value is None else value for value in values]
            bars = ax.barh(rows, lengths, 0.9 * height, color=color_of(position), label=name)
            ax.bar_label(bars, list(map(written, values)), padding=3, fontsize=8)
    titles = (
        "Tokens a unit (lower is better)",
        "Bytes a token (higher is better)",
        "Tokens that are no whole characters",
    )
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.margins(x=0.15)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes[2].xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_yticks(range(len(languages)), [_row_label(code, size["unit"]) for code, size in languages.items()])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, len(tokenizers)))
    note(figure, "The unit of a language is what its profile counts in. Bytes of UTF-8, in the normal form.")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", action="append", required=True, metavar="FOLDER", help="folder or hub name")
    parser.add_argument(
        "--text", action="append", required=True, metavar="CODE=FILE[:FIELD]", help="text of a language"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the report goes")
    arguments = parser.parse_args()
    texts = {}
    for given in arguments.text:
        code, file, field = _parse_text(given)
        if code in texts:
            raise UserError(f"--text {given}: {code} is given twice. Join the files of a language.")
        texts[code] = _read(file, field)
    probe_folder(arguments.output)
    folder = Path(arguments.output)
    tokenizers = dict(zip(_short_names(arguments.tokenizer), map(load_tokenizer, arguments.tokenizer), strict=True))
    table = measure_tokenizers(tokenizers, texts)
    draw_tokenizers(table, folder / CHART)
    write_text(folder / f"{_NAME}.md", f"# Tokenizers\n\n{tokenizer_table(table)}\n![]({CHART})\n")
    write_json(folder / f"{_NAME}.json", table)
    print(tokenizer_table(table) + f"report: {folder / _NAME}.md")


def _count(
    code: str, tokenizers: Mapping[str, PreTrainedTokenizerBase], texts: Iterable[str]
) -> tuple[Table, dict[str, Counter[int]]]:
    """Return the sizes of the texts of one language, and how often each tokenizer used each of its tokens."""
    profile = load_language(code)
    unit = _UNIT_OF[profile.segmentation]
    count: Counter[str] = Counter()
    ids: dict[str, Counter[int]] = {name: Counter() for name in tokenizers}
    remaining = iter(texts)
    while batch := [normalize(text, profile.normalization) for text in islice(remaining, _BATCH)]:
        for text in batch:
            count["texts"] += bool(text)
            count["bytes"] += len(text.encode())
            count["characters"] += len(text)
            count["units"] += len(units(text))
        for name, tokenizer in tokenizers.items():
            for encoded in _encode(tokenizer, batch):
                ids[name].update(encoded)
    if not count["units"]:
        raise UserError(f"the text given for {code!r} has no {unit} in it. Give a file with text of that language.")
    sizes: Table = {"unit": unit, **{key: count[key] for key in ("texts", "bytes", "characters")}}
    return sizes | {f"{kind}s": count["units"] if kind == unit else None for kind in ("syllable", "word")}, ids


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        return encode_texts(tokenizer, texts)
    # Of an encoder-decoder model without a tokenizer.json; Marian's cuts every language as its source language.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _measures(sizes: Table, tokenizer: PreTrainedTokenizerBase, ids: Counter[int]) -> Table:
    tokens = ids.total()
    measures: Table = {"tokens": tokens}
    for unit in ("syllable", "word", "character", "byte"):
        measures[f"tokens_per_{unit}"] = _ratio(tokens, sizes[f"{unit}s"])
    broken = sum(count for token, count in ids.items() if _NOT_WHOLE in tokenizer.decode([token]))
    return measures | {
        "bytes_per_token": _ratio(sizes["bytes"], tokens),
        "unknown_share": None if tokenizer.unk_token_id is None else _ratio(ids[tokenizer.unk_token_id], tokens),
        "broken_character_share": _ratio(broken, tokens),
    }


def _ratio(part: int, whole: int | None) -> float | None:
    return part / whole if whole else None


def _rows(table: Table) -> Iterator[tuple[str, str, Table]]:
    for code in table["languages"]:
        for name, tokenizer in table["tokenizers"].items():
            yield code, name, tokenizer["languages"][code]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"


def _row_label(code: str, unit: str) -> str:
    return f"{label(load_language(code).autonym, load_language(code).names['en'])}\nunit: {unit}"


def _parse_text(given: str) -> tuple[str, str, str | None]:
    code, equals, file = given.partition("=")
    if not equals:
        raise UserError(f"--text {given}: expected CODE=FILE or CODE=FILE.jsonl:FIELD, such as bo=bo.txt.")
    if not Path(file).is_file() and ".jsonl:" in file:
        file, _, field = file.rpartition(":")
        return code, file, field
    if file.endswith(".jsonl"):
        raise UserError(f"--text {given}: which field? Give it behind a colon, such as {given}:text.")
    return code, file, None


def _read(file: str, field: str | None) -> Iterator[str]:
    if field is None:
        yield from (line for _, line in read_lines(file))
        return
    for number, record in read_jsonl(file):
        if not isinstance(record.get(field), str):
            raise UserError(f"{file}, line {number}: no text in the field {field!r}. It has: {', '.join(record)}.")
        yield record[field]


def _short_names(folders: list[str]) -> list[str]:
    """Return the last part of each path, or the paths themselves where those are not unique."""
    short = [Path(folder).name for folder in folders]
    names = short if len(set(short)) == len(short) else folders
    if len(set(names)) < len(names):
        raise UserError("--tokenizer: one is given twice.")
    return names


if __name__ == "__main__":
    run_command(main)
