"""What a model is asked, and how long it may answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHINESE, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.prompts import ask, choose_format, few_shot_text, pick_examples
from langadapt.evaluation.translation import score_translation, translate
from langadapt.models import encode_text, load_model, load_tokenizer
from langadapt.recipe.evaluation import EvaluationSettings

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
    assert tokenizer.decode(asked.ids) == (
        f"<|im_start|>user\n{RECORDS[0]['instruction']}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert asked.examples == 0


def test_the_format_follows_what_the_model_was_trained_on(tiny_model: Path, tokenizer: Any) -> None:
    generation = load_model(str(tiny_model)).generation_config
    assert choose_format(tokenizer, generation, "auto") == "few_shot"  # it has a template, but does not stop at turns
    generation.eos_token_id = [generation.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert choose_format(tokenizer, generation, "auto") == "chat"
    assert choose_format(tokenizer, generation, "few_shot") == "few_shot"


def test_chat_without_a_template_is_refused(tiny_model: Path) -> None:
    bare = load_tokenizer(str(tiny_model))
    bare.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        choose_format(bare, None, "chat")


def test_examples_are_short_of_median_length_and_never_from_the_test_set(tokenizer: Any) -> None:
    training = [pair(f"t{n}", "字" * n, "ཀ་" * n) for n in range(1, 60)]
    same_source = pair("leak1", CHINESE[0], "ཀ")
    same_target = pair("leak2", "别的", TIBETAN[1])
    options = {"count": 5, "max_tokens": 200, "seed": 7}
    chosen = pick_examples(tokenizer, [same_source, *training, same_target], RECORDS, **options)
    lengths = {
        r["id"]: len(encode_text(tokenizer, r["source_text"])) + len(encode_text(tokenizer, r["output"]))
        for r in training
    }
    short = sorted(length for length in lengths.values() if length <= 200)
    assert len(chosen) == 5
    assert len(short) < len(lengths)
    middle = short[len(short) // 2 - 4 : len(short) // 2 + 5]
    assert all(lengths[record["id"]] in middle for record in chosen)
    assert chosen == pick_examples(tokenizer, [same_source, *training, same_target], RECORDS, **options)
    assert pick_examples(tokenizer, [same_source, same_target, *RECORDS], RECORDS, **options) == []
    assert pick_examples(tokenizer, training, RECORDS, count=5, max_tokens=1, seed=7) == []


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
    assert question(tokenizer, RECORDS[0], "few_shot", examples=RECORDS[1:], window=window).examples == 2

    tight = question(tokenizer, RECORDS[0], "few_shot", examples=RECORDS[1:], window=len(plain.ids) + reference + 1)
    assert (tight.examples, tight.max_new_tokens) == (0, reference + 1)
    with pytest.raises(UserError, match="the test record 0"):
        question(tokenizer, RECORDS[0], "few_shot", window=len(plain.ids) + reference)


@pytest.fixture(scope="module")
def knowing_model(tiny_model: Path, tokenizer: Any) -> Any:
    """The tiny model after it has learned the four translations, and to go on with another after a blank line."""
    model = load_model(str(tiny_model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prompts = [few_shot_text(record, [], "zh") for record in RECORDS]
    texts = [
        f"{prompt} {record['output']}\n\n{other}"
        for prompt, record, other in zip(prompts, RECORDS, [*prompts[1:], prompts[0]], strict=True)
    ]
    for _ in range(60):
        for text in texts:
            ids = torch.tensor([encode_text(tokenizer, text)])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def test_a_model_that_knows_the_translations_scores_full_marks(knowing_model: Any, tokenizer: Any) -> None:
    settings = EvaluationSettings(token_budget=400)
    predictions, prompt = translate(knowing_model, tokenizer, RECORDS, settings, "few_shot", [])
    assert [p.id for p in predictions] == [record["id"] for record in RECORDS]
    assert [p.hypothesis for p in predictions] == [p.reference for p in predictions] == TIBETAN
    assert {p.stop_reason for p in predictions} == {"stop"}
    assert (prompt.format, prompt.examples) == ("few_shot", {0: 4})
    assert prompt.first == few_shot_text(RECORDS[0], [], "zh")

    scores = score_translation(predictions, prompt)
    assert (scores.n, scores.empty, scores.cut_off) == (4, 0, 0)
    assert (scores.bleu.score, scores.chrf.score) == (pytest.approx(100), pytest.approx(100))
    assert scores.chrf.floor < 50


def test_empty_and_cut_off_hypotheses_count(knowing_model: Any, tokenizer: Any) -> None:
    predictions, prompt = translate(knowing_model, tokenizer, RECORDS, EvaluationSettings(), "few_shot", [])
    full = score_translation(predictions, prompt)
    predictions[0] = predictions[0].model_copy(update={"hypothesis": " \u200b", "stop_reason": "length"})
    scores = score_translation(predictions, prompt)
    assert (scores.n, scores.empty, scores.cut_off) == (4, 1, 1)
    assert scores.chrf.score < full.chrf.score
    assert scores.items_sha256 == full.items_sha256
