"""Re-alignment of drifted files and segments of long documents, against the truth: invented text, and real."""

from __future__ import annotations

import itertools
import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import regex

from langadapt.corpus.alignment import Alignment, FeatureParts, align, chain, extract, passes, scoring, segments
from langadapt.corpus.alignment.segments import split_pair
from langadapt.recipe.language import load_language
from langadapt.text.blocks import TextBlock

TRIPLETS = Path(__file__).resolve().parents[2] / "shared/data/bo_zh_en.jsonl"
SEGMENTATION = {"bo": "syllables", "zh": "characters"}  # words in all others
BO, ZH, EN = map(load_language, ("bo", "zh", "en"))

Texts = dict[str, list[str]]
Origins = dict[str, list[tuple[int, ...]]]
Aligned = Callable[[Texts], Alignment]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A division by zero or an overflow is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def aligned(tmp_path: Path) -> Aligned:
    """Align texts by way of part files of at most 500 lines."""

    def run(texts: Texts) -> Alignment:
        return align({code: saved(tmp_path / code, code, lines, 500) for code, lines in texts.items()})

    return run


def saved(folder: Path, code: str, lines: Sequence[str], size: int) -> FeatureParts:
    folder.mkdir(exist_ok=True)
    paths = []
    for start in range(0, len(lines), size):
        paths.append(folder / f"{size}-{start}.npz")
        features = extract(TextBlock(lines[start : start + size]), SEGMENTATION.get(code, "words"))
        np.savez(paths[-1], **features.arrays())
    return FeatureParts(paths)


def invented(count: int, codes: Sequence[str] = ("ka", "lo"), seed: int = 0) -> Texts:
    """Lines that say the same in languages that share no word, only some numbers; every tenth word is left out."""
    chance = random.Random(seed)
    meanings = range(600)
    frequency = [1 / (rank + 3) for rank in meanings]
    texts: Texts = {code: [] for code in codes}
    for _ in range(count):
        said = chance.choices(meanings, frequency, k=chance.randrange(4, 30))
        number = [str(chance.randrange(10_000))] if chance.random() < 0.2 else []
        for code in codes:
            words = [spelt(code, meaning) for meaning in said if chance.random() < 0.9]
            texts[code].append(" ".join(words + number) + ".")
    return texts


def spelt(code: str, meaning: int) -> str:
    return code + "".join(chr(ord("a") + int(digit)) for digit in str(meaning * 7919 + len(code)))


def damaged(lines: Sequence[str], rate: float, chance: random.Random) -> tuple[list[str], list[tuple[int, ...]]]:
    """Lines lost, doubled, joined with the next and blanked; and of which of the old ones each consists."""
    left: list[str] = []
    origins: list[tuple[int, ...]] = []
    numbers = iter(range(len(lines)))
    for k in numbers:
        kind = chance.randrange(4) if chance.random() < rate else 4
        if kind == 0 and k + 1 < len(lines):
            left.append(f"{lines[k]} {lines[next(numbers)]}")
            origins.append((k, k + 1))
        elif kind == 1:
            left.append("")
            origins.append(())
        elif kind != 2:
            left += [lines[k]] * (2 if kind == 3 else 1)
            origins += [(k,)] * (2 if kind == 3 else 1)
    return left, origins


def all_damaged(texts: Texts, rate: float, seed: int) -> tuple[Texts, Origins]:
    chance = random.Random(seed)
    both = {code: damaged(lines, rate, chance) for code, lines in texts.items()}
    return {code: lines for code, (lines, _) in both.items()}, {code: origins for code, (_, origins) in both.items()}


def judged(alignment: Alignment, origins: Origins) -> tuple[int, int, int, int]:
    """How many rows there are, how many are true, how many lines survive everywhere, how many of them were found."""
    whole = alignment.rows[(alignment.rows >= 0).all(axis=1)].tolist()
    rows = [[own[line] for own, line in zip(origins.values(), row, strict=True)] for row in whole]
    true = [row[0] for row in rows if len(set(row)) == 1 and row[0]]
    surviving = set.intersection(*({origin for origin in own if len(origin) == 1} for own in origins.values()))
    for column in alignment.rows.T:
        assert (np.diff(column[column >= 0]) > 0).all()
    return len(rows), len(true), len(surviving), len(surviving & set(true))


