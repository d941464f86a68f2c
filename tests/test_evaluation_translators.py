"""Stage 4 on encoder-decoder models: the hypotheses of transformers, the scores of sacrebleu, beside decoder models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PAIRS
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from langadapt.errors import UserError
from langadapt.evaluation.charts import draw_charts
from langadapt.evaluation.comparison.fewshot import fewshot_chart, fewshot_rows
from langadapt.evaluation.comparison.side_by_side import load_comparison
from langadapt.evaluation.evaluate import evaluate_model
from langadapt.evaluation.generation.predict import predict
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.evaluation.results import Evaluation, read_predictions
from langadapt.evaluation.tables.summary import summarize
from langadapt.files import write_json_array
from langadapt.models import load_model
from langadapt.recipe.evaluation import EvaluationSettings

UNSEEN = [("The red dog is good.", "Le chien rouge est beau."), ("Where is the house?", "Où est la maison ?")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out text, and both directions of pairs of which the models have learned most."""
    folder = tmp_path_factory.mktemp("dataset")
    write_json_array(folder / "cpt.json", [{"id": "0", "text": "Le chien dort."}])
    records = []
    for source, target, side in (("en", "fr", 0), ("fr", "en", 1)):
        for n, pair in enumerate([*PAIRS, *UNSEEN]):
            text, reference = pair[side], pair[1 - side]
            records.append(
                {"id": f"{source}{n}", "task": "translation", "instruction": f"Translate: {text}", "input": "",
                 "output": reference, "source_lang": source, "target_lang": target, "source_text": text}
            )  # fmt: skip
    write_json_array(folder / "sft.json", records)
    write_json_array(folder / "examples.json", [r | {"source_text": "A", "output": "B"} for r in records])
    return folder


def settings(model: Path, dataset: Path, out: Path, **changes: object) -> EvaluationSettings:
    return EvaluationSettings(
        model_path=str(model), model_name=model.name, dataset_dir=str(dataset), output_dir=str(out), device="cpu",
        language="fr", likelihood_file="cpt.json", translation_file="sft.json", fewshot_file="examples.json",
        prompt_language="en", resamples=100, **changes,
    )  # fmt: skip


def evaluate(*arguments: object, **changes: object) -> Evaluation:
    return evaluate_model(settings(*arguments, **changes), "", Ranks())[0]  # type: ignore[arg-type]


