"""The report in a real browser: it needs no network, sorts, filters, marks, and takes what models write for text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_results import CHAT, likelihood, save, save_stages, translation

from langadapt.errors import UserError
from langadapt.evaluation.charts import draw_charts
from langadapt.evaluation.comparison.side_by_side import load_comparison, put_side_by_side
from langadapt.evaluation.report import write_report
from langadapt.evaluation.results import read_predictions, write_items
from langadapt.pages import font_css
from langadapt.text import units

HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="document.title = 1">'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three models, one of which wrote what would harm a page that believed it."""
    folder = tmp_path_factory.mktemp("report")
    save_stages(folder, ["base", "cpt", "sft"], ["zh-bo", "en-zh"])
    made = read_predictions(folder, "cpt")
    made[0] = made[0].model_copy(update={"hypothesis": HOSTILE})
    made[1] = made[1].model_copy(update={"hypothesis": "", "stop_reason": "length"})
    made[2] = made[2].model_copy(update={"hypothesis": "\u0f62\u0f93"})
    write_items(folder, "cpt", "predictions", made)
    return page_of(folder)


def page_of(folder: Path) -> Path:
    comparison = load_comparison(folder, None, resamples=100)
    draw_charts(comparison, folder)
    return write_report(comparison, folder, folder / "none.html")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, opened from the disk; the test fails on an error in the page or a request beyond it."""
    opened = browser.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda r: errors.append(r.url) if not r.url.startswith(("data:", report.as_uri())) else None)
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert errors == []


def test_one_file_with_all_charts_and_no_address(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == len(list(report.parent.glob("*.png"))) == 7
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert not re.search(r"https?://|@import|url\((?!data:)", text)
    for said in ("is better than", "not above the floor", "tok:tsheg-syllables", "To bear in mind"):
        assert said in text


def test_without_charts_there_is_no_report(tmp_path: Path) -> None:
    save(tmp_path, "base", likelihoods=[likelihood(1.0)])
    with pytest.raises(UserError, match="no charts"):
        write_report(load_comparison(tmp_path, None), tmp_path, tmp_path / "none.html")


def test_what_a_model_wrote_is_text(page: Any) -> None:
    assert page.title() == "Evaluation"
    page.select_option("#prompt", "4-shot")
    page.fill("#search", "onerror")
    assert page.inner_text("#count") == "1 of 20 items"
    assert HOSTILE in page.inner_text("article")
    assert page.locator("article img").count() == 0


def test_tables_sort_by_number_and_back_with_missing_last(browser: Any, tmp_path: Path) -> None:
    for name, bits in (("a", 9.5), ("b", None), ("c", 10.25)):
        save(tmp_path, name, likelihoods=[likelihood(bits)] if bits else [])
    page = browser.new_page()
    page.goto(page_of(tmp_path).as_uri())
    head = page.locator("#table-likelihood th").nth(2)
    models = "#table-likelihood tbody td:nth-child(2)"
    head.click()
    assert page.locator(models).all_inner_texts() == ["a", "c", "b"]
    head.click()
    assert page.locator(models).all_inner_texts() == ["c", "a", "b"]
    assert head.get_attribute("aria-sort") == "descending"
    page.close()


def test_filters_choose_direction_prompt_and_how_it_stopped(page: Any) -> None:
    names = page.locator("article").first.locator(".name")
    assert [name.strip() for name in names.all_inner_texts()] == [
        "source",
        "reference",
        "base, 4-shot",
        "cpt, 4-shot",
        "sft, chat",
    ]
    page.select_option("#prompt", "all")
    assert names.count() == 6
    page.select_option("#prompt", "chat")
    assert [name.strip() for name in names.all_inner_texts()] == ["source", "reference", "sft, chat"]
    page.select_option("#prompt", "4-shot")
    page.select_option("#stop", "length")
    assert page.inner_text("#count") == "4 of 20 items"  # three by the builder, one by the fixture
    assert page.locator("article", has=page.get_by_text("item:1", exact=False)).first.locator(
        ".flag"
    ).all_inner_texts() == ["empty", "cut off"]
    page.select_option("#stop", "")
    page.fill("#search", "\u0f62\u0f92\u0fb7")  # in normal form; the model wrote it as one character
    assert page.inner_text("#count") == "1 of 20 items"
    page.fill("#search", "")
    page.select_option("#stop", "length")
    page.select_option("#group", label="held_out en-zh")
    assert page.locator("article .text").first.get_attribute("lang") == "en"
    assert page.inner_text("#count") == "3 of 20 items"


def test_marks_are_whole_units_and_all_that_is_not_in_the_reference(page: Any, report: Path) -> None:
    made = {p.id: p for p in read_predictions(report.parent, "base") if p.direction == "zh-bo"}
    page.select_option("#prompt", "4-shot")
    page.check("#lacking")
    for article in page.locator("article").all()[2:8]:
        prediction = made[article.locator("h4").inner_text().split()[0]]
        row = article.locator(".row", has=page.get_by_text("base, 4-shot")).locator(".text")
        extra, missing = ("".join(row.locator(tag).all_text_contents()) for tag in ("mark", "del"))
        kept = row.evaluate("row => [...row.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')")
        assert sorted(units(kept) + units(extra)) == sorted(units(prediction.hypothesis))
        assert sorted(units(kept) + units(missing)) == sorted(units(prediction.reference))
        assert len(units(kept)) == longest_common(units(prediction.hypothesis), units(prediction.reference))
    page.uncheck("#marks")
    assert page.locator("article mark").count() == 0


def longest_common(a: list[str], b: list[str]) -> int:
    lengths = [0] * (len(b) + 1)
    for x in a:
        lengths = [0, *(max(lengths[j + 1], lengths[j] + (x == y)) for j, y in enumerate(b))]
        for j in range(len(b)):
            lengths[j + 1] = max(lengths[j + 1], lengths[j])
    return lengths[-1]


def test_units_are_cut_as_everywhere_else(page: Any) -> None:
    for text in ("བོད་ཀྱི་སྐད་ཡིག་ནི་གལ།", "藏语abc中文123", "ཟླ་༢༠༢༥ Tibet་", "naïve, don't", "Монгол хэл", "ไทย"):
        found = page.evaluate(
            "text => cut(text).units.map(({unit}) => unit).filter(u => /[\\p{L}\\p{N}\\p{M}]/u.test(u))", text
        )
        assert found == units(text)
        whole = page.evaluate(
            "text => { const c = cut(text); return c.start + c.units.map(u => u.text).join('') }", text
        )
        assert whole == text


def test_tibetan_is_shaped_with_the_font_in_the_page(page: Any) -> None:
    rules = font_css(["bo"], "བོད་སྐྱོང་")
    if "@font-face" not in rules:
        pytest.skip("no font for Tibetan on this machine")
    family = re.findall(r'font-family: "([^"]+)"', rules)[0]
    assert family in page.evaluate("getComputedStyle(document.querySelector('article .text:lang(bo)')).fontFamily")
    assert page.evaluate(f"document.fonts.check('16px \"{family}\"', 'བོད')")
    assert page.evaluate("[...document.fonts].filter(face => face.status === 'loaded').length") == 1
    # Stacked, three letters take no more room than one; beside each other they would take three times as much.
    width = (
        "text => { const canvas = document.createElement('canvas').getContext('2d');"
        f"canvas.font = '40px \"{family}\"'; return canvas.measureText(text).width }}"
    )
    assert page.evaluate(width, "སྐྱ") < 1.3 * page.evaluate(width, "ཀ")


def test_items_of_different_test_sets_do_not_run_together(browser: Any, tmp_path: Path) -> None:
    save(tmp_path, "a", translations=[translation(20.0)])
    save(tmp_path, "b", translations=[translation(20.0, items_sha256="other")])
    changed = [p.model_copy(update={"reference": p.reference + " x"}) for p in read_predictions(tmp_path, "b")]
    write_items(tmp_path, "b", "predictions", changed)
    page = browser.new_page()
    page.goto(page_of(tmp_path).as_uri())
    assert page.inner_text("#count") == "40 of 40 items"
    assert page.locator("article").first.locator(".row").count() == 3
    page.close()


@pytest.mark.slow
def test_twenty_thousand_predictions_turn_like_twenty(browser: Any, tmp_path: Path) -> None:
    of = translation(20.0, n=20_000, prompt=CHAT)
    evaluation = save(tmp_path, "sft", translations=[of])
    texts = [p.reference for p in read_predictions(tmp_path, "sft")[:4]]
    comparison = put_side_by_side({"sft": evaluation})
    draw_charts(comparison, tmp_path)
    page = browser.new_page()
    page.goto(write_report(comparison, tmp_path, tmp_path / "none.html").as_uri())
    assert page.inner_text("#count") == "20,000 of 20,000 items"
    page.fill("#search", "item:19999")
    assert page.inner_text("#count") == "1 of 20,000 items"
    assert page.locator("article").count() == 1
    page.fill("#search", "")
    page.locator(".next").first.click()
    assert page.locator(".where").first.inner_text() == "page 2 of 1000"
    assert page.locator("article").count() == 20
    assert texts[0] in page.content()
    page.close()
