"""Parallel text without a download: dates and names in Tibetan, Chinese, English and others from the Unicode CLDR.

The locale data that comes with Babel holds true translations of each other: names of territories, languages and
scripts, and the patterns by which dates are written. They are put into the files and layouts that the Tibetan recipe
reads, so that every line of the real path runs; those of other recipes are in `langadapt.runs.text`.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency

from langadapt.files import write_json, write_text

LANGUAGES = ("bo", "zh", "en")
_LOCALES = {code: Locale.parse(code) for code in (*LANGUAGES, "fr", "mn")} | {"zh_hant": Locale.parse("zh_Hant")}
_STYLES = ("full", "long")
_CURRENCIES = ("USD", "EUR", "JPY", "GBP", "CNY", "HKD", "TWD", "INR")

# Years apart: no Tibetan date stands both in the base model's trace of Tibetan, in the monolingual text, and in what is
# translated or asked, from which the test sets are drawn. Twins among the latter are stage 1's to find.
_TRACE_YEARS = range(1880, 1900)
_MONO_YEARS = range(1900, 1950)
_PAIR_YEARS = range(1950, 2040)
_HELD_OUT_YEARS = range(2040, 2050)

Triplet = dict[str, str]


def write_sources(folder: Path, seed: int, pairs: int, documents: int, instructions: int) -> None:
    """Write CUTE-Datasets and tibetan-mix-instruction-tuning-60K, in their own layouts, below ``folder``.

    ``pairs``: lines of parallel text; ``documents``: lines of Tibetan text; ``instructions``: records of each kind.
    """
    chance = random.Random(seed)
    triplets = [*terms(), *dates(_PAIR_YEARS, pairs + instructions, chance)]
    chance.shuffle(triplets)
    parallel, asked = triplets[:pairs], triplets[pairs : pairs + instructions]
    for code in LANGUAGES:
        _write_lines(folder / f"CUTE-Datasets/parallel-corpus/{code}.txt", (triplet[code] for triplet in parallel))
    mono = (document("bo", _MONO_YEARS, chance) for _ in range(documents))
    _write_lines(folder / "CUTE-Datasets/non-parallel-corpus/n-bo.txt", mono)
    records = [
        *_tibetan_questions(instructions, chance),
        *_translations(asked),
        *_chinese_questions(instructions, chance),
    ]
    chance.shuffle(records)
    write_json(folder / "tibetan-mix-instruction-tuning-60K/gpt4_zhbo_60k.json", records)


def base_texts(seed: int, count: int, tibetan_share: float) -> list[str]:
    """Return what the base model learns before it meets the recipe: Chinese and English, with a trace of Tibetan."""
    chance = random.Random(f"base {seed}")
    names = [name for triplet in terms() for name in (triplet["zh"], triplet["en"])]
    texts = []
    for k in range(count):
        if k < tibetan_share * count:
            texts.append(document("bo", _TRACE_YEARS, chance))
        elif k % 3 == 0:
            texts.append("\n".join(_both(triplet) for triplet in dates(_PAIR_YEARS, 3, chance)))
        else:
            language = ("zh", "en")[k % 2]
            texts.append(f"{chance.choice(names)}\n{document(language, _PAIR_YEARS, chance)}")
    chance.shuffle(texts)
    return texts


def write_held_out(folder: Path, seed: int, documents: int) -> None:
    """Write ``zh.txt`` and ``en.txt``: what the base model knows, on days that no training text names.

    What later stages lose on them was forgotten.
    """
    for code in ("zh", "en"):
        chance = random.Random(f"held out {seed}")
        _write_lines(folder / f"{code}.txt", (document(code, _HELD_OUT_YEARS, chance) for _ in range(documents)))


def terms() -> list[Triplet]:
    """Return every name of a territory, language or script that all three locales have, in a fixed order."""
    found: dict[tuple[str, str], Triplet] = {}
    for kind in ("territories", "languages", "scripts"):
        tables = {code: getattr(_LOCALES[code], kind) for code in LANGUAGES}
        for key in sorted(set.intersection(*(set(table) for table in tables.values()))):
            triplet = {code: table[key] for code, table in tables.items()}
            found.setdefault((triplet["bo"], triplet["zh"]), triplet)
    return list(found.values())


def dates(
    years: range, count: int, chance: random.Random, languages: Sequence[str] = LANGUAGES
) -> list[dict[str, str]]:
    """Return ``count`` different dates of those years in all languages, each in one of CLDR's two longer styles."""
    chosen: dict[tuple[datetime.date, str], dict[str, str]] = {}
    while len(chosen) < count:
        day, style = _day(years, chance), chance.choice(_STYLES)
        chosen[day, style] = written(day, style, languages)
    return list(chosen.values())


