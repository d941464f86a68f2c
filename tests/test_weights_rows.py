"""Rows of the embedding by script, against a loop over tokens; what is drawn and written of them."""

from __future__ import annotations

import csv
import io
import unicodedata
from pathlib import Path

import numpy
import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN
from safetensors.torch import save_file

from langadapt.models.building import train_tokenizer
from langadapt.models.tokenizer import spelt
from langadapt.text import main_script
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import compare
from langadapt.weights.summary import summarise
from langadapt.weights.tables import write_csv
from langadapt.weights.token_charts import draw_scripts, draw_tokens
from langadapt.weights.token_rows import CONTROL, NO_TOKEN, PARTIAL, SHARED, most_moved

EMBEDDING = "model.embed_tokens.weight"
PADDING = 3


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[numpy.ndarray], list[str]]:
    """Results of three embeddings, which these are, and the characters that each row stands for."""
    folder = tmp_path_factory.mktemp("rows")
    tokenizer = train_tokenizer([*TIBETAN, *CHINESE, *ENGLISH] * 3, vocab_size=420)
    size = len(tokenizer)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(size + PADDING, 6, generator=generator)
    paths, kept = [], []
    for name, moved in (("base", 0.0), ("cpt", 0.3), ("sft", 0.1)):
        weights = weights + moved * torch.rand(size + PADDING, 1, generator=generator) * torch.randn(
            weights.shape, generator=generator
        )
        tokenizer.save_pretrained(folder / name)
        (folder / name / "config.json").write_text('{"tie_word_embeddings": true}')
        save_file({EMBEDDING: weights}, folder / name / "model.safetensors")
        paths.append(str(folder / name))
        kept.append(weights.double().numpy())
    return compare(*open_checkpoints(*paths)), kept, [tokenizer.decode([row]) for row in range(size)]


def expected_group(text: str) -> str:
    """Tell scripts by the names of characters, which start with theirs."""
    if text.startswith("<|"):
        return CONTROL
    if "\ufffd" in text:
        return PARTIAL
    names = [unicodedata.name(c, "?").split()[0] for c in text]
    known = {"TIBETAN": "Tibetan", "CJK": "Han", "LATIN": "Latin"}
    return next((known[name] for name in names if name in known), SHARED)


def test_groups_equal_a_loop_over_tokens(analysis: tuple[dict, list[numpy.ndarray], list[str]]) -> None:
    results, (base, cpt, sft), texts = analysis
    [matrix] = results["embedding_rows"]
    groups = {group["script"]: group for group in matrix["scripts"]}
    rows: dict[str, list[int]] = {NO_TOKEN: list(range(len(texts), len(base)))}
    for row, text in enumerate(texts):
        rows.setdefault(expected_group(text), []).append(row)
    assert {"Tibetan", "Han", "Latin", PARTIAL, SHARED, CONTROL} <= rows.keys()
    assert {name: group["rows"] for name, group in groups.items()} == {name: len(mine) for name, mine in rows.items()}
    for pair, before, after in (("base_cpt", base, cpt), ("cpt_sft", cpt, sft)):
        change = after - before
        assert sum(group[pair]["share"] for group in groups.values()) == pytest.approx(1)
        for name, mine in rows.items():
            found = groups[name][pair]
            lengths = numpy.linalg.norm(change[mine], axis=1)
            assert found["mean_l2"] == pytest.approx(lengths.mean())
            relative = numpy.linalg.norm(change[mine]) / numpy.linalg.norm(before[mine])
            assert found["relative"] == pytest.approx(relative)
            assert found["share"] == pytest.approx((lengths**2).sum() / (change**2).sum())
        lengths = numpy.linalg.norm(change, axis=1)
        furthest = most_moved(matrix["scripts"], pair, 20)
        assert [token["id"] for token in furthest] == numpy.argsort(-lengths)[:20].tolist()
        assert [token["l2"] for token in furthest] == pytest.approx(sorted(lengths, reverse=True)[:20])


def test_tokens_keep_their_text_and_bytes(analysis: tuple[dict, list[numpy.ndarray], list[str]]) -> None:
    results, _, texts = analysis
    for group in results["embedding_rows"][0]["scripts"]:
        for token in group["base_cpt"]["moved"]:
            if group["script"] == NO_TOKEN:
                assert token["text"] == ""
            elif group["script"] != PARTIAL:
                text = bytes.fromhex(token["bytes"]).decode()
                assert text == texts[token["id"]]
                assert token["text"] == spelt(text.encode())


def test_rows_are_written_and_drawn(analysis: tuple[dict, list[numpy.ndarray], list[str]], tmp_path: Path) -> None:
    results, (base, cpt, _), _ = analysis
    tensors, tokens = write_csv(results, tmp_path)
    lines = list(csv.DictReader(io.StringIO(tokens.read_text(encoding="utf-8"))))
    tibetan = [line for line in lines if (line["script"], line["stage"]) == ("Tibetan", "cpt")]
    assert any("བ" in line["text"] for line in tibetan)
    for line in tibetan:
        row = int(line["id"])
        assert float(line["l2"]) == pytest.approx(numpy.linalg.norm(cpt[row] - base[row]))
    assert [float(line["l2"]) for line in tibetan] == sorted((float(line["l2"]) for line in tibetan), reverse=True)
    [first, second] = csv.DictReader(io.StringIO(tensors.read_text(encoding="utf-8")))
    assert (first["tensor"], first["stage"], second["stage"]) == (EMBEDDING, "cpt", "sft")
    assert float(first["l2"]) == pytest.approx(numpy.linalg.norm(cpt - base))
    chart = draw_tokens(results, top_k=7)
    assert chart is not None
    assert [len(ax.patches) for ax in chart.axes] == [7, 7]
    labels = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    expected = [str(token["id"]) for token in most_moved(results["embedding_rows"][0]["scripts"], "base_cpt", 7)]
    assert [label.split(", ")[-1] for label in labels] == expected
    by_script = draw_scripts(results)
    assert by_script is not None
    rows = [label.get_text() for label in by_script.axes[0].get_yticklabels()]
    assert rows == [f"{group['script']} ({group['rows']:,})" for group in results["embedding_rows"][0]["scripts"]]
    summary = " ".join(summarise(results).split())
    assert "Moved furthest by CPT" in summary
    assert "part of a character" in summary


def test_what_cannot_be_seen_is_spelt() -> None:
    assert [spelt(piece) for piece in (b" a\n", b"\x00", b"\x7f", b"\xe0\xbd")] == ["␣a␊", "␀", "␡", "▯"]
    assert spelt("ི".encode()) == "◌ི"


@pytest.mark.parametrize(
    ("text", "script"),
    [("བོད་", "Tibetan"), ("།", "Tibetan"), ("༢༠", "Tibetan"), ("藏a文", "Han"), (" 12, ", None), ("", None)],
)
def test_main_script(text: str, script: str | None) -> None:
    assert main_script(text) == script