def by_transformers(model: Path, sources: list[str], beams: int) -> list[str]:
    """The translations from English by transformers alone, one at a time, with the class of the model's tokenizer."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForSeq2SeqLM.from_pretrained(model)
    options = {}
    if model.name == "m2m100":
        tokenizer.src_lang = "en"
        options["forced_bos_token_id"] = tokenizer.get_lang_id("fr")
    found = []
    for source in sources:
        inputs = tokenizer(source, return_tensors="pt")
        ids = network.generate(**inputs, **options, num_beams=beams, do_sample=False, max_new_tokens=40)
        text = tokenizer.decode(ids[0], skip_special_tokens=True)
        found.append(text.replace("__fr__", "").strip())  # which M2M100's class takes for text
    return found


@pytest.mark.parametrize(("family", "beams"), [("m2m100", 1), ("marian", 1), ("m2m100", 3)])
def test_batches_give_what_transformers_gives_one_by_one(
    translators: dict[str, Path], dataset: Path, tmp_path: Path, family: str, beams: int
) -> None:
    evaluate(translators[family], dataset, tmp_path, num_beams=beams, directions=["en-fr"], length_ratio=5)
    predictions = read_predictions(tmp_path, family)
    expected = by_transformers(translators[family], [p.source for p in predictions], beams)
    assert [p.hypothesis for p in predictions] == expected
    assert expected[: len(PAIRS)] == [target for _, target in PAIRS]
    assert {(p.prompt_name, p.stop_reason) for p in predictions} == {("translation", "stop")}


def test_scores_are_sacrebleus(translators: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    result = evaluate(translators["m2m100"], dataset, tmp_path, directions=["en-fr"])
    predictions = read_predictions(tmp_path, "m2m100")
    for name in ("hypothesis", "reference"):
        lines = "".join(f"{getattr(prediction, name)}\n" for prediction in predictions)
        (tmp_path / name).write_text(lines, encoding="utf-8")
    [translation] = result.translations
    for metric in ("bleu", "chrf"):
        command = [
            sys.executable,
            "-m",
            "sacrebleu",
            str(tmp_path / "reference"),
            "-i",
            str(tmp_path / "hypothesis"),
            "-m",
            metric,
            "-b",
        ]
        done = subprocess.run([*command, "-w", "6"], capture_output=True, text=True, check=True)
        assert translation.scores[metric].score == pytest.approx(float(done.stdout), abs=1e-5)


def test_what_a_translator_cannot_is_missing_and_not_zero(
    translators: dict[str, Path], chat_model: Path, dataset: Path, tmp_path: Path
) -> None:
    result = evaluate(translators["marian"], dataset, tmp_path)
    assert (result.likelihoods, [t.direction for t in result.translations]) == ([], ["en-fr"])
    assert "not defined for a translator" in result.missing["likelihood.held_out.fr"]
    assert "translates en-fr, and only that" in result.missing["translation.held_out.fr-en"]
    evaluate(translators["m2m100"], dataset, tmp_path)
    evaluate(chat_model, dataset, tmp_path, num_fewshot=[0, 1], length_ratio=1)

    comparison = load_comparison(tmp_path, None, 100)
    text = summarize(comparison)
    assert "Search, of all models: greedy." in text
    assert [metric.view for metric in comparison.main if metric.kind == "translation"] == ["own"] * 4
    likelihood = next(metric for metric in comparison.metrics if metric.kind == "likelihood")
    assert likelihood.reasons == {"marian": "not defined", "m2m100": "not defined"}
    own = next(metric for metric in comparison.main if metric.key == "chrF en-fr, own prompts")
    assert {figure.prompt for figure in own.figures.values() if figure} == {"chat", "translation"}
    assert own.ranked()[-1] == chat_model.name
    assert not [change for change in comparison.forgetting if change.metric.kind == "translation"]
    assert {row.prompt for row in fewshot_rows(comparison.results)} == {"0-shot", "1-shot", "chat", "translation"}
    assert fewshot_chart(comparison.results) is not None
    assert all(path.is_file() for path in draw_charts(comparison, tmp_path))


def test_a_run_goes_on_where_it_was(
    translators: dict[str, Path], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langadapt.evaluation import evaluate as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_results", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(translators["marian"], dataset, tmp_path)
    assert evaluate(translators["marian"], dataset, tmp_path).plan["resumed"] == len(PAIRS) + len(UNSEEN)


def test_what_does_not_fit_or_cannot_run_is_said(translators: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.mkdir()
    for name in ("cpt.json", "sft.json", "examples.json"):
        (long / name).write_bytes((dataset / name).read_bytes().replace(b"A red house.", b"A red house. " * 40))
    with pytest.raises(UserError, match=r"the test record en2 takes .* longest sequence is 64 on either side"):
        evaluate(translators["marian"], long, tmp_path)
    with pytest.raises(UserError, match="strict: only for decoder models"):
        evaluate(translators["marian"], dataset, tmp_path, strict=True)
    with pytest.raises(UserError, match="engine=vllm: only for decoder models"):
        evaluate(translators["marian"], dataset, tmp_path, engine="vllm")
    write_json_array(tmp_path / "in.json", [{"instruction": "Hello"}])
    with pytest.raises(UserError, match=r"a translator, and --predict asks .* 6_test_inference\.py"):
        predict(settings(translators["marian"], dataset, tmp_path), tmp_path / "in.json", tmp_path / "o.json", Ranks())


def test_padding_is_never_written(translators: dict[str, Path]) -> None:
    """A Marian that finds padding likeliest writes the next likeliest instead."""
    from langadapt.inference.decoding import decode_with_transformers

    model = load_model(str(translators["marian"]))
    model.final_logits_bias[0, model.config.pad_token_id] = 1e4
    [row] = decode_with_transformers(model, [[5, 6, 0]], [4], lambda new: False, [0], 1)
    assert model.config.pad_token_id not in row
