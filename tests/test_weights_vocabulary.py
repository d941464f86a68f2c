"""Vocabularies that grew or moved: rows are matched by token, and new ones kept apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from langadapt.errors import UserError
from langadapt.weights.checkpoints import open_checkpoints
from langadapt.weights.comparison import compare
from langadapt.weights.summary import summarise

EMBEDDING = "model.embed_tokens.weight"


def write(folder: Path, tokens: list[str], rows: torch.Tensor) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    words = {token: row for row, token in enumerate(tokens)}
    Tokenizer(WordLevel(words, unk_token=tokens[0])).save(str(folder / "tokenizer.json"))
    save_file({EMBEDDING: rows, "model.norm.weight": torch.ones(4)}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("slice_size", [4, 12, 1000])
def test_rows_are_matched_by_token(tmp_path: Path, slice_size: int) -> None:
    torch.manual_seed(0)
    # The base is padded to six rows; CPT puts new tokens into its padding and beyond, in another order.
    base, cpt, sft = torch.randn(6, 4), torch.randn(8, 4), torch.randn(8, 4)
    before, after = ["a", "b", "c", "d"], ["a", "c", "b", "d", "ka", "kha", "ga"]
    paths = [
        write(tmp_path / "base", before, base),
        write(tmp_path / "cpt", after, cpt),
        write(tmp_path / "sft", after, sft),
    ]
    results = compare(*open_checkpoints(*paths), slice_size=slice_size)
    embedding = results["tensors"][0]
    assert embedding["shape"] == [4, 4]
    in_base_order = [0, 2, 1, 3]
    expected = float((cpt[in_base_order] - base[:4]).double().norm())
    assert embedding["base_cpt"]["l2"] == pytest.approx(expected, rel=1e-6)
    found = results["vocabulary"]
    assert (found["rows_compared"], found["new_tokens"]) == (4, 3)
    assert found["rows_left_out"] == {"original": 2, "cpt": 4, "sft": 4}
    [new] = found["new_rows"]
    assert new["shape"] == [3, 4]
    assert new["cpt_norm"] == pytest.approx(float(cpt[4:7].norm()), rel=1e-6)
    assert new["cpt_sft"]["l2"] == pytest.approx(float((sft[4:7] - cpt[4:7]).norm()), rel=1e-6)
    assert "the 3 rows of new tokens have no base to compare with" in " ".join(summarise(results).split())


def test_equal_vocabularies_are_left_alone(tmp_path: Path) -> None:
    rows = torch.randn(6, 4)
    path = write(tmp_path / "base", ["a", "b", "c"], rows)
    *_, alignment = open_checkpoints(path, path, path)
    assert alignment is None


def test_rows_of_new_tokens_have_their_scripts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cpt, sft = torch.randn(4, 4), torch.randn(4, 4)
    words = ["a", "བོད", "ka", "ཡིག"]
    paths = [write(tmp_path / "base", ["a"], torch.randn(1, 4))]
    paths += [write(tmp_path / name, words, rows) for name, rows in (("cpt", cpt), ("sft", sft))]
    results = compare(*open_checkpoints(*paths))
    [new] = results["vocabulary"]["new_rows"]
    assert {group["script"]: group["rows"] for group in new["scripts"]} == {"Tibetan": 2, "Latin": 1}
    [tibetan] = (group for group in new["scripts"] if group["script"] == "Tibetan")
    change = (sft - cpt)[[1, 3]].double().norm(dim=1)
    assert tibetan["cpt_sft"]["mean_l2"] == pytest.approx(float(change.mean()), rel=1e-6)
    assert {(token["text"], token["id"]) for token in tibetan["cpt_sft"]["moved"]} == {("བོད", 1), ("ཡིག", 3)}
    assert [group["script"] for group in results["embedding_rows"][0]["scripts"]] == ["Latin"]
    assert "Tibetan 2 rows" in " ".join(summarise(results).split())


def test_a_new_row_that_is_no_number_is_named(tmp_path: Path) -> None:
    rows = torch.randn(2, 4)
    rows[1] = torch.nan
    paths = [write(tmp_path / "base", ["a"], torch.randn(1, 4))]
    paths += [write(tmp_path / name, ["a", "ka"], rows) for name in ("cpt", "sft")]
    with pytest.raises(UserError, match=rf"cpt: the tensor {EMBEDDING} holds NaN"):
        compare(*open_checkpoints(*paths))


def test_models_of_two_kinds_are_told_by_their_configs(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, ["a"], torch.randn(1, 4)) for name in ("base", "cpt", "sft")]
    for path, kind in zip(paths, ("llama", "qwen2", "qwen2"), strict=True):
        (Path(path) / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=r"model_type .* original .*base: llama; cpt .*cpt: qwen2; sft .*sft: qwen2"):
        open_checkpoints(*paths)
