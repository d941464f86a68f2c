"""Language tokens that a translator lacks, and where a run ends whose evaluation loss no longer falls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import recipe, train
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translators import make_translators, place_names, seq2seq_keys, write_records

from langadapt.errors import UserError
from langadapt.files import read_json_array, write_json_array
from langadapt.models import load_model
from langadapt.models.loading import device_map
from langadapt.models.translation import load_translation_tokenizer
from langadapt.recipe.translators import NewLanguage
from langadapt.training.vocabulary import extend_languages

TOKENS = {"m2m100": ("__bo__", "__zh__"), "mbart50": ("bo_CN", "zh_CN"), "nllb": ("bod_Test", "zho_Hans")}


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_translators(tmp_path_factory.mktemp("translators"))


@pytest.mark.parametrize("family", TOKENS)
def test_a_new_language_begins_as_a_related_one(family: str, translators: dict[str, Path], tmp_path: Path) -> None:
    token, like = TOKENS[family]
    base, folder = str(translators[family]), tmp_path / "extended"
    extend_languages(base, {"bo": NewLanguage(token=token, like="zh")}, {}, folder)
    plain = AutoTokenizer.from_pretrained(folder)
    new, old = plain.convert_tokens_to_ids([token, like])
    before = AutoTokenizer.from_pretrained(base)
    assert new not in before.get_vocab().values()
    assert plain.convert_tokens_to_ids(like) == before.convert_tokens_to_ids(like) == old
    assert new > max(getattr(before, "lang_token_to_id", before.get_vocab()).values())
    assert plain("Chad", add_special_tokens=False)["input_ids"] == before("Chad", add_special_tokens=False)["input_ids"]
    plain.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").convert_tokens_to_ids(token) == new

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[new], weight[old])
    assert model.get_output_embeddings().weight is weight
    first = load_model(base).get_input_embeddings().weight
    known = [id for id in range(len(first)) if id != new]
    assert torch.equal(weight[known], first[known])
    ours = load_translation_tokenizer(str(folder))
    assert ours.language_token("bo") == token
    assert ours.encode_source(["Chad"], "bo", "en")[0][0] == ours.forced_bos_id("bo") == new
    ids = torch.tensor(ours.encode_source(["Chad"], "en", "bo"))
    model.generate(ids, forced_bos_token_id=new, max_new_tokens=3)

    with pytest.raises(UserError, match="holds a model with new languages that was made with other settings"):
        extend_languages(base, {"bo": NewLanguage(token=token, like="en")}, {}, folder)
    with pytest.raises(UserError, match=f"has the token {like} already: name it in language_tokens"):
        extend_languages(base, {"bo": NewLanguage(token=like, like="en")}, {}, tmp_path / "other")


def test_a_marian_model_takes_no_new_language(translators: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be added to a Marian model"):
        extend_languages(
            str(translators["marian"]), {"bo": NewLanguage(token=">>bod<<", like="zh")}, {}, tmp_path / "x"
        )


def test_a_run_with_a_new_language(translators: dict[str, Path], tmp_path: Path) -> None:
    records = read_json_array(write_records(tmp_path / "french.json", place_names(20)))
    tibetan = [{**record, "target_lang": "bo"} for record in records if record["source_lang"] == "en"]
    write_json_array(tmp_path / "sft.json", tibetan)
    new = {"bo": {"token": "__bo__", "like": "zh"}}
    keys = seq2seq_keys(dataset=str(tmp_path / "sft.json"), new_languages=new, learning_rate=1e-2)
    output = train(recipe("seq2seq", translators["m2m100"], tmp_path, tmp_path / "run", **keys))
    record = json.loads((output / "translation.json").read_text())
    assert record == {"language_tokens": {"bo": "__bo__", "en": "__en__"}, "directions": ["en-bo"]}
    ours = load_translation_tokenizer(str(output))
    model = load_model(str(output))
    assert model.generation_config.forced_bos_token_id == ours.forced_bos_id("bo")
    weight = model.get_input_embeddings().weight
    assert not torch.equal(weight[ours.forced_bos_id("bo")], weight[ours.forced_bos_id("zh")])


def test_no_map_places_a_marian_model_and_none_a_distributed_one(
    translators: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert device_map(str(translators["m2m100"]), cpu) == {"": cpu}
    assert device_map(str(translators["m2m100"]), "auto") == "auto"
    assert device_map(str(translators["marian"]), "auto") is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device_map(str(translators["m2m100"]), cpu) is None


@pytest.mark.parametrize("family", ["m2m100", "marian"])
def test_qlora_learns_beside_four_bits(family: str, translators: dict[str, Path], tmp_path: Path) -> None:
    records = write_records(tmp_path / "sft.json", place_names(20))
    keys = seq2seq_keys(dataset=str(records), finetuning_type="qlora", learning_rate=1e-2, max_steps=4, bf16=False)
    output = train(recipe("seq2seq", translators[family], tmp_path, tmp_path / "run", **keys))
    before, after = (load_model(str(folder)).state_dict() for folder in (translators[family], output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".encoder_attn." in name for name in changed)
    assert any(".encoder.layers." in name for name in changed)
    assert not any("embed" in name or "shared" in name or "lm_head" in name for name in changed)


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        ({"finetuning_type": "embeddings"}, ("shared", "embed_tokens", "lm_head")),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 1}, ("encoder.layers.1", "decoder.layers.1")),
    ],
)
def test_parts_of_a_translator(
    keys: dict[str, object], trained: tuple[str, ...], translators: dict[str, Path], tmp_path: Path
) -> None:
    records = write_records(tmp_path / "sft.json", place_names(20))
    config = recipe(
        "seq2seq", translators["nllb"], tmp_path, tmp_path / "run", **seq2seq_keys(dataset=str(records), **keys)
    )
    output = train(config, "max_steps=2")
    before, after = (load_model(str(folder)).state_dict() for folder in (translators["nllb"], output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(any(part in name for part in trained) for name in changed)
    assert all(any(part in name for name in changed) for part in trained)


def test_an_adapter_cannot_train_the_shared_table(translators: dict[str, Path], tmp_path: Path) -> None:
    records = write_records(tmp_path / "sft.json", place_names(20))
    keys = seq2seq_keys(dataset=str(records), finetuning_type="lora", additional_target="shared")
    with pytest.raises(UserError, match=r"names shared, but encoder, decoder and output layer of .* share that tensor"):
        train(recipe("seq2seq", translators["nllb"], tmp_path, tmp_path / "run", **keys))
