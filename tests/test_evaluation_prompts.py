"""What a model is asked, and how long it may answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.generation.prompts import ask, choose_prompts, few_shot_text, pick_examples
from langadapt.models import encode_text, load_model, load_tokenizer
from langadapt.models.building import train_tokenizer
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.text import units

Record = dict[str, Any]


def pair(name: str, source: str, target: str) -> Record:
    return {
        "id": name,
        "task": "translation",
        "instruction": f"请翻译成藏文：{source}",
        "input": "",
        "output": target,
        "source_lang": "zh",
        "target_lang": "bo",
        "source_text": source,
    }


RECORDS = [pair(str(n), source, target) for n, (source, target) in enumerate(zip(CHINESE, TIBETAN, strict=True))]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def question(tokenizer: Any, record: Record, prompt_format: str, **changes: Any) -> Any:
    options = {"examples": [], "prompt_language": "zh", "length_ratio": 1.5, "window": None} | changes
    return ask(tokenizer, record, prompt_format, **options)


def test_a_few_shot_prompt_letter_for_letter() -> None:
    two_lines = pair("x", "一\n二", "ཀ\nཁ")
    assert few_shot_text(RECORDS[0], [two_lines, RECORDS[1]], "zh") == (
        f"中文: 一 二\n藏文: ཀ ཁ\n\n中文: {CHINESE[1]}\n藏文: {TIBETAN[1]}\n\n中文: {CHINESE[0]}\n藏文:"
    )
    assert few_shot_text(RECORDS[0], [], "en") == f"Chinese: {CHINESE[0]}\nTibetan:"
    with pytest.raises(UserError, match=r"zh\.yaml.*prompt_language=fr"):
        few_shot_text(RECORDS[0], [], "fr")


def test_a_chat_prompt_is_the_records_user_turn_in_the_models_template(tokenizer: Any) -> None:
    asked = question(tokenizer, RECORDS[0], "chat", examples=RECORDS[1:])
    assert asked.text == tokenizer.decode(asked.ids)
    assert asked.text == f"<|im_start|>user\n{RECORDS[0]['instruction']}<|im_end|>\n<|im_start|>assistant\n"
    assert asked.examples == 0


def test_a_chat_model_is_asked_in_its_own_format_and_in_the_one_that_all_models_share(
    tiny_model: Path, tokenizer: Any
) -> None:
    generation = load_model(str(tiny_model)).generation_config
    both = EvaluationSettings(num_fewshot=[3, 0, 1])
    shared = [("few_shot", 0), ("few_shot", 1), ("few_shot", 3)]
    assert choose_prompts(tokenizer, generation, both) == shared  # it has a template, but does not stop at turns
    generation.eos_token_id = [generation.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert choose_prompts(tokenizer, generation, both) == [*shared, ("chat", 0)]
    assert choose_prompts(tokenizer, generation, EvaluationSettings(prompt_format="few_shot")) == [("few_shot", 4)]
    assert choose_prompts(tokenizer, None, EvaluationSettings(prompt_format="chat")) == [("chat", 0)]


def test_chat_without_a_template_is_refused(tiny_model: Path) -> None:
    bare = load_tokenizer(str(tiny_model))
    bare.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        choose_prompts(bare, None, EvaluationSettings(prompt_format="chat"))
    assert choose_prompts(bare, None, EvaluationSettings()) == [("few_shot", 4)]


def test_examples_are_short_and_of_median_length_and_fewer_are_the_first_of_more() -> None:
    pool = [pair(f"t{n}", "字" * n, "ཀ་" * n) for n in range(1, 60)]
    chosen = pick_examples(pool, count=4, max_units=60, seed=7)
    lengths = {record["id"]: len(units(record["source_text"])) + len(units(record["output"])) for record in pool}
    assert sorted(lengths[record["id"]] for record in chosen) == [28, 30, 32, 34]  # 2, 4, ... 60 have median 31
    for count in range(4):
        assert pick_examples(pool, count=count, max_units=60, seed=7) == chosen[:count]
    assert pick_examples([], count=5, max_units=60, seed=7) == []
    assert pick_examples(pool, count=5, max_units=1, seed=7) == []


def test_examples_are_drawn_from_a_large_pool_by_the_seed() -> None:
    pool = [pair(f"t{n}", "字" * (1 + n % 40), "ཀ") for n in range(3000)]
    drawn = [[record["id"] for record in pick_examples(pool, count=5, max_units=100, seed=seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_models_with_other_tokenizers_are_asked_the_same(tokenizer: Any) -> None:
    other = train_tokenizer(ENGLISH, vocab_size=300)
    shown = pick_examples(RECORDS[1:], count=2, max_units=100, seed=7)
    asked = [question(one, RECORDS[0], "few_shot", examples=shown) for one in (tokenizer, other)]
    assert asked[0].text == asked[1].text == few_shot_text(RECORDS[0], shown, "zh")
    assert asked[0].ids != asked[1].ids


def test_the_limit_leaves_room_for_the_whole_reference(tokenizer: Any) -> None:
    for record in RECORDS:
        reference = len(encode_text(tokenizer, record["output"]))
        assert question(tokenizer, record, "few_shot").max_new_tokens >= 1.5 * reference


def test_examples_give_way_to_a_short_window_and_then_the_limit_does(tokenizer: Any) -> None:
    plain = question(tokenizer, RECORDS[0], "few_shot")
    reference = len(encode_text(tokenizer, RECORDS[0]["output"]))
    everything = question(tokenizer, RECORDS[0], "few_shot", examples=RECORDS[1:])
    assert everything.examples == 3

    window = len(everything.ids) + everything.max_new_tokens - 1
    fewer = question(tokenizer, RECORDS[0], "few_shot", examples=RECORDS[1:], window=window)
    assert fewer.examples == 2
    assert fewer.text == few_shot_text(RECORDS[0], RECORDS[1:3], "zh")

    tight = question(tokenizer, RECORDS[0], "few_shot", examples=RECORDS[1:], window=len(plain.ids) + reference + 1)
    assert (tight.examples, tight.max_new_tokens) == (0, reference + 1)
    with pytest.raises(UserError, match="the test record 0"):
        question(tokenizer, RECORDS[0], "few_shot", window=len(plain.ids) + reference)