def real(*codes: str, sentences: int = 1) -> Texts:
    """Running text of the news, as many sentences in a line as asked for."""
    if not TRIPLETS.is_file():
        pytest.skip("needs ../shared/data/bo_zh_en.jsonl")
    records = [json.loads(line) for line in TRIPLETS.read_text(encoding="utf-8").splitlines()]
    rows = [record for record in records if record["source"] == "ntrex"]
    return {
        code: [
            ("" if code == "zh" else " ").join(row[code].strip() for row in rows[k : k + sentences])
            for k in range(0, len(rows) - sentences + 1, sentences)
        ]
        for code in codes
    }


def numbered(count: int, without: Sequence[int]) -> list[int]:
    return [k for k in range(count) if k not in without]


@pytest.mark.parametrize(
    ("lost_here", "lost_there"),
    [([0, 1, 2], []), ([], [0]), ([150], [151, 152]), ([298, 299], []), (range(100, 140), []), ([], range(140, 180))],
    ids=["start", "start of the other", "middle", "end", "forty in a row", "forty in a row of the other"],
)
def test_lost_lines_shift_nothing(aligned: Aligned, lost_here: Sequence[int], lost_there: Sequence[int]) -> None:
    texts = invented(300)
    kept = {"ka": numbered(300, lost_here), "lo": numbered(300, lost_there)}
    alignment = aligned({code: [texts[code][k] for k in kept[code]] for code in texts})
    found, true, surviving, found_of_them = judged(alignment, {c: [(k,) for k in own] for c, own in kept.items()})
    assert found == true
    assert found_of_them >= 0.98 * surviving


def test_equal_files_come_out_as_they_are(aligned: Aligned) -> None:
    alignment = aligned(invented(400))
    assert alignment.rows.tolist() == [[k, k] for k in range(400)]
    assert alignment.report["pairs"]["ka-lo"]["drift"] == {"places": 0, "first": []}


def test_four_languages_are_paired_through_the_first(aligned: Aligned) -> None:
    texts, origins = all_damaged(invented(500, ("ka", "lo", "mi", "nu")), 0.01, seed=1)
    alignment = aligned(texts)
    found, true, surviving, kept = judged(alignment, origins)
    assert alignment.rows.shape == (len(alignment.posteriors), 4)
    assert alignment.report["rows"] == {"in all languages": found, "in some": len(alignment.rows) - found}
    assert set(alignment.report["pairs"]) == {"ka-lo", "ka-mi", "ka-nu"}
    assert true >= 0.995 * found
    assert kept >= 0.97 * surviving


def test_a_line_missing_in_one_language_leaves_the_others_together(aligned: Aligned) -> None:
    texts = invented(400, ("ka", "lo", "mi"))
    del texts["lo"][100]
    texts["mi"][300] = ""
    rows = aligned(texts).rows.tolist()
    assert [100, -1, 100] in rows
    assert [300, 299, -1] in rows
    assert all(ka >= 0 and lo in (-1, ka - (ka > 100)) and mi in (-1, ka) for ka, lo, mi in rows)


def test_doubled_lines_are_paired_once(aligned: Aligned) -> None:
    texts = invented(200)
    texts["ka"] = [*texts["ka"][:100], texts["ka"][99], *texts["ka"][100:]]
    rows = aligned(texts).rows
    assert len(rows) == 200
    assert rows[99, 0] in (99, 100)
    assert rows[100:].tolist() == [[k + 1, k] for k in range(100, 200)]


def test_lines_doubled_in_both_files_are_paired_one_by_one(aligned: Aligned) -> None:
    texts = {code: [*lines[:100], lines[99], *lines[100:]] for code, lines in invented(200).items()}
    assert aligned(texts).rows.tolist() == [[k, k] for k in range(201)]


