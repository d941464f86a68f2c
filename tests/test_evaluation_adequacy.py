"""LaBSE against a plain computation on a tiny BERT; what COMET's command is told and what it says; refusals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN

from langadapt.errors import UserError
from langadapt.evaluation.results import Prediction, Prompt
from langadapt.evaluation.scores.adequacy import Comet, Labse, score_meaning
from langadapt.evaluation.scores.scoring import score_translation

TEXTS = [*TIBETAN, *CHINESE, *ENGLISH]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as LaBSE's: BertModel with its pooler, and a tokenizer that puts [CLS] and [SEP] around."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("labse")
    letters = sorted(set("".join(TEXTS)) - {" "})
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return folder


def plain_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """One text at a time: the pooler's layer on the [CLS] state, tanh, length one."""
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer, BertModel

    weights = load_file(folder / "model.safetensors")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        with torch.no_grad():
            first = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0].numpy()
        pooled = np.tanh(weights["pooler.dense.weight"] @ first + weights["pooler.dense.bias"])
        vectors.append(pooled / np.linalg.norm(pooled))
    return np.array(vectors)


@pytest.mark.parametrize("budget", [1, 100, 16384])
def test_labse_is_the_cosine_of_pooled_states_for_any_batch(bert: Path, budget: int) -> None:
    expected = plain_vectors(bert, TEXTS)
    labse = Labse(bert, device="cpu", token_budget=budget)
    assert labse.embed(TEXTS).numpy() == pytest.approx(expected, abs=1e-5)
    [forward, backward, copied] = labse.items(CHINESE, [TIBETAN, TIBETAN[::-1], CHINESE], TIBETAN)
    assert forward == pytest.approx((expected[4:8] * expected[:4]).sum(1), abs=1e-5)
    assert backward == pytest.approx((expected[4:8] * expected[3::-1]).sum(1), abs=1e-5)
    assert copied == pytest.approx(1, abs=1e-5)


def test_the_mean_has_floors_and_an_interval(bert: Path) -> None:
    labse = Labse(bert, device="cpu")
    score, values = score_meaning(labse, CHINESE, TIBETAN, TIBETAN, {"copied_source": CHINESE}, 1000)
    assert score.score == pytest.approx(values.mean())
    assert score.floors["copied_source"] == pytest.approx(1, abs=1e-5)
    assert score.interval is not None
    exact = np.random.default_rng(1).choice(values, (20000, 4)).mean(1)
    assert (score.interval.low, score.interval.high) == pytest.approx(np.quantile(exact, [0.025, 0.975]), abs=0.02)
    assert score_meaning(labse, CHINESE[:1], TIBETAN[:1], TIBETAN[:1], {}, 1000)[0].interval is None


def test_labse_stands_among_the_scores_of_a_direction(bert: Path) -> None:
    fields = {"test_set": "t", "direction": "zh-bo", "prompt_name": "chat", "prompt": "", "examples": 0}
    fields |= {"stop_reason": "stop", "tokens": 1}
    items = enumerate(zip(CHINESE, TIBETAN, "aabb", strict=True))
    predictions = [
        Prediction(**fields, id=str(number), source=source, reference=target, hypothesis=target, origin=origin)
        for number, (source, target, origin) in items
    ]
    labse = Labse(bert, device="cpu")
    prompt = Prompt(format="chat", asked=0, examples={0: 4}, first="")
    found = score_translation(predictions * 10, prompt, resamples=100, adequacy=[labse])
    assert list(found.scores) == ["bleu", "chrf", "chrf++", "labse"]
    assert set(found.scores["labse"].floors) == {"shuffled", "copied_source"}
    [values] = labse.items(CHINESE, [TIBETAN], TIBETAN)
    by_origin = {part.name: part.scores["labse"] for part in found.slices if part.by == "source"}
    assert by_origin == pytest.approx({"a": values[:2].mean(), "b": values[2:].mean()})
    other = [prediction.model_copy(update={"direction": "lzh-bo"}) for prediction in predictions]
    with pytest.raises(ValueError, match="lzh-bo: LaBSE's encoder has never seen the language lzh"):
        score_translation(other, prompt, resamples=100, adequacy=[labse])


