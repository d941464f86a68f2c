"""Question sets: every published layout read, accuracy equal to lm-evaluation-harness's, written answers matched."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.choices import accuracy_by_subject, measure_choices
from langadapt.evaluation.choices.asking import answer_to_write, choices_to_continue
from langadapt.evaluation.choices.continuing import Continuations, log_likelihoods
from langadapt.evaluation.choices.matching import match_answer, match_choice, normal_answer
from langadapt.evaluation.choices.measuring import wilson_interval
from langadapt.evaluation.choices.reading import read_questions, split_options
from langadapt.evaluation.results import Answer
from langadapt.files import write_json, write_text
from langadapt.inference.generation import Generation
from langadapt.models import load_model, load_tokenizer
from langadapt.recipe import load_language
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.test_sets import ChoiceSet

WORDS = ["нар", "сар", "уул", "ус", "морь", "ном", "хот", "гэр", "тэнгэр", "зам"]


def question(number: int, text: str | None) -> dict[str, Any]:
    """An MM-Eval record with four choices of unlike length."""
    choices = [" ".join(WORDS[(number + step * k) % 10] for k in range(1 + step)) for step in range(4)]
    labelled = [{"label": label, "text": choice} for label, choice in zip("ABCD", choices, strict=True)]
    return {**({"question": text} if text else {}), "choices": labelled, "answerKey": "ABCD"[number % 4]}


KNOWLEDGE = [question(n, f"{WORDS[n % 10]} гэж {'маш ' * (n % 3)}юу вэ?") for n in range(24)]
SYNTAX = [question(n, None) for n in range(24)]
SEMANTICS = [question(n, f"энэ бол миний _ {WORDS[n % 7]}.") for n in range(8)]
REASONING = [
    {"question": "Хоёр дээр гурвыг нэмбэл хэд вэ?", "answer": "5"},
    {"question": "Ням гаригт 16 өндөг?", "answer": "18"},
]


def belebele(number: int, **changes: Any) -> dict[str, Any]:
    values = {
        "link": f"https://example.org/{number}", "question_number": number, "flores_passage": TIBETAN[number % 4],
        "question": f"དྲི་བ་{number}?", "mc_answer1": "ཀི", "mc_answer2": "ཁི", "mc_answer3": "གི", "mc_answer4": "ངི",
        "correct_answer_num": str(1 + number % 4), "dialect": "bod_Tibt", "ds": "2023-05-03",
    }  # fmt: skip
    return {**values, **changes}


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def choice_set(path: Path, layout: str = "mm_eval", language: str = "mn", **changes: Any) -> ChoiceSet:
    return ChoiceSet.model_validate({"layout": layout, "file": str(path), "language": language, **changes})


def measure(model: Path, wanted: ChoiceSet, **changes: Any):
    settings = EvaluationSettings(device="cpu", **changes)
    return measure_choices(load_model(str(model)), load_tokenizer(str(model)), "set", wanted, settings)


# Reading


def test_mm_eval_in_its_four_forms(tmp_path: Path) -> None:
    write_json(tmp_path / "knowledge.json", [question(1, "Юу вэ?")])
    write_json(tmp_path / "syntax.json", [question(2, None)])
    (knowledge, syntax), left_out = read_questions(tmp_path, choice_set(tmp_path))
    assert (knowledge.id, knowledge.subject, knowledge.text) == ("knowledge/1", "knowledge", "Юу вэ?")
    assert knowledge.choices[0] == "сар"
    assert knowledge.right == knowledge.choices[1]
    assert syntax.text == ""
    assert left_out == 0

    write_json(tmp_path / "reasoning.json", REASONING)
    with pytest.raises(UserError, match="some questions have choices"):
        read_questions(tmp_path, choice_set(tmp_path))
    (first, _), _ = read_questions(tmp_path / "reasoning.json", choice_set(tmp_path))
    assert (first.id, first.choices, first.right) == ("1", (), "5")


def test_belebele_as_lines_and_as_a_table(tmp_path: Path) -> None:
    records = [belebele(number) for number in range(5)]
    lines = write_lines(tmp_path / "bod_Tibt.jsonl", records)
    table = tmp_path / "bod_Tibt.tsv"
    write_text(
        table, "\n".join("\t".join(map(str, row)) for row in [records[0], *(r.values() for r in records)]) + "\n"
    )
    found = [read_questions(path, choice_set(path, "belebele", "bo"))[0] for path in (lines, table)]
    assert found[0] == found[1]
    assert found[0][2].passage == TIBETAN[2]
    assert [q.right for q in found[0]] == ["ཀི", "ཁི", "གི", "ངི", "ཀི"]


def test_ti_mmlu_as_published_and_taken_apart(tmp_path: Path) -> None:
    published = [
        {"loc": "law1", "polished_ti_content": "ཁྲིམས་ཞེས་པ་གང་ཡིན།\nA. གཅིག\nB. གཉིས།\nC. གསུམ།\nD. བཞི།", "answer": "B"},
        {"loc": "law2", "polished_ti_content": "གང་ཡིན། (ཀ) གཅིག (ཁ) གཉིས། (ག) གསུམ། (ང) བཞི།", "answer": "ག"},
        {"loc": "law3", "polished_ti_content": "", "answer": "A"},
        {"loc": "law4", "polished_ti_content": "གང་ཡིན། གཅིག གཉིས།", "answer": "D"},
    ]
    write_lines(tmp_path / "law.jsonl", published)
    write_lines(
        tmp_path / "math.jsonl",
        [{"loc": "math1", "question": "?", "choices": ["ཀི", "ཁི"], "answer": answer} for answer in (1, "B", "ཁ")],
    )
    questions, left_out = read_questions(tmp_path, choice_set(tmp_path, "ti_mmlu", "bo"))
    assert left_out == 1
    assert [q.id for q in questions] == ["law/law1", "law/law2", "law/law4", *3 * ["math/math1"]]
    assert [q.right for q in questions] == ["གཉིས།", "གསུམ།", "D", "ཁི", "ཁི", "ཁི"]
    assert [q.by_key for q in questions] == [False, False, True, False, False, False]
    assert questions[0].text == "ཁྲིམས་ཞེས་པ་གང་ཡིན།"
    assert questions[2].text == "གང་ཡིན། གཅིག གཉིས།"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("དྲི།\nཀ་ གཅིག\nཁ་ གཉིས", ["གཅིག", "གཉིས"]),
        ("A word?\nA. x\nB. y\nC. z", ["x", "y", "z"]),
        ("དྲི། A、 x B、 y", ["x", "y"]),
        ("ང་ཚོ་སུ་ཡིན།\nཀ་བ་\nཁ་བ་", list("ABCD")),  # syllables, not keys
        ("A. x\nB. y", list("ABCD")),  # no question before the options
        ("Q?\nA. x\nC. y", list("ABCD")),
    ],
)
def test_options_are_told_from_the_question(text: str, options: list[str]) -> None:
    assert split_options(text)[1] == options


@pytest.mark.parametrize(
    ("layout", "language", "record", "said"),
    [
        ("mm_eval", "mn", {"question": "?"}, "`answer`"),
        ("mm_eval", "mn", {**KNOWLEDGE[0], "answerKey": "E"}, "`answerKey` is 'E', the labels are A, B, C, D"),
        ("mm_eval", "mn", {**KNOWLEDGE[0], "choices": [{"label": "A", "text": "нар"}]}, "two or more"),
        ("mm_eval", "mn", {**KNOWLEDGE[0], "choices": ["нар", "сар"]}, "label, text"),
        ("belebele", "bo", belebele(1, correct_answer_num="5"), "`correct_answer_num` is '5'"),
        ("belebele", "bo", belebele(1, mc_answer3=""), "`mc_answer3`"),
        ("belebele", "mn", belebele(1), "`dialect` is bod_Tibt, but mn is khk_Cyrl"),
        ("ti_mmlu", "bo", {"loc": "x", "polished_ti_content": "?\nA. x\nB. y", "answer": "C"}, "`answer` is 'C'"),
        ("ti_mmlu", "bo", {"loc": "x", "question": "?", "choices": "AB", "answer": "A"}, "`choices`"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, layout: str, language: str, record: dict, said: str) -> None:
    good = {"mm_eval": KNOWLEDGE[1], "belebele": belebele(2, dialect=load_language(language).flores[0])}
    path = write_lines(
        tmp_path / "set.jsonl",
        [good.get(layout, {"loc": "y", "question": "?", "choices": ["a", "b"], "answer": 0}), record],
    )
    with pytest.raises(UserError, match="line 2") as caught:
        read_questions(path, choice_set(path, layout, language))
    assert said in str(caught.value)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json"):
        read_questions(tmp_path / "none.json", choice_set(tmp_path))
    with pytest.raises(UserError, match="no questions"):
        read_questions(tmp_path, choice_set(tmp_path))
    write_text(tmp_path / "set.txt", "x")
    with pytest.raises(UserError, match=r"ends in \.json"):
        read_questions(tmp_path / "set.txt", choice_set(tmp_path))


# Prompts


def test_prompts_letter_for_letter(tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", [KNOWLEDGE[0], KNOWLEDGE[1], SYNTAX[1], SEMANTICS[0]])
    (first, second, sentence, blank), _ = read_questions(tmp_path / "set.json", choice_set(tmp_path))
    mn = load_language("mn")
    example = "Асуулт: сар гэж маш юу вэ?\nХариулт: сар уул"
    assert choices_to_continue(first, [second], mn) == (
        f"{example}\n\nАсуулт: нар гэж юу вэ?\nХариулт:",
        [(" ", choice) for choice in first.choices],
    )
    assert choices_to_continue(sentence, [], mn) == ("", [("", choice) for choice in sentence.choices])
    assert choices_to_continue(sentence, [second], mn) == (example, [("\n\n", choice) for choice in sentence.choices])
    assert choices_to_continue(blank, [], mn)[1][0] == ("", "энэ бол миний нар нар.")
    options = [
        "".join(f"{key}. {choice}\n" for key, choice in zip("ABCD", q.choices, strict=True)) for q in (first, second)
    ]
    assert answer_to_write(first, [second], mn) == (
        f"Асуулт: сар гэж маш юу вэ?\n{options[1]}Хариулт: B\n\nАсуулт: нар гэж юу вэ?\n{options[0]}Хариулт:"
    )


def test_a_passage_stands_before_its_question_and_options_once(tmp_path: Path) -> None:
    bo = load_language("bo")
    write_lines(tmp_path / "set.jsonl", [belebele(1)])
    ((reading,), _) = read_questions(tmp_path / "set.jsonl", choice_set(tmp_path, "belebele", "bo"))
    context, forms = choices_to_continue(reading, [], bo)
    assert context == f"{TIBETAN[1]}\nདྲི་བ: དྲི་བ་1?\nལན:"
    assert forms[3] == (" ", "ངི")
    whole = {"loc": "law1", "polished_ti_content": "____ གང་ཡིན། གཅིག གཉིས།", "answer": "D"}
    write_lines(tmp_path / "set.jsonl", [whole])
    ((by_key,), _) = read_questions(tmp_path / "set.jsonl", choice_set(tmp_path, "ti_mmlu", "bo"))
    prompt = f"དྲི་བ: {whole['polished_ti_content']}\nལན:"
    assert choices_to_continue(by_key, [], bo) == (prompt, [(" ", key) for key in "ABCD"])
    assert answer_to_write(by_key, [], bo) == prompt


# Likelihood


@pytest.mark.parametrize("records", [KNOWLEDGE, SYNTAX], ids=["questions", "sentences"])
def test_accuracy_equals_lm_evaluation_harness(tiny_model: Path, tmp_path: Path, records: list[dict]) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    write_json(tmp_path / "set.json", records)
    result, answers = measure(tiny_model, choice_set(tmp_path / "set.json"))

    documents = [
        {
            "context": f"Асуулт: {record['question']}\nХариулт:" if "question" in record else "",
            "options": [choice["text"] for choice in record["choices"]],
            "gold": "ABCD".index(record["answerKey"]),
        }
        for record in records
    ]
    files = {"data_files": str(write_lines(tmp_path / "documents.jsonl", documents))}
    task = {
        "task": "same_prompts", "output_type": "multiple_choice", "test_split": "train",
        "dataset_path": "json", "dataset_kwargs": files,
        "doc_to_text": "{{context}}", "doc_to_choice": "{{options}}", "doc_to_target": "{{gold}}",
        "target_delimiter": " " if "question" in records[0] else "",
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in ("acc", "acc_bytes")],
    }  # fmt: skip
    model = HFLM(load_model(str(tiny_model)), tokenizer=load_tokenizer(str(tiny_model)), batch_size=1, device="cpu")
    known = TaskManager(include_defaults=False)
    theirs = lm_eval.simple_evaluate(model, tasks=[task], task_manager=known, bootstrap_iters=0)
    figures = theirs["results"]["same_prompts"]
    assert result.accuracy == pytest.approx(figures["acc,none"])
    assert result.normalised == pytest.approx(figures["acc_bytes,none"])
    samples = sorted(theirs["samples"]["same_prompts"], key=lambda sample: sample["doc_id"])
    for sample, answer in zip(samples, answers, strict=True):
        assert answer.log_likelihoods == pytest.approx([value for value, _ in sample["filtered_resps"]], rel=1e-4)
    assert 0 < result.accuracy < 1
    assert result.chance == 0.25


def plain_log_likelihood(model, context: list[int], choice: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + choice[:-1]])).logits[0, len(context) - 1 :].double()
    return logits.log_softmax(-1)[range(len(choice)), choice].sum().item()


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_likelihoods_are_those_of_one_plain_pass_each(tiny_model: Path, budget: int) -> None:
    model, double = load_model(str(tiny_model)), load_model(str(tiny_model), dtype=torch.float64)
    for each in (model, double):
        each.base_model.norm.weight.data.mul_(50)  # logits as large as a trained model's
    draw = np.random.default_rng(0)
    items = [
        Continuations(
            draw.integers(0, 390, size=int(draw.integers(1, 60))).tolist(),
            [draw.integers(0, 390, size=int(draw.integers(1, 12))).tolist() for _ in range(int(draw.integers(2, 6)))],
        )
        for _ in range(20)
    ] + [Continuations([5], [[1, 2], [3]])]
    found = dict(log_likelihoods(model, items, budget))
    assert sorted(found) == list(range(len(items)))
    for index, item in enumerate(items):
        expected = [plain_log_likelihood(double, item.context, choice) for choice in item.choices]
        assert found[index] == pytest.approx(expected, rel=1e-4)


def test_a_batch_beyond_the_memory_is_halved(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from langadapt.evaluation.choices import continuing

    items = [Continuations(list(range(1, 9)), [[1, 2], [3]]) for _ in range(8)]
    model = load_model(str(tiny_model))
    expected = [values for _, values in log_likelihoods(model, items, 1000)]
    score, sizes = continuing._score, []

    def small_memory(model, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return score(model, batch)

    monkeypatch.setattr(continuing, "_score", small_memory)
    found = [values for _, values in log_likelihoods(model, items, 1000)]
    assert np.array(found) == pytest.approx(np.array(expected))
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_the_normalised_choice_is_the_likeliest_per_byte(tiny_model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", SEMANTICS)
    _, answers = measure(tiny_model, choice_set(tmp_path / "set.json"))
    for record, answer in zip(SEMANTICS, answers, strict=True):
        texts = [choice["text"] for choice in record["choices"]]
        sizes = [len(record["question"].replace("_", text).encode()) for text in texts]
        best = int(np.argmax(np.array(answer.log_likelihoods) / sizes))
        assert answer.chosen_normalised == texts[best]
    assert any(answer.chosen != answer.chosen_normalised for answer in answers)


def test_examples_come_from_the_subject_and_are_never_scored(tiny_model: Path, tmp_path: Path) -> None:
    scored, pool = tmp_path / "scored", tmp_path / "pool"
    for folder in (scored, pool):
        folder.mkdir()
    for subject, start in (("law", 0), ("math", 2)):
        write_json(scored / f"{subject}.json", KNOWLEDGE[start : start + 2])
        write_json(pool / f"{subject}.json", KNOWLEDGE[start : start + 2] + KNOWLEDGE[start + 10 : start + 12])
    wanted = choice_set(scored, num_fewshot=2, examples=str(pool))
    result, answers = measure(tiny_model, wanted, seed=7)
    assert result.signature.startswith("layout:mm_eval|prompt:1 Асуулт/Хариулт|method:likelihood|shots:2|examples:")
    for answer, start in zip(answers, (0, 0, 2, 2), strict=True):
        assert answer.prompt.count("Асуулт:") == 3
        assert all(f"Асуулт: {KNOWLEDGE[n]['question']}\n" in answer.prompt for n in (start + 10, start + 11))
    assert measure(tiny_model, wanted, seed=7) == (result, answers)
    write_json(pool / "law.json", KNOWLEDGE[12:14])
    other, _ = measure(tiny_model, wanted, seed=7)
    assert other.signature != result.signature
    assert other.items_sha256 == result.items_sha256
    with pytest.raises(UserError, match="num_fewshot=3: `examples` holds 2 questions of the subject law"):
        measure(tiny_model, choice_set(scored, num_fewshot=3, examples=str(pool)))


def test_accuracy_by_subject() -> None:
    def answer(name: str, right: str, chosen: str | None, choices: list[str]) -> Answer:
        return Answer(
            test_set="set", id=name, question="?", choices=choices, right=right, chosen=chosen, chosen_normalised=None,
            log_likelihoods=[], written="", prompt="",
        )  # fmt: skip

    answers = [
        answer("law/1", "ус", "ус", ["ус", "зам"]), answer("law/2", "ус", "зам", ["ус", "зам"]),
        answer("math/1", "18.0", "18", []), answer("math/2", "18", None, []), answer("math/3", "5", "5", []),
    ]  # fmt: skip
    assert accuracy_by_subject(answers) == {"law": (0.5, 2), "math": (2 / 3, 3)}


def test_a_long_prompt_loses_examples_and_a_long_question_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "set.jsonl", [belebele(0)])
    write_lines(tmp_path / "pool.jsonl", [belebele(n, flores_passage=TIBETAN[n] * 2) for n in (1, 2, 3)])
    wanted = choice_set(tmp_path / "set.jsonl", "belebele", "bo", num_fewshot=3, examples=str(tmp_path / "pool.jsonl"))
    model = load_model(str(tiny_model))
    model.config.max_position_embeddings = 160
    settings = EvaluationSettings(device="cpu")
    result, (answer,) = measure_choices(model, load_tokenizer(str(tiny_model)), "set", wanted, settings)
    assert 0 < answer.prompt.count("དྲི་བ:") - 1 < 3
    assert f"shots:{answer.prompt.count('དྲི་བ:') - 1}|" in result.signature
    model.config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"set: question '1' takes \d+ tokens"):
        measure_choices(model, load_tokenizer(str(tiny_model)), "set", wanted, settings)


def test_limit_draws_the_same_questions_for_every_model(tiny_model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", KNOWLEDGE)
    (result, answers), (again, _) = (measure(tiny_model, choice_set(tmp_path / "set.json"), limit=5) for _ in range(2))
    assert result == again
    assert result.n == len(answers) == 5
    assert result.items_sha256 != measure(tiny_model, choice_set(tmp_path / "set.json"))[0].items_sha256


# Generation


def test_written_answers_are_matched_and_counted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["A", f"Зөв хариулт нь {KNOWLEDGE[1]['choices'][3]['text']}", "мэдэхгүй", "D. гэж бодож байна"]

    def write(model, tokenizer, prompts, **options):
        assert options["stop_text"] == "\n"
        yield from ((index, Generation(said[index], 3, "stop")) for index in reversed(range(len(prompts))))

    monkeypatch.setattr("langadapt.evaluation.choices.measuring.generate_batched", write)
    write_json(tmp_path / "set.json", KNOWLEDGE[:4])
    result, answers = measure(tiny_model, choice_set(tmp_path / "set.json", method="generation"))
    assert [answer.written for answer in answers] == said
    assert (result.method, result.accuracy, result.normalised, result.unmatched) == ("generation", 0.5, None, 1)
    assert result.chance == 0.25


def test_answers_without_choices_are_generated(tiny_model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", REASONING)
    result, answers = measure(tiny_model, choice_set(tmp_path / "set.json"))
    assert (result.method, result.chance, result.n) == ("generation", None, 2)
    assert all(answer.written is not None and "\n" not in answer.written for answer in answers)
    assert answers[0].prompt == f"Асуулт: {REASONING[0]['question']}\nХариулт:"
    with pytest.raises(UserError, match="method=likelihood"):
        measure(tiny_model, choice_set(tmp_path / "set.json", method="likelihood"))


@pytest.mark.parametrize("record", [{"answer": "тийм"}, {"choices": ["тийм", "үгүй"]}])
def test_a_written_answer_is_compared_in_normal_form(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]
) -> None:
    def write(*arguments, **options):
        yield 0, Generation(unicodedata.normalize("NFD", "тийм"), [3], "stop")

    monkeypatch.setattr("langadapt.evaluation.choices.measuring.generate_batched", write)
    if "choices" in record:
        labelled = [{"label": label, "text": text} for label, text in zip("AB", record["choices"], strict=True)]
        record = {"choices": labelled, "answerKey": "A"}
    write_json(tmp_path / "set.json", [{"question": "Үнэн үү?"} | record])
    result, _ = measure(tiny_model, choice_set(tmp_path / "set.json", method="generation"))
    assert result.accuracy == 1


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("B", "гол хэл"), ("b", None), ("(B)", "гол хэл"), ("B. гол", "гол хэл"), ("B гол", "гол хэл"),
        ("ཁ", "гол хэл"), ("ཁ།", "гол хэл"), ("ཁ་བ་རེད", None), ("ལན་ནི་ ཁ རེད།", "гол хэл"), ("Зөв нь C.", "Уул"),
        ("A, B", "нар"), ("энэ уул юм", "Уул"), ("уулын", None), ("гол хэл", "гол хэл"), ("гол", "гол"),
        ("нар уул", None), ("", None), ("C эсвэл D", "Уул"), ("нэг C эсвэл D", None),
        ("\n\nD\nA", "гол"), ("A dog", None),
    ],
)  # fmt: skip
def test_matching_a_choice(written: str, expected: str | None) -> None:
    assert match_choice(written, ["нар", "гол хэл", "Уул", "гол"]) == expected


@pytest.mark.parametrize(
    ("written", "right", "same"),
    [
        ("18", "18", True), ("18.0", "18", True), ("༡༨", "18", True), ("Тэр 18 доллар олдог.", "18", True),
        ("16 - 3 - 4 = 9, 9 * 2 = 18", "18", True), ("70,000", "70000", True), ("70 000 доллар", "70000", True),
        ("1,5", "1.5", True), ("0.125", "0,125", False), ("-3", "-3", True), ("10-3", "3", True), ("180", "18", False),
        ("18\n19", "18", True), ("3/4", "4", True), ("100", "1", False), ("0", "0.0", True),
    ],
)  # fmt: skip
def test_matching_a_number(written: str, right: str, same: bool) -> None:
    assert (match_answer(written, right) == normal_answer(right)) is same


def test_nothing_to_match_is_none() -> None:
    assert match_answer("мэдэхгүй", "18") is None
    assert match_answer("", "парис") is None
    assert match_answer("Парис.", "парис") == normal_answer("парис")


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (250, 1000)])
def test_the_interval_is_wilsons(successes: int, n: int) -> None:
    """An end is a share from which the one observed lies 1.96 of that share's own standard errors away."""
    interval = wilson_interval(successes, n)
    for share in (interval.low, interval.high):
        if 0 < share < 1:
            assert abs(successes / n - share) == pytest.approx(1.959964 * (share * (1 - share) / n) ** 0.5, abs=1e-6)
    assert interval.low <= successes / n <= interval.high
