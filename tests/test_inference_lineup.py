"""Several models at one prompt: their names, what is loaded, and adapters that share a base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from langadapt.errors import UserError
from langadapt.inference import lineup as module
from langadapt.inference.conversation import Responder
from langadapt.inference.lineup import Lineup, name_models
from langadapt.models import load_model, load_tokenizer
from langadapt.recipe import load_settings
from langadapt.recipe.inference import InferenceSettings


def opened(*models: Path | str, **changes: object) -> Lineup:
    overrides = [f"{key}={value}" for key, value in changes.items()]
    return Lineup(load_settings(InferenceSettings, None, [f"model_path=[{', '.join(map(str, models))}]", *overrides]))


def logits(responder: Responder) -> torch.Tensor:
    with torch.inference_mode():
        return responder.model(torch.tensor([[60, 61, 62]])).logits


@pytest.fixture
def adapters(tiny_model: Path, tmp_path: Path) -> list[Path]:
    """Two adapters on the tiny model that change what it says."""
    folders = []
    for number in range(2):
        torch.manual_seed(number)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(load_model(str(tiny_model)), config)
        folders.append(tmp_path / f"lora{number}")
        model.save_pretrained(folders[-1])
        load_tokenizer(str(tiny_model)).save_pretrained(folders[-1])
    return folders


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["saves/full/sft"], ["sft"]),
        (["a/base", "b/base", "c/sft"], ["a/base", "b/base", "sft"]),
        (["first=a/base", "b/base"], ["first", "base"]),
        (["sft/checkpoint-2", "cpt/checkpoint-2"], ["sft/checkpoint-2", "cpt/checkpoint-2"]),
    ],
)
def test_names_are_as_short_as_they_can_be(given: list[str], names: list[str]) -> None:
    assert list(name_models(given)) == names


@pytest.mark.parametrize(("given", "message"), [(["a/b", "a/b"], "a/b is there twice"), (["x=a", "x=b"], "name x")])
def test_the_same_twice_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        name_models(given)


def test_a_typo_in_any_model_shows_before_any_is_loaded(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_model", lambda *arguments, **options: pytest.fail("loaded"))
    with pytest.raises(UserError, match="no such folder"):
        opened(tiny_model, "no/such/folder")


def test_adapters_of_one_base_are_switched_and_it_is_loaded_once(
    tiny_model: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [logits(opened(path).get(path.name)) for path in (tiny_model, *adapters)]  # alone: adapters merged
    loads: list[str] = []
    monkeypatch.setattr(
        module, "load_model", lambda name, *rest, **o: loads.append(name) or load_model(name, *rest, **o)
    )
    lineup = opened(tiny_model, *adapters)
    names = lineup.names
    for index in (1, 0, 2, 1, 2, 0):
        found = logits(lineup.get(names[index]))
        torch.testing.assert_close(found, expected[index], rtol=1e-4, atol=1e-5)
    assert loads == [str(tiny_model)]
    assert (expected[0] - expected[1]).abs().max() > 0.01 < (expected[1] - expected[2]).abs().max()


def test_no_more_models_are_kept_than_the_memory_holds(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [shutil.copytree(tiny_model, tmp_path / name) for name in ("one", "two", "three")]

    def loaded_after(lineup: Lineup, *names: str) -> list[str]:
        for name in names:
            lineup.get(name)
        return [name for name in lineup.names if lineup.is_loaded(name)]

    assert loaded_after(opened(*folders), "one", "two", "three") == ["one", "two", "three"]
    assert loaded_after(opened(*folders, models_in_memory=1), "one", "two") == ["two"]
    # The one that was used longest ago goes.
    two = opened(*folders, models_in_memory=2)
    assert loaded_after(two, "one", "two", "one", "three") == ["one", "three"]
    assert two.loaded_first() == ["one", "three", "two"]
    short = opened(*folders)
    monkeypatch.setattr(Lineup, "_free_memory", lambda self: 1000.0)
    assert loaded_after(short, "one", "two") == ["two"]


def test_a_model_of_the_hub_makes_room_by_its_size_once_it_was_downloaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "load_model", lambda name, *rest, **o: load_model(str(tiny_model), *rest, **o))
    monkeypatch.setattr(module, "load_tokenizer", lambda name: load_tokenizer(str(tiny_model)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def loaded_after_both(**changes: object) -> list[str]:
        lineup = opened(tiny_model, "org/model", **changes)
        for name in lineup.names:
            lineup.get(name)
        return [name for name in lineup.names if lineup.is_loaded(name)]

    assert loaded_after_both() == ["model"]
    assert "org/model is not on this disk yet" in capsys.readouterr().err
    assert loaded_after_both(models_in_memory=2) == [tiny_model.name, "model"]
    # As the hub's library keeps what it downloads.
    (tmp_path / "models--org--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--org--model" / "refs" / "main").write_text("0123")
    shutil.copytree(tiny_model, tmp_path / "models--org--model" / "snapshots" / "0123")
    assert loaded_after_both() == [tiny_model.name, "model"]
    monkeypatch.setattr(Lineup, "_free_memory", lambda self: 1000.0)
    assert loaded_after_both() == ["model"]
    assert capsys.readouterr().err == ""


def test_weights_are_rounded_to_4_bit(chat_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    lineup = opened(chat_model, quantization="4bit", device="cpu")
    model = lineup.get(lineup.names[0]).model
    assert {type(layer.mlp.up_proj).__name__ for layer in model.model.layers} == {"Linear4bit"}
    exact = logits(opened(chat_model, device="cpu").get(chat_model.name))
    rounded = logits(lineup.get(lineup.names[0]))
    assert (rounded - exact).abs().max() > 0
    assert torch.nn.functional.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_loaded_in_the_dtype_that_is_asked_for(tiny_model: Path, dtype: str) -> None:
    model = opened(tiny_model, dtype=dtype, device="cpu").get(tiny_model.name).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_device_map_places_the_model(tiny_model: Path) -> None:
    model = opened(tiny_model, device_map="auto").get(tiny_model.name).model
    assert {str(parameter.device.type) for parameter in model.parameters()} <= {"cpu", "cuda"}
    with pytest.raises(UserError, match="expected auto, balanced"):
        opened(tiny_model, device_map="cuda:0")


def test_a_broken_adapter_leaves_the_other_models_as_they_are(tiny_model: Path, adapters: list[Path]) -> None:
    lineup = opened(tiny_model, *adapters)
    expected = logits(lineup.get(tiny_model.name))
    config = adapters[1] / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 4'))
    for _ in range(2):
        with pytest.raises(UserError, match="could not be put on"):
            lineup.get("lora1")
        assert torch.equal(logits(lineup.get(tiny_model.name)), expected)