def written(day: datetime.date, style: str, languages: Sequence[str] = LANGUAGES) -> dict[str, str]:
    """Return a date as each language writes it, in a style of CLDR: full, long, medium or short."""
    return {code: format_date(day, style, locale=_LOCALES[code]) for code in languages}


def sums_of_money(count: int, chance: random.Random, languages: Sequence[str]) -> list[dict[str, str]]:
    """Return ``count`` different sums in all languages, each in the words of CLDR: 1,250.00 US dollars."""
    chosen: dict[tuple[int, str], dict[str, str]] = {}
    while len(chosen) < count:
        amount, currency = chance.randrange(1, 2_000) * 50, chance.choice(_CURRENCIES)
        chosen[amount, currency] = {
            code: format_currency(amount, currency, locale=_LOCALES[code], format_type="name") for code in languages
        }
    return list(chosen.values())


def _day(years: range, chance: random.Random) -> datetime.date:
    first = datetime.date(years[0], 1, 1).toordinal()
    last = datetime.date(years[-1], 12, 31).toordinal()
    return datetime.date.fromordinal(chance.randint(first, last))


def document(language: str, years: range, chance: random.Random) -> str:
    """Return one line of text: five days in a row, which teaches how numbers, months and weekdays follow each other."""
    start, style = _day(years, chance), chance.choice(_STYLES)
    days = (written(start + datetime.timedelta(days=k), style, [language])[language] for k in range(5))
    return {"bo": "།  ", "zh": "；"}.get(language, "; ").join(days)


def _both(triplet: Triplet) -> str:
    return f"{triplet['zh']} = {triplet['en']}"


def _weekday(day: datetime.date, language: str) -> str:
    return str(_LOCALES[language].days["format"]["wide"][day.weekday()])


def _tibetan_questions(count: int, chance: random.Random) -> Iterator[dict[str, str]]:
    """Tibetan in, Tibetan out: a date without its weekday, and with it."""
    for day in (_day(_PAIR_YEARS, chance) for _ in range(count)):
        asked, answered = (written(day, style)["bo"] for style in ("long", "full"))
        yield {"instruction": asked, "input": "", "output": answered}


def _translations(triplets: Iterable[Triplet]) -> Iterator[dict[str, str]]:
    for triplet in triplets:
        yield {"instruction": f"“{triplet['zh']}”用藏文怎么写？", "input": "", "output": triplet["bo"]}


def _chinese_questions(count: int, chance: random.Random) -> Iterator[dict[str, str]]:
    for day in (_day(_PAIR_YEARS, chance) for _ in range(count)):
        asked = f"{written(day, 'long')['zh']}是星期几？"
        yield {"instruction": asked, "input": "", "output": _weekday(day, "zh")}


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(line.replace("\n", " ") + "\n" for line in lines))


def as_records(texts: Iterable[str]) -> list[dict[str, str]]:
    """Return texts as records of stage 1, which is what `langadapt.training` reads."""
    return [
        {"id": f"base:{k}", "source": "cldr", "task": "lm", "language": "mul", "text": text}
        for k, text in enumerate(texts, start=1)
    ]
