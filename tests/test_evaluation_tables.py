"""Tables and the model card: what is bold, what is escaped, and that a card keeps what others wrote."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from made_results import CHAT, SIGNATURES, choices, likelihood, save, save_stages, translation
from markdown_it import MarkdownIt

from langadapt.errors import UserError
from langadapt.evaluation.comparison.side_by_side import load_comparison
from langadapt.evaluation.tables.card import evaluation_section, update_card, write_card
from langadapt.evaluation.tables.figures import figure_tables
from langadapt.evaluation.tables.files import as_csv, as_latex, as_markdown, write_tables
from langadapt.pages import Cell, Table


def test_bold_is_what_is_better_than_every_other_model(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "cpt", "sft"])
    (tmp_path / "tables").mkdir()
    _, tex, markdown = write_tables(load_comparison(tmp_path, None, resamples=200), tmp_path / "tables")
    assert r"held\_out zh-bo & sft & 4-shot & \textbf{23.00} {\footnotesize {[}21.85, 24.15{]}}" in tex.read_text()
    assert "| held\\_out bo | sft | **0.833** \\[0.808, 0.858\\] |" in markdown.read_text()
    for kind in ("evaluation.json", "predictions.jsonl", "documents.jsonl"):
        shutil.copy(tmp_path / f"sft_{kind}", tmp_path / f"twin_{kind}")
    for path in write_tables(load_comparison(tmp_path, None, resamples=200), tmp_path / "tables")[1:]:
        text = path.read_text().split("Forgetting")[0]
        assert "textbf{23" not in text
        assert "**23" not in text


def test_without_predictions_nothing_is_bold(tmp_path: Path) -> None:
    save_stages(tmp_path, ["base", "sft"])
    for path in (*tmp_path.glob("*_predictions.jsonl"), *tmp_path.glob("*_documents.jsonl")):
        path.unlink()
    comparison = load_comparison(tmp_path, None, resamples=200)
    assert not any(cell.bold for table in figure_tables(comparison) for row in table.rows for cell in row)


def test_csv_holds_every_figure_unrounded_and_those_set_apart(tmp_path: Path) -> None:
    save(tmp_path, "base", 2, likelihoods=[likelihood(1.23456789)], translations=[translation(9.0)])
    save(tmp_path, "sft", 1, translations=[translation(50.0), translation(60.0, prompt=CHAT)], choices=[choices(0.5)])
    save(tmp_path, "other", 0, likelihoods=[likelihood(0.5, items_sha256="x"), likelihood(3.0, "zh")])
    rows = list(csv.DictReader(io.StringIO(as_csv(load_comparison(tmp_path, None, resamples=200)))))
    found = {(r["metric"], r["of"], r["view"], r["model"]): r for r in rows}
    assert len(found) == len(rows)
    base = found["bits per byte", "bo", "", "base"]
    # one model each way: the newer condition is the one that compares
    assert (base["value"], base["comparable"]) == ("1.23456789", "other data")
    assert (found["bits per byte", "bo", "", "sft"]["value"], found["chrF", "zh-bo", "own", "sft"]["prompt"]) == (
        "",
        "chat",
    )
    chrf = found["chrF", "zh-bo", "shared", "base"]
    assert [float(chrf[key]) for key in ("low", "high", "floor_neighbour")] == pytest.approx([8.55, 9.45, 11.0])
    assert chrf["signature"] == SIGNATURES["chrf"]
    assert found["accuracy", "mn", "", "sft"]["floor_chance"] == "0.25"


def test_latex_and_markdown_survive_any_name() -> None:
    name = r"a_b & 100% {x} \y <z> #1 ~^ | [*]"
    table = Table("t", name, ["model", "score"], [[Cell(name), Cell("1.0", 1.0, "[0.9, 1.1]", bold=True)]], [name])
    tex = as_latex(table)
    bare = tex
    for escaped in (r"\textbackslash{}", r"\_", r"\&", r"\%", r"\{", r"\}", r"\#", r"\textasciitilde{}"):
        assert escaped in tex
        bare = bare.replace(escaped, "")
    assert bare.count("{") == bare.count("}")
    assert not set("#%~^_") & set(bare.replace("\\\\", ""))
    html = MarkdownIt("commonmark").enable("table").render(as_markdown(table))
    assert html.count("<tr>") == 2, "one head and one row"
    assert html.count("a_b &amp; 100% {x} \\y &lt;z&gt; #1 ~^ | [*]") == 3
    assert "<strong>1.0</strong> [0.9, 1.1]" in html


def test_latex_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    save_stages(tmp_path, ["base_1", "sft_2%"])
    write_tables(load_comparison(tmp_path, None, resamples=200), tmp_path)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{evaluation_tables}\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_the_card_of_a_model_holds_its_figures_and_the_hubs_metadata(tmp_path: Path) -> None:
    evaluation = save(tmp_path, "sft", likelihoods=[likelihood(1.5)], choices=[choices(0.5)], data={"test.json": "abc"},
                      translations=[translation(50.0), translation(60.0, prompt=CHAT)])  # fmt: skip
    path = write_card(tmp_path, evaluation)
    assert path.name == "sft_model_card.md"
    card = ModelCard.load(path)
    results = {r.metric_name: r for r in card.data.eval_results}
    assert results["chrF zh-bo, chat"].metric_value == 60.0
    assert results["chrF zh-bo, 4-shot"].metric_config == SIGNATURES["chrf"]
    assert results["bits per byte, bo"].metric_type == "bits_per_byte"
    for said in (
        "60.00 \\[57.00, 63.00\\]",
        "floor: references shuffled",
        "nc:6",
        "length ratio",
        "`test.json`",
        "float32",
    ):
        assert said in card.text


def test_a_card_is_updated_in_its_section_alone(tmp_path: Path) -> None:
    old = save(tmp_path, "sft", likelihoods=[likelihood(1.5)])
    new = save(tmp_path, "sft", likelihoods=[likelihood(0.7)])
    before, after = "---\nlicense: mit\n---\r\n\n# Model\n\nkept  \n", "\n\n## Limits\n\nkept too, no line end"
    path = tmp_path / "README.md"
    path.write_bytes(before.encode())
    update_card(tmp_path, old)
    path.write_bytes(path.read_bytes().rstrip(b"\n") + after.encode())
    assert "1.500" in path.read_text()
    for _ in range(2):
        update_card(tmp_path, new)
        card = path.read_bytes().decode()
        assert card == before.rstrip() + "\n\n" + evaluation_section(new).rstrip("\n") + after
        assert "1.500" not in card


def test_a_model_without_a_card_gets_one_and_a_broken_one_is_left_alone(tmp_path: Path) -> None:
    evaluation = save(tmp_path, "sft", likelihoods=[likelihood(1.5)])
    path = update_card(tmp_path, evaluation)
    assert path.read_text() == evaluation_section(evaluation)
    broken = path.read_text().replace("<!-- evaluation: end -->", "")
    path.write_text(broken)
    with pytest.raises(UserError, match="1 lines begin an evaluation section and 0 end one"):
        update_card(tmp_path, evaluation)
    assert path.read_text() == broken
    path.write_bytes("模型".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8"):
        update_card(tmp_path, evaluation)
    with pytest.raises(UserError, match="no such folder"):
        update_card(tmp_path / "absent", evaluation)