def test_pickled_weights_and_a_missing_pooler_are_refused(bert: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bert, tmp_path / "labse"))
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights are missing: pooler\.dense\.bias \(2 in all\)"):
        Labse(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="never opened"):
        Labse(folder, device="cpu")


COMMAND = """#!{python}
import argparse, json, os
parser = argparse.ArgumentParser()
for name in ("-s", "-r", "--model", "--gpus", "--to_json"):
    parser.add_argument(name, required=True)
parser.add_argument("-t", nargs="+", required=True)
for name in ("--quiet", "--only_system"):
    parser.add_argument(name, action="store_true")
args = parser.parse_args()
assert os.environ["HF_HUB_OFFLINE"] == "1" and "RANK" not in os.environ and os.path.isfile(args.model)
lines = {{name: open(name, encoding="utf-8").read().split("\\n")[:-1] for name in (args.s, args.r, *args.t)}}
assert len(set(map(len, lines.values()))) == 1
said = {{
    name: [
        {{"src": s, "mt": m, "ref": r, "COMET": float(m == r) + 0.25 * (m == s)}}
        for s, m, r in zip(lines[args.s], lines[name], lines[args.r])
    ]
    for name in args.t
}}
if "break" in lines[args.s]:
    raise SystemExit("the encoder is not here")
json.dump(said, open(args.to_json, "w"))
"""


@pytest.fixture
def comet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint's folder, and a stand-in for comet-score of unbabel-comet 2.2.7: its options and its JSON."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "comet-score"
    command.write_text(COMMAND.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    checkpoint = tmp_path / "wmt22-comet-da" / "checkpoints" / "model.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    (tmp_path / "wmt22-comet-da" / "hparams.yaml").write_text("class_identifier: regression_metric\n", encoding="utf-8")
    return checkpoint


def test_comet_is_asked_through_its_command(comet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    metric = Comet(comet, device="cpu")
    assert metric.signature == "comet|model:wmt22-comet-da"
    sources, references = ["a", "b\nc", "d"], ["A", "B\n\nC", ""]
    [good, copied] = metric.items(sources, [["A", "B C", ""], sources], references)
    assert good.tolist() == [1, 1, 1]
    assert copied.tolist() == [0.25, 0.25, 0.25]
    with pytest.raises(UserError, match=r"comet-score failed \(the encoder is not here\)"):
        metric.items(["break"], [["a"]], ["b"])


def test_comet_needs_its_files_and_its_command(comet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file"):
        Comet(comet.with_name("other.ckpt"))
    (comet.parents[1] / "hparams.yaml").rename(comet.parents[1] / "other.yaml")
    with pytest.raises(UserError, match=r"beside its hparams\.yaml"):
        Comet(comet)
    (comet.parents[1] / "other.yaml").rename(comet.parents[1] / "hparams.yaml")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="pipx install unbabel-comet"):
        Comet(comet)


def test_languages_that_an_encoder_has_not_seen_are_refused(comet: Path, bert: Path) -> None:
    metric, labse = Comet(comet, device="cpu"), Labse(bert, device="cpu")
    for code in ("zh", "zh_hant", "en", "fr", "mn"):
        assert metric.refusal("en", code) is None
        assert labse.refusal("bo", code) is None
    for code in ("bo", "dz", "lzh"):
        reason = metric.refusal("en", code)
        assert reason is not None
        assert f"COMET's encoder has never seen the language {code}" in reason
        assert metric.refusal(code, "en") == reason
    assert labse.refusal("zh", "bo") is None
    assert labse.refusal("zh", "dz")
    assert labse.refusal("lzh", "zh")
