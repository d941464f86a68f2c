"""A small untrained base model for a recipe, with a tokenizer learned from the recipe's own text.

    python -m langadapt.runs.small_model [--direction en-fr] FAMILY configs/RECIPE/preprocess.yaml DATA FOLDER

FAMILY is qwen2, or an encoder-decoder translator: m2m100, nllb, mbart50, marian. DATA is the folder with the text, in
the layout that the recipe reads. A Marian model knows one direction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from langadapt.errors import UserError, run_command
from langadapt.files import Bad, strings_in
from langadapt.files.containers import iter_lines, iter_records, open_bytes
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import load_settings
from langadapt.recipe.sources import FieldsSource, LinesSource, PairsSource, Source

FAMILIES = ("qwen2", "m2m100", "nllb", "mbart50", "marian")
SEED = 42
RECORDS = 5_000  # of each file
VOCABULARY, HIDDEN_SIZE, LAYERS, CONTEXT = 1_500, 64, 2, 512
_WAY_OUT = "Check DATA, or leave it out: the small form then writes its own text."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("config", help="the recipe's preprocess.yaml")
    parser.add_argument("data", help="the folder with its text")
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--direction", help="of a Marian model, such as en-fr")
    arguments = parser.parse_args()
    settings = load_settings(PreprocessSettings, arguments.config, [f"data_dir={arguments.data}"])
    texts = source_texts(settings)
    if arguments.direction:
        texts = {code: texts[code] for code in arguments.direction.split("-")}
    make_model(arguments.family, texts, arguments.folder)
    print(f"a {arguments.family} model of random weights: {arguments.folder}")


def make_model(family: str, texts: dict[str, list[str]], folder: Path) -> None:
    """Write the folder of a model with float32 weights drawn at random, its tokenizer trained on ``texts``."""
    from langadapt.models.building import new_qwen2, train_tokenizer
    from langadapt.models.small_translator import make_small_translator

    if family != "qwen2":
        by_language = {code: some for code, some in texts.items() if code}
        make_small_translator(
            family,  # type: ignore[arg-type]
            by_language,
            folder,
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN_SIZE,
            layers=LAYERS,
            max_length=CONTEXT,
            seed=SEED,
        )
        return
    tokenizer = train_tokenizer((text for some in texts.values() for text in some), VOCABULARY)
    model = new_qwen2(tokenizer, HIDDEN_SIZE, LAYERS, HIDDEN_SIZE // 32, CONTEXT, SEED)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def source_texts(settings: PreprocessSettings) -> dict[str, list[str]]:
    """Return the texts of a recipe's sources by language, of `RECORDS` records a file; conversations stand under "".

    Raises `UserError` for a missing file, and where there is no text.
    """
    found: dict[str, list[str]] = {}
    for source in settings.sources.values():
        for code, text in _texts_of(source, Path(settings.data_dir).expanduser()):
            if text:
                found.setdefault(code, []).append(text)
    if not found:
        raise UserError(f"{settings.data_dir}: no text in it. {_WAY_OUT}")
    return found


def _texts_of(source: Source, folder: Path) -> Iterator[tuple[str, str]]:
    if isinstance(source, LinesSource):
        for code, name in source.files.items():
            with open_bytes(folder / name) as handle:
                for line in islice(iter_lines(folder / name, handle), RECORDS):
                    if not isinstance(line, Bad):
                        yield code, line[1]
        return
    for file in (match for name in source.file for match in sorted(folder.glob(name))):
        for item in islice(iter_records(file, _WAY_OUT, source.columns), RECORDS):
            if isinstance(item, Bad):
                continue
            record = item[1]
            if isinstance(source, FieldsSource):
                yield from ((code, str(record.get(column) or "")) for code, column in source.fields.items())
            elif isinstance(source, PairsSource) and record.get("source_lang") in source.languages:
                asked = record["source_lang"]
                answered = next(code for code in source.languages if code != asked)
                yield asked, str(record.get("source") or "")
                yield answered, str(record.get("target") or "")
            else:
                yield from (("", text) for text in strings_in(record))


if __name__ == "__main__":
    run_command(main)
