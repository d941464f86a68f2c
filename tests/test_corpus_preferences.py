"""Preference pairs through stage 1: read, kept apart from every test set, written for stage: dpo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from conftest import CHINESE
from test_corpus_chain import sentence

from langadapt.corpus.lengths import Cutoff, open_tokenizer, token_lengths
from langadapt.files import check_vouched, read_json_file
from langadapt.models import conversation, encode_conversation
from langadapt.models.chat import user_turn
from langadapt.recipe.training import load_training_settings
from langadapt.training.data import prepare_tokens


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def preference(number: int, chosen: str, rejected: str, rejected_to: int | None = None) -> dict[str, Any]:
    """A record in MiniMind's layout; the answers are to different prompts where ``rejected_to`` says so."""
    asked = [f"Translate: {sentence(n)['en']}" for n in (number, number if rejected_to is None else rejected_to)]
    return {
        "chosen": [message("user", asked[0]), message("assistant", chosen)],
        "rejected": [message("user", asked[1]), message("assistant", rejected)],
    }


def write_recipe(folder: Path, model: Path) -> Path:
    texts = [sentence(n) for n in range(80)]
    lines = [json.dumps({"en": text["en"], "zh": text["zh"]}, ensure_ascii=False) for text in texts]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    records = [preference(n, texts[n]["zh"], sentence(n + 500)["zh"]) for n in range(60)]
    records += [preference(70, texts[70]["zh"], texts[70]["zh"])]  # no preference
    records += [preference(n, texts[n]["zh"], sentence(n + 500)["zh"]) for n in range(3)]  # there already
    records += [preference(71, texts[71]["zh"], sentence(571)["zh"], rejected_to=72)]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "dpo.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = {
        "name": "small",
        "language": "zh",
        "data_dir": str(folder),
        "tokenizer": str(model),
        "output_dir": str(folder / "out"),
        "cutoff_len": 256,
        "max_bad_ratio": 0.1,
        "deduplicate": {"near": None},  # the sentences are near each other by design
        "sources": {
            "pairs": {"layout": "fields", "file": "pairs.jsonl", "fields": {"en": "en", "zh": "zh"}},
            "judged": {"layout": "preferences", "file": "dpo.jsonl", "languages": ["en", "zh"]},
        },
        "cpt": None,
        "sft": {"parts": [{"source": "pairs", "task": "translation", "direction": "en-zh", "count": 40}]},
        "dpo": {"parts": [{"source": "judged", "direction": "en-zh", "count": 100}]},
        "test": {"sft": 6, "dpo": 5, "max_share": 0.2},
        "prompts": {"en-zh": ["Translate: {text}"]},
    }
    path = folder / "preprocess.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def test_pairs_are_written_apart_from_every_test_set(run_script: Callable, tiny_model: Path, tmp_path: Path) -> None:
    done = run_script("1_preprocess.py", "--config", write_recipe(tmp_path, tiny_model))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    report = read_json_file(out / "data_report.json")
    source = report["sources"]["judged"]
    assert source["dropped"] == {
        "the rejected answer is the chosen one": 1,
        "quarantined: cannot be read": 1,
    }
    assert source["parts"]["preference en-zh"]["dropped"] == {"duplicate of a record before": 3}
    assert "answer different prompts" in (out / "quarantine.jsonl").read_text()
    assert report["disjoint"]["twins found"] == 0
    assert report["held out"]["dpo"] == {"wanted": 5, "held out": 5}

    final, test, sft_test = (
        read_json_file(out / f"small_{name}.json") for name in ("dpo_final", "dpo_test", "sft_test")
    )
    first = final[0]
    assert list(first) == [
        "id",
        "source",
        "task",
        "source_lang",
        "target_lang",
        "instruction",
        "input",
        "chosen",
        "rejected",
    ]
    assert first["task"] == "preference"
    asked = {user_turn(record) for record in final}
    assert len(asked) == len(final)
    assert asked.isdisjoint(map(user_turn, test))
    assert asked.isdisjoint(map(user_turn, sft_test))
    blocked = {user_turn(record) for record in sft_test} & {user_turn(preference_of(n)) for n in range(60)}
    assert blocked, "a held-out translation that some preference is about"
    assert len(final) + len(test) + len(blocked - set(map(user_turn, test))) <= 60

    trained_on = tmp_path / "out/small_dpo_filtered_256.json"
    check_vouched(trained_on)
    recipe = {"stage": "dpo", "model_name_or_path": str(tiny_model), "dataset": str(trained_on), "cutoff_len": 256}
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": str(tmp_path / "model")}))
    tokenizer = open_tokenizer(str(tiny_model), None)
    tokens = prepare_tokens(str(trained_on), load_training_settings(tmp_path / "dpo.yaml"), tokenizer, tmp_path / "t")
    assert tokens.counts.records == len(read_json_file(trained_on))
    assert tokens.counts.too_long == 0


def preference_of(number: int) -> dict[str, str]:
    return {"instruction": f"Translate: {sentence(number)['en']}"}


def test_a_preference_is_as_long_as_its_longer_answer(tiny_model: Path) -> None:
    tokenizer = open_tokenizer(str(tiny_model), None)
    record = {"id": "1", "task": "preference", "instruction": CHINESE[0], "chosen": "a", "rejected": "b" * 50}
    longer, _ = encode_conversation(tokenizer, conversation({**record, "output": "b" * 50}))
    assert token_lengths(tokenizer, [record]) == [len(longer)]
    assert Cutoff(tokenizer, len(longer) - 1).excess([record]) == [len(longer)]
    assert Cutoff(tokenizer, len(longer)).excess([record]) == [0]


def test_settings_name_what_a_preference_part_cannot_draw_from(
    run_script: Callable, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_recipe(tmp_path, tiny_model)
    done = run_script("1_preprocess.py", "--config", config, "dpo.parts.0.source=pairs")
    assert done.returncode == 2
    assert "dpo.parts.0: the layout of 'pairs' is fields, not preferences" in done.stderr
