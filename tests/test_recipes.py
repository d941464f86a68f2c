"""Every shipped YAML, and how settings are read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from transformers import AutoModelForCausalLM

from langadapt.errors import UserError
from langadapt.models.building import BYTES_ONLY, new_config, train_tokenizer
from langadapt.recipe.evaluation import EvaluationSettings
from langadapt.recipe.inference import InferenceSettings
from langadapt.recipe.language import PROFILES, Language, load_language
from langadapt.recipe.pairs import PairSettings
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.settings import Settings, load_settings
from langadapt.recipe.training import load_training_settings
from langadapt.recipe.weights import WeightsSettings
from langadapt.recipe.yaml_file import parse_value, read_yaml
from langadapt.runs.commands import RecipeCommands

CONFIGS = REPOSITORY / "configs"
STAGES: dict[str, type[Settings]] = {
    "preprocess": PreprocessSettings,
    "evaluate": EvaluationSettings,
    "weights": WeightsSettings,
    "preferences": PairSettings,
    "inference": InferenceSettings,
    "commands": RecipeCommands,
}
RECIPES = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ("languages", "deepspeed"))
WITH_STAGE_1 = [
    recipe for recipe in RECIPES if {"preprocess.yaml", "sft.yaml"} <= {path.name for path in recipe.iterdir()}
]
TRANSLATORS = [recipe for recipe in RECIPES if (recipe / "train.yaml").is_file()]
FROM_SCRATCH = CONFIGS / "minimind_en_zh_hant"
FILES = [path for recipe in RECIPES for path in sorted(recipe.glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_is_valid_and_opens_with_its_command(path: Path) -> None:
    stage = path.stem.partition("_")[0]  # preprocess_finance.yaml is one of stage 1 too
    if stage in STAGES:
        load_settings(STAGES[stage], path)
    elif path.stem == "defaults":
        assert read_yaml(path)[0]  # checked with the files that name it
    else:
        load_training_settings(path)
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(re.search(r"(python \d_|python -m langadapt|bash \d_|make )", line) for line in comments), (
        "no command at the top"
    )


@pytest.mark.parametrize("recipe", [r for r in WITH_STAGE_1 if r != FROM_SCRATCH], ids=lambda path: path.name)
def test_stages_of_a_recipe_hand_over_to_each_other(recipe: Path) -> None:
    from langadapt.corpus.lengths import cutoff_suffix

    data = load_settings(PreprocessSettings, recipe / "preprocess.yaml")
    sft = load_training_settings(recipe / "sft.yaml")
    evaluation = load_settings(EvaluationSettings, recipe / "evaluate.yaml")
    weights = load_settings(WeightsSettings, recipe / "weights.yaml")
    suffix = cutoff_suffix(data.cutoff_len)
    assert sft.dataset == f"{data.output_dir}/{data.name}_sft_filtered_{suffix}.json"
    assert evaluation.dataset_dir == data.output_dir
    assert evaluation.translation_file == f"{data.name}_sft_test_filtered_{suffix}.json"
    assert (data.cutoff_len, data.template) == (sft.cutoff_len, sft.template)
    assert (recipe / "cpt.yaml").is_file() == (data.cpt is not None)
    if data.cpt is not None:
        cpt = load_training_settings(recipe / "cpt.yaml")
        assert cpt.dataset == f"{data.output_dir}/{data.name}_cpt_final.json"
        assert (cpt.model_name_or_path, cpt.output_dir) == (data.tokenizer, sft.model_name_or_path)
    else:
        assert sft.model_name_or_path == data.tokenizer
    assert (weights.original, weights.cpt, weights.sft) == (data.tokenizer, sft.model_name_or_path, sft.output_dir)
    assert load_settings(InferenceSettings, recipe / "inference.yaml").model_path == [sft.output_dir]


@pytest.mark.parametrize("recipe", TRANSLATORS, ids=lambda path: path.name)
def test_stages_of_a_translator_hand_over_to_each_other(recipe: Path) -> None:
    shared = CONFIGS / "csas" if recipe.name.startswith("csas_") else recipe
    data = load_settings(PreprocessSettings, shared / "preprocess.yaml")
    training = load_training_settings(recipe / "train.yaml")
    evaluation = load_settings(EvaluationSettings, shared / "evaluate.yaml")
    weights = load_settings(WeightsSettings, recipe / "weights.yaml")
    assert training.dataset == f"{data.output_dir}/{data.name}_sft_filtered_512.json"
    assert training.eval_dataset == f"{data.output_dir}/{data.name}_sft_valid_filtered_512.json"
    assert (evaluation.dataset_dir, evaluation.likelihood_file) == (data.output_dir, None)
    assert evaluation.translation_file == f"{data.name}_sft_test_filtered_512.json"
    assert (weights.original, weights.sft) == (training.model_name_or_path, training.output_dir)
    assert load_settings(InferenceSettings, recipe / "inference.yaml").model_path == [training.output_dir]
    assert shared != recipe or data.tokenizer == training.model_name_or_path


def test_the_vocabulary_recipe_takes_stage_1_of_another_and_hands_over() -> None:
    recipe = CONFIGS / "mongolian_vocabulary"
    data = load_settings(PreprocessSettings, CONFIGS / "mongolian_qwen_lora" / "preprocess.yaml")
    embeddings, cpt = (load_training_settings(recipe / f"{name}.yaml") for name in ("embeddings", "cpt"))
    weights = load_settings(WeightsSettings, recipe / "weights.yaml")
    assert embeddings.dataset == cpt.dataset == f"{data.output_dir}/{data.name}_cpt_final.json"
    assert (embeddings.model_name_or_path, cpt.model_name_or_path) == (data.tokenizer, embeddings.output_dir)
    assert weights.original == f"{embeddings.output_dir}/extended_base"
    assert (weights.cpt, weights.sft) == (embeddings.output_dir, cpt.output_dir)
    assert load_settings(EvaluationSettings, recipe / "evaluate.yaml").dataset_dir == data.output_dir
    assert load_settings(InferenceSettings, recipe / "inference.yaml").model_path == [cpt.output_dir]


def test_the_recipe_from_scratch_hands_over_and_keeps_its_test_sets_apart() -> None:
    general, finance = (
        load_settings(PreprocessSettings, FROM_SCRATCH / f"{name}.yaml")
        for name in ("preprocess", "preprocess_finance")
    )
    pretrain, sft, lora = (
        load_training_settings(FROM_SCRATCH / f"{name}.yaml") for name in ("pretrain", "sft", "lora")
    )
    evaluation = load_settings(EvaluationSettings, FROM_SCRATCH / "evaluate.yaml")
    weights = load_settings(WeightsSettings, FROM_SCRATCH / "weights.yaml")
    assert general.tokenizer_source == finance.tokenizer == pretrain.model.tokenizer
    assert pretrain.dataset == f"{general.output_dir}/minimind_cpt_final.json"
    assert sft.dataset == f"{general.output_dir}/minimind_sft_filtered_512.json"
    assert lora.dataset == f"{finance.output_dir}/finance_sft_filtered_512.json"
    assert (sft.model_name_or_path, lora.model_name_or_path) == (pretrain.output_dir, sft.output_dir)
    assert (weights.original, weights.cpt, weights.sft) == (pretrain.output_dir, sft.output_dir, lora.output_dir)
    assert load_settings(InferenceSettings, FROM_SCRATCH / "inference.yaml").model_path == [lora.output_dir]
    assert evaluation.dataset_dir == general.output_dir
    held_out = evaluation.test_sets["finance"]
    assert held_out.file == f"{finance.output_dir}/finance_sft_test_filtered_512.json"
    assert held_out.examples == lora.dataset
    assert [path.name for path in general.test_set_paths] == finance.sources["finance"].file
    here = [path.resolve() for path in finance.test_set_paths]
    assert here == [Path(general.output_dir, f"minimind_{name}_test.json").resolve() for name in ("cpt", "sft")]
    assert general.prompts == finance.prompts


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        ((), 25_829_888),
        (("hidden_size=768", "intermediate_size=2048", "num_hidden_layers=16"), 104_030_976),
    ],
)
def test_the_models_from_scratch_have_minimind_s_sizes(overrides: tuple[str, ...], parameters: int) -> None:
    """Both sizes are documented in the recipe; 26M and 104M are what MiniMind calls them."""
    settings = load_training_settings(FROM_SCRATCH / "pretrain.yaml", [f"model.config.{key}" for key in overrides])
    vocabulary = load_settings(PreprocessSettings, FROM_SCRATCH / "preprocess.yaml").new_tokenizer.vocab_size
    tokenizer = train_tokenizer((), BYTES_ONLY)
    config = new_config({**settings.model.config, "vocab_size": vocabulary}, tokenizer)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (config.rope_parameters["rope_theta"], config.hidden_act, config.tie_word_embeddings) == (1e6, "silu", True)


def test_the_default_recipe_is_the_published_one() -> None:
    recipe = CONFIGS / "tibetan_qwen2.5_3b"
    cpt, sft = (load_training_settings(recipe / f"{stage}.yaml") for stage in ("cpt", "sft"))
    for settings, rate, cutoff, epochs in ((cpt, 5e-5, 8192, 1), (sft, 1e-5, 4096, 2)):
        assert settings.per_device_train_batch_size * settings.gradient_accumulation_steps * 8 == 128
        assert (settings.learning_rate, settings.cutoff_len, settings.num_train_epochs) == (rate, cutoff, epochs)
        assert settings.bf16
        assert settings.lr_scheduler_type == "cosine"
    assert (cpt.packing, sft.packing) == ("isolated", "none")
    data = load_settings(PreprocessSettings, recipe / "preprocess.yaml")
    counts = Counter()
    for part in data.sft.parts:
        counts[part.direction] += part.count
    assert data.cpt.count == 200_000
    assert counts == {"bo-bo": 16_000, "zh-bo": 16_000, "en-bo": 8_000, "zh-zh": 10_000}


@pytest.mark.parametrize("code", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_language_profiles(code: str) -> None:
    assert isinstance(load_language(code), Language)


def test_numbers_and_booleans_follow_yaml_1_2() -> None:
    assert parse_value("5e-5") == 5e-5
    assert parse_value("no") == "no"
    assert parse_value("007") == 7
    assert parse_value("true") is True
    assert parse_value("") is None


def test_an_override_is_taken_whole_unless_it_is_a_collection_or_quoted() -> None:
    for text in ("/disk/a #b", "a: b", "- a", "*a", "@a", "~/a", "# a"):
        assert parse_value(text) == text
    assert parse_value("[1, {a: no}]") == [1, {"a": "no"}]
    assert parse_value('"1"') == parse_value("'1'") == "1"
    assert parse_value("~") is None


@pytest.mark.parametrize("name", ["Tibetn", "", "Tibetan}", "བོད"])
def test_a_script_that_unicode_does_not_have_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bo.yaml"
    known = (PROFILES / "bo.yaml").read_text(encoding="utf-8")
    path.write_text(known.replace("scripts: [Tibetan]", f'scripts: ["{name}"]'), encoding="utf-8")
    with pytest.raises(UserError, match=r"bo\.yaml, line \d+: `scripts`.*no script in Unicode"):
        load_settings(Language, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("code: bo\ncode: zh\n", ["line 2", "stands already in line 1"]),
        ("code: [1\n", ["broken YAML"]),
        ("- 1\n", ["expected `key: value` lines"]),
        ("", ["the file is empty"]),
        ("code: bo\nscript: [Tibetan]\n", ["line 2", "Did you mean `scripts`?", "`autonym` is missing"]),
    ],
)
def test_broken_settings_are_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_settings(Language, tmp_path / "x.yaml")
    assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_overrides_reach_into_lists_and_mappings(tmp_path: Path) -> None:
    path = CONFIGS / "quickstart/preprocess.yaml"
    settings = load_settings(
        PreprocessSettings, path, ["sft.parts.0.count=7", "test.cpt=3", "sources.cute.files.bo=x.txt"]
    )
    assert (settings.sft.parts[0].count, settings.test.cpt) == (7, 3)
    assert settings.sources["cute"].files["bo"] == "x.txt"
    for wrong in ("seed", "--seed=1", "sft.parts.99.count=1", "seed.x=1"):
        with pytest.raises(UserError, match="command line"):
            load_settings(PreprocessSettings, path, [wrong])


def test_a_misspelt_key_of_a_source_gets_the_keys_of_its_own_layout(tmp_path: Path) -> None:
    text = (CONFIGS / "quickstart/preprocess.yaml").read_text(encoding="utf-8").replace("languages:", "langauges:")
    text = text.replace(
        "{source: mix, task: instruction, direction: bo-bo, count: 500}", "{source: mix, task: x, n: 1}"
    )
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "langauges" in row)
    with pytest.raises(UserError) as caught:
        load_settings(PreprocessSettings, tmp_path / "x.yaml")
    assert f"line {line}: unknown key `sources.mix.langauges`. Did you mean `languages`?" in str(caught.value)
    assert "unknown key `sft.parts.0.n`" in str(caught.value)


def test_contradictions_are_all_reported() -> None:
    with pytest.raises(UserError) as caught:
        load_settings(
            PreprocessSettings,
            CONFIGS / "quickstart/preprocess.yaml",
            [
                "cpt.parts=[{source: mix},{source: nowhere}]",
                "sft.parts.2.direction=fr-bo",
                "prompts.en-bo=[none]",
            ],
        )
    for part in ("the layout of 'mix'", "'nowhere'", "has no fr", "'none' lacks {text}"):
        assert part in str(caught.value)


def test_defaults_hold_where_a_file_has_no_key_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "all.yaml").write_text("code: bo\nscripts: [Tibetan]\nnames: {zh: 藏文}\n", encoding="utf-8")
    path = tmp_path / "x.yaml"
    path.write_text("defaults: shared/all.yaml\nnames: {en: Tibetan}\ncode: dz\n", encoding="utf-8")
    values, places = read_yaml(path)
    assert values == {"code": "dz", "scripts": ["Tibetan"], "names": {"en": "Tibetan"}}
    assert places["scripts", 0] == f"{tmp_path / 'shared' / 'all.yaml'}, line 2"
    assert places["names", "en"] == f"{path}, line 2"
    assert ("names", "zh") not in places
    (tmp_path / "shared" / "all.yaml").write_text("scripts: [Tibetn]\nautonim: x\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_settings(Language, path)
    assert "all.yaml, line 1: `scripts`" in str(caught.value)
    assert "all.yaml, line 2: unknown key `autonim`. Did you mean `autonym`?" in str(caught.value)
    path.write_text("code: bo\ndefaults: shared/none.yaml\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml, line 2: `defaults` names .*shared/none\.yaml, which is not there"):
        read_yaml(path)


def test_the_five_translators_have_the_published_hyperparameters() -> None:
    published = {
        "m2m100_418m": (12, 2e-4, None),
        "mbart50_mmt_fr": (8, 1.5e-4, ["fr"]),
        "mbart50_mmt_en": (8, 1.5e-4, ["en"]),
        "opus_mt_en_fr": (16, 3e-4, ["en"]),
        "opus_mt_fr_en": (16, 3e-4, ["fr"]),
    }
    for name, (size, rate, sources) in published.items():
        settings = load_training_settings(CONFIGS / f"csas_{name}" / "train.yaml")
        keys = settings.model_dump()
        assert (keys["per_device_train_batch_size"], settings.learning_rate) == (size, rate)
        assert settings.source_languages == sources
        assert (keys["gradient_accumulation_steps"], keys["num_train_epochs"], settings.bf16) == (2, 1, True)
        assert (settings.finetuning_type, settings.lora_rank, settings.lora_alpha) == ("lora", 32, 64)
        assert (settings.cutoff_len, keys["warmup_steps"], keys["label_smoothing_factor"]) == (512, 0.03, 0.1)


@pytest.mark.parametrize("recipe", WITH_STAGE_1, ids=lambda path: path.name)
def test_training_files_of_stage_4_are_what_is_trained_on(recipe: Path) -> None:
    evaluation = load_settings(EvaluationSettings, recipe / "evaluate.yaml")
    trained = {
        Path(load_training_settings(recipe / f"{stage}.yaml").dataset).name
        for stage in ("pretrain", "cpt", "sft")
        if (recipe / f"{stage}.yaml").is_file()
    }
    assert not evaluation.training_files or set(evaluation.training_files) == trained