def test_joined_lines_are_no_pair(aligned: Aligned) -> None:
    texts = invented(300)
    joined = list(range(20, 300, 40))
    parts = [f"{line} {texts['lo'][k + 1]}" if k in joined else line for k, line in enumerate(texts["lo"])]
    left = [k for k in range(300) if k - 1 not in joined]
    rows = aligned({"ka": texts["ka"], "lo": [parts[k] for k in left]}).rows
    pairs = {left[j]: i for i, j in rows.tolist()}
    assert not set(joined) & set(pairs)
    assert all(k == i for k, i in pairs.items())
    assert len(pairs) >= 0.97 * (300 - 2 * len(joined))


def test_blank_lines_hold_their_place_and_are_left_out(aligned: Aligned) -> None:
    texts = invented(300)
    texts["ka"][50] = texts["lo"][50] = texts["lo"][120] = ""
    alignment = aligned(texts)
    assert alignment.rows.tolist() == [[k, k] for k in range(300) if k not in (50, 120)]
    assert alignment.report["pairs"]["ka-lo"]["left out"]["lo: blank"] == 2


def test_unrelated_files_come_out_nearly_empty_and_say_so(aligned: Aligned) -> None:
    alignment = aligned({"ka": invented(400, seed=1)["ka"], "lo": invented(400, seed=2)["lo"]})
    assert len(alignment.rows) <= 20
    assert "translations of each other" in alignment.report["pairs"]["ka-lo"]["warning"]


def test_half_of_one_file_missing(aligned: Aligned) -> None:
    texts = invented(1000)
    alignment = aligned({"ka": texts["ka"], "lo": texts["lo"][300:800]})
    assert all(i == j + 300 for i, j in alignment.rows.tolist())
    assert len(alignment.rows) >= 490


@pytest.mark.parametrize(
    "texts",
    [
        {"ka": [], "lo": []},
        {"ka": ["one line."], "lo": []},
        {"ka": [], "lo": ["one line.", "two."]},
        {"ka": ["one line 17."], "lo": ["a line 17."]},
        {"ka": [""] * 300, "lo": [""] * 300},
        {"ka": [""] * 40, "lo": invented(300)["lo"]},
        {"ka": ["all the same."] * 300, "lo": ["toujours la même chose."] * 200},
        {"ka": ["..."] * 100, "lo": ["17"] * 90},
        {"ka": invented(1200)["ka"], "lo": invented(3)["lo"]},
    ],
    ids=["empty", "one and none", "none and two", "one", "blank", "blank and text", "same", "marks", "1200 and 3"],
)
def test_odd_files_do_no_harm(aligned: Aligned, texts: Texts) -> None:
    alignment = aligned(texts)
    rows = alignment.rows
    assert rows.shape == (len(alignment.posteriors), 2)
    assert np.isfinite(alignment.posteriors).all()
    assert len(rows) <= min(map(len, texts.values()))
    assert all(texts["ka"][i] and texts["lo"][j] for i, j in rows.tolist())
    json.dumps(alignment.report, allow_nan=False)


def test_the_report_says_where_the_files_drift(aligned: Aligned) -> None:
    texts = invented(300)
    del texts["lo"][200:203]
    report = aligned(texts).report
    assert report["lines"] == {"ka": 300, "lo": 297}
    assert report["pairs"]["ka-lo"]["kept"] == report["rows"]["in all languages"] == 297
    drift = report["pairs"]["ka-lo"]["drift"]
    assert drift == {
        "places": 1,
        "first": [{"between lines": {"ka": [200, 204], "lo": [200, 201]}, "offset": [0, -3]}],
    }


def test_parts_and_windows_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, origins = all_damaged(invented(700), 0.01, seed=3)

    def rows(size: int) -> list[list[int]]:
        alignment = align({code: saved(tmp_path / code, code, lines, size) for code, lines in texts.items()})
        found, true, surviving, kept = judged(alignment, origins)
        assert found == true
        assert kept >= 0.98 * surviving
        return alignment.rows.tolist()

    whole = rows(1000)
    assert rows(1000) == whole
    assert rows(37) == whole
    monkeypatch.setattr(passes, "_LONGEST", 50)
    monkeypatch.setattr(passes, "_BATCH", 3)
    in_small_windows = rows(1000)
    assert len(set(map(tuple, in_small_windows)) ^ set(map(tuple, whole))) <= 0.01 * len(whole)


def test_progress_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []
    align({code: saved(tmp_path / code, code, lines, 500) for code, lines in invented(300).items()}, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.003, 0.03])
