"""BLEU, chrF and chrF++ against the sacrebleu command line, the floors beside them, and all of one direction."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt import metrics
from langadapt.errors import UserError
from langadapt.evaluation.results import Prediction, Prompt, Score, Translation
from langadapt.evaluation.scores.contamination import FoundItems
from langadapt.evaluation.scores.corpus import count, floor_texts, score_corpus
from langadapt.evaluation.scores.scoring import length_buckets, origins, score_translation
from langadapt.metrics import METRICS, make_metric
from langadapt.recipe import load_language
from langadapt.text import bleu_units, units

HYPOTHESES = [TIBETAN[0], "ང་ཚོས་བོད་ཡིག་སློབ་ཀྱི་ཡོད།", "", "སྤྱི་ལོ་༢༠༢༤ ལོའི་ཟླ་བ་གསུམ་པ།"]
CHINESE_HYPOTHESES = ["藏语文很重要。", "我们学习藏文。", "今天天气好。", "2025年3月。"]
RESAMPLES = 200


def score(name: str, language: str, hypotheses: Sequence[str], references: Sequence[str], **floors: list[str]) -> Score:
    metric = make_metric(name, load_language(language))  # type: ignore[arg-type]
    counts = count(metric, {"ours": hypotheses, **floors}, references)
    return score_corpus(counts.pop("ours"), counts, RESAMPLES)


def sacrebleu(folder: Path, hypotheses: Sequence[str], references: Sequence[str], *options: str) -> dict:
    """What the command line says of two files with one sentence a line."""
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", "-f", "json", "-w", "12", "--force"]
    command += ["--confidence", "--confidence-n", str(RESAMPLES), *options]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def cut(texts: Sequence[str]) -> list[str]:
    return [" ".join(bleu_units(text)) for text in texts]


@pytest.mark.parametrize(
    ("name", "language", "hypotheses", "references", "options"),
    [
        ("bleu", "bo", cut(HYPOTHESES), cut(TIBETAN), ["-m", "bleu", "--tokenize", "none"]),
        ("bleu", "zh", CHINESE_HYPOTHESES, CHINESE, ["-m", "bleu", "--tokenize", "zh"]),
        ("bleu", "en", ENGLISH[::-1], ENGLISH, ["-m", "bleu", "--tokenize", "13a"]),
        ("chrf", "bo", HYPOTHESES, TIBETAN, ["-m", "chrf"]),
        ("chrf++", "bo", HYPOTHESES, TIBETAN, ["-m", "chrf", "--chrf-word-order", "2"]),
    ],
)
def test_scores_intervals_and_signatures_are_sacrebleus(
    tmp_path: Path, name: str, language: str, hypotheses: list[str], references: list[str], options: list[str]
) -> None:
    """The command line gets Tibetan cut into syllables for BLEU; we get it as it is."""
    given = (HYPOTHESES, TIBETAN) if language == "bo" else (hypotheses, references)
    found = score(name, language, *given)
    expected = sacrebleu(tmp_path, hypotheses, references, *options)
    assert 0 < found.score < 100
    assert found.score == pytest.approx(expected["score"])
    assert found.interval is not None
    mean, half = expected["confidence_mean"], expected["confidence_var"]
    assert (found.interval.low, found.interval.high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    ours = expected["signature"].replace("tok:none", "tok:tsheg-syllables") if name == "bleu" else expected["signature"]
    assert found.signature == ours
    assert f"bs:{RESAMPLES}|seed:12345" in ours


@pytest.mark.parametrize("name", METRICS)
def test_many_items_are_counted_as_sacrebleu_counts_them_at_once(name: str) -> None:
    """More than are counted at a time; parts of them score what they would alone."""
    metric = make_metric(name, load_language("bo"))  # type: ignore[arg-type]
    hypotheses, references = (HYPOTHESES * 40)[:150], (TIBETAN[::-1] * 40)[:150]
    counts = count(metric, {"ours": hypotheses, "floor": references}, references)
    assert counts["ours"].score() == pytest.approx(metric.corpus_score(hypotheses, [references]).score)
    assert counts["floor"].score() == pytest.approx(100)
    part = [1, 70, 149]
    alone = metric.corpus_score([hypotheses[item] for item in part], [[references[item] for item in part]])
    assert counts["ours"].score(part) == pytest.approx(alone.score)


def test_resamples_without_a_match_have_an_interval_too() -> None:
    found = score("chrf", "bo", ["", TIBETAN[1], ""], TIBETAN[:3])
    assert found.interval is not None
    assert found.interval.low < found.score < found.interval.high


def test_syllables_are_what_is_counted() -> None:
    """One wrong syllable of five leaves four; as words between spaces nothing would match."""
    found = score("bleu", "bo", ["བོད་སྐད་ནི་ཡག་པོ"], ["བོད་སྐད་ནི་ཡག་མོ"])
    assert found.score == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert found.interval is None


@pytest.mark.parametrize(
    ("name", "texts"),
    [("chrf", ["ཀཀཀཀཀཀཀ", "ཁཁཁཁཁཁཁ", "གགགགགགག"]), ("bleu", ["ཀ་ཀ་ཀ་ཀ་ཀ", "ཁ་ཁ་ཁ་ཁ་ཁ", "ག་ག་ག་ག་ག"])],
)
def test_the_floor_has_no_hypothesis_beside_its_own_reference(name: str, texts: list[str]) -> None:
    """Texts without a letter in common score 100 in place and exactly 0 in any other."""
    found = score(name, "bo", texts, texts, **floor_texts(texts, texts, [None] * 3))
    assert found.score == found.floors["copied_source"] == pytest.approx(100)
    assert found.floors["shuffled"] == pytest.approx(0, abs=1e-6)


def test_floors_are_what_is_there() -> None:
    assert floor_texts(["a"], ["b"], [None]) == {"copied_source": ["b"]}
    floors = floor_texts(["a", "b", "c"], ["1", "2", "3"], ["x", "y", "z"])
    assert sorted(floors["shuffled"]) == ["a", "b", "c"]
    assert floors["neighbour"] == ["x", "y", "z"]
    assert "neighbour" not in floor_texts(["a", "b"], ["1", "2"], ["x", None])


def test_flores200_is_refused_without_its_model_and_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sacrebleu.tokenizers import tokenizer_spm

    sentencepiece = pytest.importorskip("sentencepiece")

    def download(*_: object) -> None:
        raise AssertionError("sacrebleu is about to download")

    monkeypatch.setattr(tokenizer_spm, "download_file", download)
    for module in (metrics, tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    target = load_language("bo").model_copy(update={"bleu_tokenizer": "flores200"})
    with pytest.raises(UserError, match=r"configs/languages/bo\.yaml.*flores200sacrebleuspm"):
        make_metric("bleu", target)

    (tmp_path / "models").mkdir()
    (tmp_path / "lines").write_text("\n".join(TIBETAN * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines"), model_prefix=str(tmp_path / "m"), vocab_size=36, minloglevel=2
    )
    (tmp_path / "m.model").rename(tmp_path / "models" / "flores200sacrebleuspm")
    found = score_corpus(count(make_metric("bleu", target), {"ours": HYPOTHESES}, TIBETAN)["ours"], {}, RESAMPLES)
    assert 0 < found.score < 100
    assert "tok:flores200" in found.signature


def prediction(number: int, **fields: object) -> Prediction:
    values: dict = {
        "test_set": "ntrex",
        "id": f"item-{number}",
        "direction": "zh-bo",
        "prompt_name": "4-shot",
        "source": CHINESE[number % 4],
        "reference": TIBETAN[number % 4],
        "hypothesis": HYPOTHESES[number % 4],
        "prompt": "",
        "examples": 4,
        "stop_reason": "stop",
        "tokens": 1,
    }
    return Prediction(**(values | fields))


PROMPT = Prompt(format="few_shot", asked=4, examples={4: 80}, first="")


def translation(predictions: list[Prediction], **options: object) -> Translation:
    return score_translation(predictions, PROMPT, resamples=RESAMPLES, **options)  # type: ignore[arg-type]


def test_a_direction_is_scored_in_the_targets_normal_form() -> None:
    """A non-breaking tsheg and a byte order mark are no errors, in no figure."""
    plain = translation([prediction(n) for n in range(4)])
    odd = translation([prediction(n, hypothesis="\ufeff" + HYPOTHESES[n].replace("་", "༌") + " ") for n in range(4)])
    assert odd == plain
    assert (plain.test_set, plain.direction, plain.n, list(plain.scores)) == ("ntrex", "zh-bo", 4, list(METRICS))
    assert plain.scores["chrf"] == score(
        "chrf", "bo", HYPOTHESES, TIBETAN, **floor_texts(HYPOTHESES, CHINESE, [None] * 4)
    )
    assert plain.diagnostics.empty == 1
    assert plain.slices == []
    assert plain.contamination is None


def test_slices_are_scored_as_if_they_were_all() -> None:
    predictions = [prediction(n, origin="news" if n % 4 else "dates") for n in range(80)]
    found = translation(predictions)
    assert {(part.by, part.name): part.n for part in found.slices if part.by == "source"} == {
        ("source", "news"): 60,
        ("source", "dates"): 20,
    }
    for part, items in (
        (found.slices[-2], [p for p in predictions if p.origin == "news"]),
        (found.slices[-1], [p for p in predictions if p.origin == "dates"]),
    ):
        assert part.scores == {name: value.score for name, value in translation(items).scores.items()}
    lengths = [part for part in found.slices if part.by == "length"]
    assert sum(part.n for part in lengths) == 80
    assert len(lengths) > 1


@pytest.mark.parametrize("count", [0, 1, 39, 40, 70, 200])
def test_every_item_is_in_one_length_bucket(count: int) -> None:
    references = ["ཀ་" * (1 + n * n % 23) for n in range(count)]
    buckets = length_buckets(references, "syllables")
    if count < 40:
        assert buckets == {}
        return
    assert sorted(item for items in buckets.values() for item in items) == list(range(count))
    assert len(buckets) == min(4, count // 20)
    for name, items in buckets.items():
        low, high = (int(end) for end in name.removesuffix(" syllables").split("-"))
        assert {low, high} <= {len(units(references[item])) for item in items} <= set(range(low, high + 1))


def test_references_of_one_length_make_no_buckets() -> None:
    assert length_buckets(["ཀ་ཁ"] * 100, "syllables") == {}
    assert list(length_buckets(["ཀ"] * 90 + ["ཀ་ཁ"] * 10, "syllables")) == ["1 syllables", "2 syllables"]


def test_a_length_of_few_references_shares_a_bucket() -> None:
    assert length_buckets(["ཀ"] * 91 + ["ཀ་ཁ"] * 9, "syllables") == {}
    buckets = length_buckets(["ཀ"] * 60 + ["ཀ་ཁ"] * 34 + ["ཀ་ཁ་ག"] * 6, "syllables")
    assert {name: len(items) for name, items in buckets.items()} == {"1 syllables": 60, "2-3 syllables": 40}


def test_rare_origins_are_taken_together() -> None:
    names = ["news"] * 30 + ["web"] * 25 + ["law"] * 3 + [None]
    assert {name: len(items) for name, items in origins(names).items()} == {"news": 30, "web": 25, "others": 4}
    assert origins([None] * 50) == origins(["a"] * 50) == origins(["a", "b"]) == {}


def test_the_clean_part_is_without_items_found_by_source_or_reference() -> None:
    predictions = [prediction(n) for n in range(4)]
    shares = dict.fromkeys([*CHINESE, *TIBETAN], 0.0) | {CHINESE[0]: 1.0, TIBETAN[1]: 0.5, TIBETAN[2]: 0.49}
    found = translation(predictions, contamination=FoundItems(8, 0.5, shares)).contamination
    assert found is not None
    assert (found.ngram, found.threshold, found.contaminated, found.clean) == (8, 0.5, 2, 2)
    assert found.scores == {name: value.score for name, value in translation(predictions[2:]).scores.items()}
    everything = FoundItems(8, 0.5, dict.fromkeys(shares, 1.0))
    none = translation(predictions, contamination=everything).contamination
    assert none is not None
    assert (none.clean, none.scores) == (0, {})
    with pytest.raises(KeyError):
        translation(predictions, contamination=FoundItems(8, 0.5, {}))
