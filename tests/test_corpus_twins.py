"""What counts as a twin, what a prompt template is, and how far a held-out record's cluster reaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from langadapt.corpus.check import read_test_sets
from langadapt.corpus.drawing import Draw, cut_to_share, held_out_counts
from langadapt.corpus.mixing import Budget
from langadapt.corpus.pools import Pool
from langadapt.corpus.records import Candidate, quoting_texts
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import TwinIndex
from langadapt.files.records import Record
from langadapt.recipe.preprocess import HeldOutSize

LONG = "the quick brown fox jumps over the lazy dog while nine old men watch from a small green hill"
WORDS = LONG.split()


@pytest.mark.parametrize(
    ("held_out", "text", "twins"),
    [
        (LONG, LONG.upper() + "!", True),
        (LONG, f"before {LONG} after", True),
        (f"before {LONG} after " * 3, LONG, True),
        (LONG, " ".join([*WORDS[:-2], "other", "end"]), True),
        (LONG, " ".join(WORDS[::-1]), False),
        (
            LONG,
            " ".join([*WORDS[:9], *["other", "words", "that", "were", "never", "seen", "before", "in", "any", "text"]]),
            False,
        ),
        ("2001年7月14日", "2001年7月14日。", True),
        ("2001年7月14日", "2001年7月15日", False),
        ("日本", "日本的首都是东京。", False),
        ("一二三四五六七八九", "他说一二三四五六七八九而已", True),
        ("བོད་སྐད།", "བོད་སྐད", True),
        ("。", "！", False),
    ],
)
def test_twins(held_out: str, text: str, twins: bool) -> None:
    index = TwinIndex()
    index.add("x", [held_out])
    assert (index.find([text]) == "x") is twins


def test_templates_leave_the_content() -> None:
    prompts = [f"“地名{chr(0x4E00 + k)}”用藏文怎么写？" for k in range(20)]
    prompts += [f"请把日期“19{k}年{k % 12 + 1}月”写成藏文。" for k in range(50, 80)]
    prompts += [f"请翻译：句子{chr(0x5000 + k)}很长，没有模板。" for k in range(20)]
    templates = Templates(prompts)
    assert templates.content(prompts[0]) == f"地名{chr(0x4E00)}"
    assert templates.content(prompts[20]) == "1950年3月"
    assert templates.content(prompts[-1]).startswith("句子")
    assert templates.content("完全不同的句子。") == "完全不同的句子。"
    assert Templates([]).content("请翻译：你好") == "请翻译：你好"


def test_a_test_set_may_ask_in_the_words_of_the_recipe() -> None:
    templates = Templates(
        [], ["Please translate this sentence into Tibetan: {text}", "{text}\nTranslate the text above."]
    )
    texts = [
        ("a:1", "please translate this sentence into Tibetan"),
        ("a:2", "Translate the text above!"),
        ("a:3", "mine"),
    ]
    assert templates.without_templates(texts) == [("a:3", "mine")]
    assert Templates.of(templates.known).without_templates(texts) == [("a:3", "mine")]
    assert templates.content("Please translate this sentence into Tibetan: Hello") == "Hello"


def test_test_sets_are_also_compared_in_the_script_that_a_source_is_converted_to(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("汉语的简体字和繁体字\nabc\n", encoding="utf-8")
    found = read_test_sets([tmp_path / "test.txt"], ["s2t"])
    assert found == [
        ("test.txt:1", "汉语的简体字和繁体字"),
        ("test.txt:1", "漢語的簡體字和繁體字"),
        ("test.txt:2", "abc"),
    ]


def pool(name: str, candidates: list[Candidate], *, translates: bool = True, wanted: int = 100) -> Pool:
    def read(numbers: np.ndarray) -> list[Candidate]:
        return [candidates[k] for k in numbers]

    return Pool(name, len(candidates), 0, read, seed=1, translates=translates, budget=Budget(wanted))


def no_tokens(records: Sequence[Record]) -> list[int]:
    raise AssertionError("budgets in records need no tokenizer")


def candidate(name: str, *texts: str) -> Candidate:
    return Candidate({"id": name}, list(texts))


def test_a_cluster_reaches_the_translations_of_twins() -> None:
    """Held out: a text A. The pair A = B makes B a translation of it; B = C, from elsewhere, must not be trained on."""
    cpt = pool("cpt", [candidate("held", LONG)] * 20, translates=False)
    pairs = [candidate("pair", LONG, "译文甲"), candidate("other", "译文甲", "another wording"), candidate("far", "x")]
    draw = Draw([cpt], [pool("pairs", pairs)], HeldOutSize(cpt=1, sft=1), measure=no_tokens)
    assert [record["id"] for record in draw.cpt_test] == ["held"]
    assert [record["id"] for record in draw.training(pool("pairs", pairs))] == ["far"]


def test_held_out_text_quoted_in_a_prompt_is_found() -> None:
    index = TwinIndex()
    index.add("held", [LONG])
    asked = f"Summarise the following for a child: {LONG}. Keep it short."
    record = {"task": "instruction", "instruction": asked, "input": "", "output": "A dog."}
    assert index.find(quoting_texts(record)) == "held"
    assert index.find(quoting_texts(record | {"instruction": "Summarise it.", "system": asked})) == "held"
    assert index.find(quoting_texts(record | {"task": "translation"})) is None


def test_test_shares_are_proportional_and_within_limits() -> None:
    def sized(size: int, wanted: int) -> Pool:
        return Pool("p", size, 0, no_tokens, seed=1, budget=Budget(wanted))  # type: ignore[arg-type]

    assert held_out_counts([sized(10_000, 8000), sized(10_000, 2000)], 100, 0.05) == [80, 20]
    assert held_out_counts([sized(100, 100), sized(100_000, 100)], 500, 0.05) == [5, 495]
    assert held_out_counts([sized(10, 10)], 500, 0.05) == [0]


def test_only_capped_parts_are_cut() -> None:
    parts = {"a": list(range(80)), "b": list(range(80))}
    assert cut_to_share(parts, {"b": 0.2}) == {"a": 0, "b": 60}
    assert len(parts["b"]) == 20
    parts = {"a": list(range(60)), "b": list(range(30)), "c": list(range(30))}
    cut_to_share(parts, {"b": 0.2, "c": 0.1})
    total = sum(map(len, parts.values()))
    assert len(parts["b"]) <= 0.2 * total
    assert len(parts["c"]) <= 0.1 * total