def test_real_documents_of_ten_sentences(aligned: Aligned, rate: float) -> None:
    texts = real("bo", "zh", "en", sentences=10)
    counts = np.zeros(4, int)
    for seed in range(3):
        left, origins = all_damaged(texts, rate, seed)
        counts += judged(aligned(left), origins)
    found, true, surviving, kept = counts
    assert true >= 0.995 * found
    assert kept >= 0.99 * surviving


@pytest.mark.parametrize("code", ["zh", "en"])
def test_real_sentences(aligned: Aligned, code: str) -> None:
    left, origins = all_damaged(real("bo", code), 0.003, seed=0)
    found, true, surviving, kept = judged(aligned(left), origins)
    assert true >= 0.99 * found
    assert kept >= 0.9 * surviving


def test_posteriors_are_those_of_all_paths() -> None:
    """Every way through three lines and a band of three, one by one."""
    generator = np.random.default_rng(0)
    lines, band, rare = 3, 3, 0.2
    single = generator.normal(size=(lines, 2, band)).astype(np.float32)
    joined = tuple(generator.normal(size=(lines, 2, band)).astype(np.float32) for _ in range(2))
    found = chain.posteriors(single, (joined[0], joined[1]), rare)
    for window in range(2):
        pair = np.exp(single[:, window].astype(np.float64))
        join = [np.exp(part[:, window].astype(np.float64)) * rare / 8 for part in joined]
        total, of_pairs = 0.0, np.zeros((lines, band))
        for weight, pairs in ways(pair, join, rare):
            total += weight
            for place in pairs:
                of_pairs[place] += weight
        np.testing.assert_allclose(found[:, window], of_pairs / total, rtol=1e-5)


def ways(pair: np.ndarray, join: list[np.ndarray], rare: float) -> Iterator[tuple[float, list[tuple[int, int]]]]:
    """Weights of all ways through a window, and the pairs on each."""
    lines, band = pair.shape
    opened = rare / 4

    def onward(n: int, b: int, in_gap: bool) -> Iterator[tuple[float, list[tuple[int, int]]]]:
        if not 0 <= b < band:
            return
        steps: list[tuple[float, int, int, bool, bool]] = []  # weight, lines, offset, to a gap, by a pair
        if n < lines:
            steps += [
                ((0.4 if in_gap else 1 - rare) * pair[n, b], 1, 0, False, True),
                (join[1][n, b], 1, 1, False, False),
                (0.3 if in_gap else opened, 1, 0, True, False),
                (0.15 if in_gap else opened, 1, -1, True, False),
            ]
        if n + 2 <= lines:
            steps.append((join[0][n, b], 2, -1, False, False))
        if n:
            steps.append((0.15 if in_gap else opened, 0, 1, True, False))
        if n == lines:
            yield 1.0, []
        for weight, further, aside, to_gap, by_pair in steps:
            for rest, pairs in onward(n + further, b + aside, to_gap):
                yield weight * rest, [(n, b), *pairs] if by_pair else pairs

    return itertools.chain.from_iterable(onward(0, b, False) for b in range(band))


def test_logistic_regression_is_at_its_optimum() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 3))
    true = generator.random(400) < 1 / (1 + np.exp(-(x @ [1.0, -2.0, 0.5] - 1)))
    prior = np.array([0.6, 0.6, 0.1])
    weights = scoring.logistic_regression(x.astype(np.float32), true, prior)

    def cost(w: np.ndarray) -> float:
        odds = x @ w[:-1] + w[-1]
        losses = np.log1p(np.exp(np.where(true, -odds, odds)))
        both_alike = np.where(true, 1, true.sum() / (~true).sum())
        return float(both_alike @ losses + 5 * ((w[:-1] - prior) ** 2).sum() + 0.05 * w[-1] ** 2)

    least = cost(weights)
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 0.05:
        assert cost(weights + step) > least
    assert np.sign(weights[:3]).tolist() == [1, -1, 1]


