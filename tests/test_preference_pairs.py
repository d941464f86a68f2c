"""Pairs made from a model: seeded draws that outlive a kill, their ranking, what is dropped, and what is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
import yaml
from conftest import CHINESE, TIBETAN, translation_request

from langadapt.errors import UserError
from langadapt.evaluation.preferences.candidates import Answer, Candidates
from langadapt.evaluation.preferences.pairing import make_pairs, similarity
from langadapt.evaluation.preferences.ranking import Ranked, rank
from langadapt.files import check_vouched, read_json_file, read_lines, write_json, write_json_array
from langadapt.inference.decoding import sampler
from langadapt.inference.generation import generate_batched
from langadapt.models import encode_prompt, load_model, load_tokenizer
from langadapt.recipe.pairs import PairSettings
from langadapt.recipe.settings import load_settings
from langadapt.recipe.training import load_training_settings
from langadapt.training.data import prepare_tokens


def pair_settings(**changes: Any) -> PairSettings:
    keys = {"name": "x", "model_path": "m", "dataset": "d.json", "output_dir": "out", "min_margin": 1.0}
    return PairSettings(**keys | changes)


def record(**changes: Any) -> dict[str, Any]:
    languages = {"source_lang": "zh", "target_lang": "bo"}
    return {"id": "r", "instruction": "译：abc", "source_text": "abc", "output": TIBETAN[0], **languages, **changes}


def candidates(*texts: str, **changes: Any) -> Candidates:
    return Candidates(record(**changes), [Answer(text, ended=True) for text in texts])


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.05, 0.35])).repeat(20_000, 1)
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.1, 0.5, 0.05, 0.35]),
        (1.0, 0.8, [0, 0.5 / 0.85, 0, 0.35 / 0.85]),  # 0.5 alone holds less than 0.8
        (0.5, 1.0, [p**2 / 0.385 for p in (0.1, 0.5, 0.05, 0.35)]),
    ):
        choose = sampler(range(20_000), [1] * 20_000, temperature, top_p)
        counts = Counter(choose(logits, range(20_000)).tolist())
        assert [counts[token] / 20_000 for token in range(4)] == pytest.approx(expected, abs=0.015)


def test_an_answer_is_drawn_by_its_seed_and_not_by_its_batch(chat_model: Path) -> None:
    tokenizer, model = load_tokenizer(str(chat_model)), load_model(str(chat_model))
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in CHINESE for _ in range(3)]

    def answers(some: list[int], budget: int) -> dict[int, str]:
        drawn = generate_batched(
            model,
            tokenizer,
            [prompts[index] for index in some],
            stop_ids=[],
            max_new_tokens=8,
            token_budget=budget,
            temperature=2.0,
            seeds=some,
        )
        return {some[index]: answer.text for index, answer in drawn}

    together = answers(list(range(12)), 10_000)
    assert answers(list(range(11, -1, -1)), 1) == together
    assert len(set(together.values())) > 8
    with pytest.raises(UserError, match="a seed for each prompt"):
        next(iter(generate_batched(model, tokenizer, prompts, stop_ids=[], max_new_tokens=1, temperature=1.0)))


def test_scores_are_sacrebleus() -> None:
    one = candidates(TIBETAN[0][:9], TIBETAN[1], TIBETAN[0])
    (ranked,) = rank([one], pair_settings())
    expected = [sacrebleu.sentence_chrf(answer.text, [TIBETAN[0]]).score for answer in one.answers]
    assert ranked.scores == pytest.approx(expected)
    assert ranked.reference == pytest.approx(100)


def test_the_best_against_the_worst_or_the_second() -> None:
    ranked = Ranked(candidates("one", "two", "three", "two"), [10.0, 30.0, 20.0, 30.0], 100.0)
    (pair,), dropped = make_pairs([ranked], pair_settings())
    assert (pair.record["chosen"], pair.record["rejected"], pair.margin) == ("two", "one", 20.0)
    assert dropped.counts == {"answer: drawn before": 1}
    assert "output" not in pair.record
    assert "source_text" not in pair.record
    (pair,), _ = make_pairs([ranked], pair_settings(rejected="second"))
    assert (pair.record["chosen"], pair.record["rejected"]) == ("two", "three")
    (pair,), _ = make_pairs([ranked], pair_settings(chosen="reference"))
    assert (pair.record["chosen"], pair.record["rejected"], pair.margin) == (TIBETAN[0], "one", 90.0)


def test_what_teaches_nothing_is_dropped_and_counted() -> None:
    long = "x" * 40
    cases = {
        "record: margin below min_margin": Ranked(candidates("one", "two"), [10.0, 10.5], 100.0),
        "record: answers nearly the same": Ranked(candidates(long, long + "y"), [10.0, 30.0], 100.0),
        "answer: a copy of the source": Ranked(candidates("abc", "two"), [10.0, 30.0], 100.0),
        "answer: empty": Ranked(candidates("", "two"), [10.0, 30.0], 100.0),
        "answer: broken characters": Ranked(candidates("a\ufffd", "two"), [10.0, 30.0], 100.0),
        "answer: cut off": Ranked(Candidates(record(), [Answer("one", False), Answer("two", True)]), [1.0, 9.0], 100.0),
    }
    for reason, ranked in cases.items():
        pairs, dropped = make_pairs([ranked], pair_settings())
        assert not pairs
        assert dropped.counts[reason] == 1
        assert dropped.examples[reason][0][0] == "r"
    assert similarity("abcd", "abcf") == 0.75


def test_judgements_rank_and_are_checked(tmp_path: Path) -> None:
    settings = pair_settings(
        rank_by="judgements", judgements=str(tmp_path / "ranked.jsonl"), output_dir=str(tmp_path), min_margin=1
    )
    some = [candidates("one", "two", "three", id="a"), candidates("one", "two", "three", id="b")]
    lines = [{"id": "a", "ranking": [2, [0, 1]]}]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (ranked,) = rank(some, settings)
    assert ranked.scores == [-1.0, -1.0, 0.0]
    (pair,), _ = make_pairs([ranked], settings)
    assert (pair.record["chosen"], pair.margin) == ("three", 1.0)
    for line, said in (
        ({"id": "c", "ranking": [0]}, "'c' is no candidate"),
        ({"id": "a", "ranking": [0, 3]}, "expected numbers from 0 to 2"),
        ({"id": "a", "ranking": [0, 0]}, "expected numbers from 0 to 2"),
        ({"id": "a"}, "line 1: no record with `id` and `ranking`"),
    ):
        (tmp_path / "ranked.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(UserError, match=said):
            rank(some, settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank_by": "labse"}, "needs labse_model"),
        ({"rank_by": "comet", "comet_model": "m.ckpt", "min_margin": 5.0}, "comet is at most 1"),
        ({"rank_by": "judgements", "chosen": "reference"}, "says nothing"),
        ({"samples": 1}, "draw more"),
        ({"labse_model": "m"}, "labse_model is set, but rank_by is chrf"),
    ],
)
def test_contradictory_settings(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pair_settings(**changes)


def test_from_a_training_file_to_files_that_dpo_takes(run_script: Callable, chat_model: Path, tmp_path: Path) -> None:
    prompts = [translation_request(text) for text in CHINESE] + [f"{translation_request(text)}x" for text in CHINESE]
    rows = [
        record(id=f"r{n}", instruction=prompt, source_text=CHINESE[n % 4], output=TIBETAN[::-1][n % 4], source="s")
        for n, prompt in enumerate(prompts)
    ]
    write_json_array(tmp_path / "x_sft_final.json", rows)
    keys = {"name": "x", "model_path": str(chat_model), "dataset": str(tmp_path / "x_sft_final.json")}
    keys |= {"output_dir": str(tmp_path / "pairs"), "temperature": 1.3, "samples": 8, "min_margin": 1.0, "held_out": 1}
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(keys))
    command = ("-m", "langadapt.evaluation.preferences", "--config", tmp_path / "pairs.yaml")
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "pairs"
    report = read_json_file(out / "data_report.json")
    final, test = (read_json_file(out / f"x_dpo_{part}.json") for part in ("final", "test"))
    assert len(final) + len(test) == report["pairs"] == sum(report["margins"]["counts"])
    assert {row["instruction"] for row in final}.isdisjoint(row["instruction"] for row in test)
    drawn = [json.loads(line) for _, line in read_lines(out / "x_candidates.jsonl")]
    by_id = {line["id"]: line["candidates"] for line in drawn}
    assert all({row["chosen"], row["rejected"]} <= set(by_id[row["id"]]) for row in final)
    assert "## Margins" in (out / "data_report.md").read_text()

    # After a kill the answers that stand there are not drawn again, and the others come out as they would have.
    partial = out / "x_candidates.partial.jsonl"
    lines = partial.read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[:10]))
    before = (out / "x_dpo_final.json").read_bytes()
    assert run_script(*command).returncode == 0
    assert (out / "x_dpo_final.json").read_bytes() == before
    assert len(partial.read_text().splitlines()) == len(lines) == 1 + 8 * len(rows)

    check_vouched(out / "x_dpo_final.json")
    recipe = {"stage": "dpo", "model_name_or_path": str(chat_model), "cutoff_len": 256}
    recipe |= {"dataset": str(out / "x_dpo_final.json"), "output_dir": str(tmp_path / "dpo")}
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(recipe))
    settings = load_training_settings(tmp_path / "dpo.yaml")
    tokens = prepare_tokens(settings.dataset, settings, load_tokenizer(str(chat_model)), tmp_path / "tokens")
    assert tokens.counts.records == len(final)

    write_json(out / "data_report.json", {"files": {}})
    assert "is stage 1's" in run_script(*command).stderr


def test_no_test_set_is_asked(tmp_path: Path, run_script: Callable) -> None:
    settings = load_settings(PairSettings, "configs/minimind_en_zh_hant/preferences.yaml", ["dataset=x_sft_test.json"])
    from langadapt.evaluation.preferences.candidates import read_records

    with pytest.raises(UserError, match="a test set"):
        read_records(settings)
