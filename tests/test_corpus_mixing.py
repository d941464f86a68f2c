"""How much each part of a mixture gives: counts, weights, token budgets, repeats, replay."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from langadapt.corpus.lengths import open_tokenizer, token_lengths
from langadapt.corpus.mixing import Budget, budgets, share_out
from langadapt.recipe.mixtures import Mixture, TextPart

SYLLABLES = [f"{first}{second}" for first in "ཀཁགངཅཆཇཉཏཐ" for second in "དནབམའརལས"]


def test_shares_are_proportional_and_what_one_cannot_take_goes_to_the_others() -> None:
    assert share_out(100, [3, 1], [1000, 1000]) == [75, 25]
    assert share_out(10, [1, 1, 1], [99, 99, 99]) == [4, 3, 3]
    assert share_out(100, [3, 1], [10, 1000]) == [10, 90]
    assert share_out(100, [1, 1, 2], [5, 1000, 20]) == [5, 75, 20]
    assert share_out(100, [1, 1], [10, 20]) == [10, 20]
    assert share_out(100, [0, 1], [10, 1000]) == [0, 100]
    assert share_out(0, [1, 1], [10, 20]) == share_out(10, [1, 1], [0, 0]) == [0, 0]


def test_shares_add_up_and_are_within_one_of_exact() -> None:
    chance = random.Random(0)
    for _ in range(300):
        weights = [chance.random() for _ in range(chance.randrange(1, 7))]
        most = [chance.randrange(200) for _ in weights]
        total = chance.randrange(500)
        shares = share_out(total, weights, most)
        assert sum(shares) == min(total, sum(most))
        assert all(share <= limit for share, limit in zip(shares, most, strict=True))
        free = [k for k in range(len(weights)) if shares[k] < most[k] - 1]
        # Those that are not full have shares in proportion to their weights.
        assert all(
            abs(shares[a] / weights[a] - shares[b] / weights[b]) <= 1 / weights[a] + 1 / weights[b]
            for a in free
            for b in free
        )


def mixture(**keys: Any) -> Mixture[TextPart]:
    return Mixture[TextPart].model_validate(keys)


def test_budgets_follow_size_temperature_weight_and_repeats() -> None:
    two = [{"source": "large"}, {"source": "small"}]
    assert budgets(mixture(count=100, parts=two), [9000, 1000], [1, 1]) == [Budget(90), Budget(10)]
    # Square roots of 8100 and 100: 90 to 10; without repeats the small one has no more than 100.
    assert budgets(mixture(count=100, temperature=2, parts=two), [8100, 100], [1, 1]) == [Budget(90), Budget(10)]
    assert budgets(mixture(count=5000, temperature=2, parts=two), [8100, 100], [1, 1]) == [Budget(4900), Budget(100)]
    repeated = [two[0], two[1] | {"repeats": 4}]
    assert budgets(mixture(count=5000, temperature=2, parts=repeated), [8100, 100], [1, 1])[1] == Budget(400)
    weighted = [two[0] | {"weight": 1}, two[1] | {"weight": 3}]
    assert budgets(mixture(count=100, parts=weighted), [9000, 1000], [1, 1]) == [Budget(25), Budget(75)]
    own = [two[0], two[1] | {"tokens": 5000}]
    assert budgets(mixture(count=100, parts=own), [9000, 1000], [1, 1]) == [Budget(100), Budget(5000, "tokens")]
    assert budgets(mixture(tokens=100, parts=two), [1, 1], [3000, 1000]) == [Budget(75, "tokens"), Budget(25, "tokens")]
    # Nobody gives less because more was asked for than there is; what is missing is asked for all the same.
    equal = [two[0] | {"weight": 1}, two[1] | {"weight": 1}]
    assert budgets(mixture(count=910, parts=equal), [10, 900], [1, 1]) == [Budget(10), Budget(900)]
    assert budgets(mixture(count=912, parts=equal), [10, 900], [1, 1]) == [Budget(11), Budget(901)]
    assert budgets(mixture(count=100, parts=two), [0, 0], [0, 0]) == [Budget(50), Budget(50)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parts": [{"source": "a"}]}, "parts.0 has no count"),
        ({"count": 5, "parts": [{"source": "a", "count": 3}]}, "no part shares"),
        ({"count": 5, "tokens": 5, "parts": [{"source": "a"}]}, "exclude each other"),
        ({"count": 5, "parts": [{"source": "a", "weight": 1}, {"source": "b"}]}, "all a weight or none"),
        ({"parts": [{"source": "a", "count": 1, "tokens": 1}]}, "exclude each other"),
    ],
)
def test_unclear_sizes_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        mixture(**keys)


@pytest.fixture
def draw(run_script: Callable, tiny_model: Path, tmp_path: Path) -> Callable:
    """Run stage 1 on 200 Tibetan lines, 12 more, 150 English ones and 40 pairs; return cpt_final and the report."""
    chance = random.Random(1)
    bo = ["་".join(chance.choices(SYLLABLES, k=20)) + "།" for _ in range(252)]
    en = [" ".join(chance.choices([f"word{chr(97 + k)}" for k in range(26)], k=12)) for _ in range(190)]
    for name, lines in (("bo", bo[:200]), ("few", bo[200:212]), ("en", en[:150])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = [{"source": a, "target": b, "source_lang": "en"} for a, b in zip(en[150:], bo[212:], strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")

    def run(cpt: dict[str, Any], **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        recipe = {
            "name": "x",
            "language": "bo",
            "data_dir": str(tmp_path),
            "tokenizer": str(tiny_model),
            "output_dir": str(tmp_path / "out"),
            "sources": {
                name: {"layout": "lines", "files": {code: f"{name}.txt"}}
                for name, code in (("bo", "bo"), ("few", "bo"), ("en", "en"))
            }
            | {"pairs": {"layout": "pairs", "file": "pairs.jsonl", "languages": ["en", "bo"]}},
            "cpt": cpt,
            "sft": {"parts": [{"source": "pairs", "task": "translation", "direction": "en-bo", "count": 20}]},
            "test": {"cpt": 10, "sft": 2},
            "prompts": {"en-bo": ["Translate: {text}"]},
            **more,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
        result = run_script("1_preprocess.py", "--config", tmp_path / "recipe.yaml")
        assert result.returncode == 0, result.stderr
        found = (
            json.loads((tmp_path / "out" / name).read_text("utf-8"))
            for name in ("x_cpt_final.json", "data_report.json")
        )
        return tuple(found)

    return run


def test_replay_and_repeats_reach_the_file(draw: Callable, tmp_path: Path) -> None:
    records, report = draw(
        {
            "count": 100,
            "parts": [
                {"source": "bo", "weight": 6},
                {"source": "few", "weight": 3, "repeats": 5},
                {"source": "en", "language": "en", "weight": 1},
            ],
        }
    )
    assert Counter(record["source"] for record in records) == {"bo": 60, "few": 30, "en": 10}
    assert {record["language"] for record in records if record["source"] == "en"} == {"en"}
    ids = [record["id"] for record in records]
    assert len(set(ids)) == len(ids)
    few = Counter(record["text"] for record in records if record["source"] == "few")
    assert max(few.values()) - min(few.values()) <= 1
    assert max(few.values()) == 3
    assert {id_.partition("#")[2] for id_ in ids if id_.startswith("few")} == {"", "2", "3"}
    drawn = report["draws"]["few lm bo"]
    assert drawn["drawn"] + drawn["drawn again"] == 30
    assert drawn["shortfall"] == 0
    # Replay is for training; what is held out is in the language being taught.
    test = json.loads((tmp_path / "out/x_cpt_test.json").read_text("utf-8"))
    assert {record["language"] for record in test} == {"bo"}
    # The parts are mixed, not one behind the other.
    assert len({record["source"] for record in records[:20]}) > 1


def test_what_sft_alone_reads_takes_no_text_from_cpt(draw: Callable, tmp_path: Path) -> None:
    pairs = [json.loads(line)["target"] for line in (tmp_path / "pairs.jsonl").read_text("utf-8").splitlines()]
    with open(tmp_path / "few.txt", "a", encoding="utf-8") as few:
        few.write("\n".join(pairs[:30]) + "\n")
    _, report = draw({"count": 1000, "parts": [{"source": "few"}]})
    assert report["draws"]["few lm bo"]["available"] == 42
    assert report["duplicates"]["equal"] == 30


def test_near_texts_are_compared_in_their_normal_form(draw: Callable, tmp_path: Path) -> None:
    """The same text, one syllable apart, with a letter that has two spellings in each: as written none is the same."""
    text = "་".join(f"{syllable}\u0f43" for syllable in SYLLABLES[:60])
    lines = [f"{text}།", text.replace("\u0f43", "\u0f42\u0fb7") + "་ལ།"]
    (tmp_path / "few.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, report = draw({"count": 100, "parts": [{"source": "few"}, {"source": "bo"}]}, deduplicate={"near": 0.8})
    assert report["duplicates"]["near"] == 1
    assert report["draws"]["few lm bo"]["available"] == 1


def test_one_source_in_two_languages_gives_ids_of_their_own(draw: Callable) -> None:
    parts = [{"source": "pairs"}, {"source": "pairs", "language": "en"}]
    records, report = draw({"count": 1000, "parts": parts})
    ids = [record["id"] for record in records]
    assert len(ids) == len(set(ids)) > 40
    assert report["draws"]["pairs lm bo"]["shortfall"] > 0


def test_a_cutoff_that_nothing_fits_is_an_error(run_script: Callable, draw: Callable, tmp_path: Path) -> None:
    draw({"count": 10, "parts": [{"source": "bo"}]})
    result = run_script("1_preprocess.py", "--config", tmp_path / "recipe.yaml", "cutoff_len=5")
    assert result.returncode == 2
    assert "`cutoff_len`=5" in result.stderr


def test_a_token_budget_is_met_by_the_record_that_reaches_it(draw: Callable, tiny_model: Path) -> None:
    records, report = draw({"tokens": 3000, "parts": [{"source": "bo"}, {"source": "en", "language": "en"}]})
    lengths = token_lengths(open_tokenizer(str(tiny_model), None), records)
    for name, code in (("bo", "bo"), ("en", "en")):
        drawn = report["draws"][f"{name} lm {code}"]
        mine = [n for n, record in zip(lengths, records, strict=True) if record["source"] == name]
        assert drawn["unit"] == "tokens"
        assert drawn["wanted"] <= sum(mine) < drawn["wanted"] + max(mine)
    assert sum(draw["wanted"] for name, draw in report["draws"].items() if " lm " in name) == 3000


def test_the_draw_is_the_same_for_any_number_of_workers(draw: Callable) -> None:
    parts = [{"source": "bo"}, {"source": "few", "repeats": 2}]
    alone, _ = draw({"count": 100, "temperature": 3, "parts": parts}, workers=1)
    together, _ = draw({"count": 100, "temperature": 3, "parts": parts}, workers=3)
    assert alone == together