def test_bounds_are_those_of_all_beads() -> None:
    """Every way to string beads over five sentences and four."""
    lines, others = 5, 4
    beads = np.random.default_rng(0).random((lines, others, 8, 3))
    for s, t, a, b in np.ndindex(beads.shape):
        if s + a + 1 > lines or t + b + 1 > others:
            beads[s, t, a, b] = 0

    def strings(s: int, t: int) -> Iterator[tuple[float, list[tuple[int, int]]]]:
        if (s, t) == (lines, others):
            yield 1.0, [(s, t)]
        for a in range(1, lines - s + 1):
            for b in range(1, min(3, others - t) + 1):
                for weight, places in strings(s + a, t + b):
                    yield weight * beads[s, t, a - 1, b - 1], [(s, t), *places]

    expected = np.zeros((lines + 1, others + 1))
    for weight, places in strings(0, 0):
        for place in places:
            expected[place] += weight
    np.testing.assert_allclose(segments._bound_probabilities(beads), expected / expected[0, 0], atol=1e-12)


def test_a_pair_that_fits_is_not_cut() -> None:
    assert split_pair(" One. Two. ", "一。二。", EN, ZH, 100) == [("One. Two.", "一。二。")]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("", ""),
        ("A sentence. " * 50, ""),
        ("A sentence. " * 50, "一句话"),
        ("no end " * 50, "没有" * 50),
        ("..." * 50, "。" * 50),
        ("One. " * 90, "一。"),
        ("It is 1. " * 60, "是二。" * 60),
    ],
)
def test_what_cannot_be_cut_with_confidence_is_left_out(source: str, target: str) -> None:
    assert split_pair(source, target, EN, ZH, 20 if source else -1) == []


def test_a_sentence_keeps_its_closing_marks() -> None:
    source = " ".join(
        f'He said "number {k} of {k * 7} is 3.5 big." Then (again {k + 500}.) he left.' for k in range(40)
    )
    pieces = split_pair(source, source, EN, EN, 2000)
    assert len(pieces) > 2
    assert all(a == b and len(a) + len(b) <= 2000 for a, b in pieces)
    assert " ".join(a for a, _ in pieces) == source
    assert all(a[0] in "HT" and a[-1] in '".)' for a, _ in pieces)


def test_segments_fit_by_any_measure() -> None:
    source = " ".join(f"The year {k} had {k * 13} days." for k in range(1000, 1040))
    target = "".join(f"{k}年有{k * 13}天。" for k in range(1000, 1040))
    pieces = split_pair(source, target, EN, ZH, lambda a, b: a.count(".") <= 12)
    assert 4 <= len(pieces) <= 5
    for a, b in pieces:
        assert regex.findall(r"\d+", a) == regex.findall(r"\d+", b)


@pytest.mark.parametrize("pair", [("bo", "zh"), ("bo", "en"), ("en", "zh")], ids="-".join)
def test_real_documents_are_cut_where_sentences_meet(pair: tuple[str, str]) -> None:
    """A cut is right between the same sentences, or inside the same one, but for quotation marks that stray."""
    chance, texts = random.Random(0), real(*pair)
    cut = cuts = right = 0
    for _ in range(100):
        size = chance.randrange(10, 31)
        start = chance.randrange(len(texts[pair[0]]) - size)
        own = [texts[code][start : start + size] for code in pair]
        whole = [("" if code == "zh" else " ").join(lines) for code, lines in zip(pair, own, strict=True)]
        longest = len("".join(whole).encode()) // 2
        pieces = split_pair(whole[0], whole[1], load_language(pair[0]), load_language(pair[1]), longest)
        cut += bool(pieces)
        for side in range(2) if pieces else ():
            assert "".join("".join(piece[side] for piece in pieces).split()) == "".join(whole[side].split())
        assert all(len("".join(piece).encode()) <= longest for piece in pieces)
        ends = [list(itertools.accumulate(map(letters, lines))) for lines in own]
        for k in range(1, len(pieces)):
            places = [sum(letters(piece[side]) for piece in pieces[:k]) for side in range(2)]
            cuts += 1
            right += len({(np.searchsorted(e, p), p in e) for e, p in zip(ends, places, strict=True)}) == 1
    assert cut >= 70
    assert right >= 0.98 * cuts


def letters(text: str) -> int:
    return len(regex.findall(r"[\p{L}\p{M}\p{N}]", text))
