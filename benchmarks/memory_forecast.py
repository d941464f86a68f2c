"""The memory that --dry_run forecasts against what training takes: real steps, each setting in a process of its own.

    python benchmarks/memory_forecast.py

Trains a random Qwen2 of eight layers for three steps on full blocks, and a translator of NLLB's kind, of four layers
twice, on sentences as long as they may be; on a GPU where there is one. Measured is, on the CPU, how far the process's
resident memory rises above what it was before the model was there, with glibc told to return what is freed; on a GPU,
what torch has allocated at most. Prints both and their ratio; 0.9 to 1.1 is the aim.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORDS, WIDTH, LAYERS, BLOCK = 16_384, 512, 8, 512
RECIPE = {
    "stage": "pt",
    "cutoff_len": BLOCK,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-4,
    "max_steps": 3,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
TRANSLATOR = {"stage": "seq2seq", "source_languages": ["en"], "label_smoothing_factor": 0.1}
SETTINGS: dict[str, list[str]] = {
    "float32": [],
    "float32, batch of 8": ["per_device_train_batch_size=8"],
    "float32, checkpointing": ["activation_checkpointing=true"],
    "float32, accumulated": ["gradient_accumulation_steps=2"],
    "float32, joined": ["packing=joined"],
    "bf16": ["bf16=true"],
    "bf16, checkpointing": ["bf16=true", "activation_checkpointing=true"],
    "float32, LoRA": ["finetuning_type=lora"],
    "bf16, LoRA": ["finetuning_type=lora", "bf16=true"],
    "bf16, freeze": ["finetuning_type=freeze", "bf16=true"],
    "float32, embeddings": ["finetuning_type=embeddings"],
}
TRANSLATOR_SETTINGS: dict[str, list[str]] = {
    "translator, float32": [],
    "translator, batch of 8": ["per_device_train_batch_size=8"],
    "translator, checkpointing": ["activation_checkpointing=true"],
    "translator, bf16": ["bf16=true"],
    "translator, LoRA": ["finetuning_type=lora"],
}


def make(folder: Path) -> Path:
    """Write a decoder, data and a recipe into ``folder``; return the recipe."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from langadapt.files import write_json, write_json_array
    from langadapt.models.building import train_tokenizer

    tokenizer = train_tokenizer(["The memory of a step."], vocab_size=300)
    torch.manual_seed(0)
    for name, layers in (("model", LAYERS), ("small", 2)):
        config = Qwen2Config(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=WIDTH // 64,
            num_key_value_heads=2,
            max_position_embeddings=BLOCK,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
        # float32 weights would stay in the file's own pages, which the process's resident memory counts too.
        Qwen2ForCausalLM(config).bfloat16().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_json_array(folder / "data.json", [{"text": "memory " * 20 * (1 + i % 7)} for i in range(1000)])
    paths = {name: str(folder / name) for name in ("model", "data.json", "out")}
    names = {"model_name_or_path": paths["model"], "dataset": paths["data.json"], "output_dir": paths["out"]}
    write_json(folder / "recipe.yaml", RECIPE | names)  # JSON is YAML
    return folder / "recipe.yaml"


def make_translator(folder: Path) -> Path:
    """Write a translator, sentences of one length and a recipe into ``folder``; return the recipe."""
    import torch
    from transformers import AutoConfig, M2M100ForConditionalGeneration

    from langadapt.files import write_json, write_json_array
    from langadapt.models.small_translator import make_small_translator
    from langadapt.models.translation import load_translation_tokenizer

    sentence = "The memory of a step. " * 40
    torch.manual_seed(0)
    for name, layers in (("model", LAYERS // 2), ("small", 2)):
        made = folder / name
        make_small_translator("nllb", {"en": [sentence], "fr": [sentence]}, made, vocab_size=40, layers=layers)
        changes = {"vocab_size": WORDS, "d_model": WIDTH, "encoder_ffn_dim": 4 * WIDTH, "decoder_ffn_dim": 4 * WIDTH}
        heads = {f"{side}_attention_heads": WIDTH // 64 for side in ("encoder", "decoder")}
        config = AutoConfig.from_pretrained(made, max_position_embeddings=2 * BLOCK, **changes, **heads)
        M2M100ForConditionalGeneration(config).bfloat16().save_pretrained(made)
    length = len(load_translation_tokenizer(str(folder / "model")).encode_source([sentence], "en", "fr")[0])
    record = {"task": "translation", "source_lang": "en", "target_lang": "fr"}
    write_json_array(folder / "data.json", [{**record, "source_text": sentence, "output": sentence}] * 100)
    names = {"model_name_or_path": "model", "dataset": "data.json", "output_dir": "out"}
    paths = {key: str(folder / name) for key, name in names.items()}
    write_json(folder / "recipe.yaml", RECIPE | TRANSLATOR | paths | {"cutoff_len": length})
    return folder / "recipe.yaml"


def measure(recipe: str, overrides: list[str]) -> int:
    """Return the bytes that training takes in this process, at most."""
    import torch

    # What the libraries need once is not the model's.
    train(recipe, [*overrides, f"model_name_or_path={Path(recipe).parent / 'small'}", "per_device_train_batch_size=1"])
    gc.collect()
    before = _resident()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    train(recipe, overrides)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def train(recipe: str, overrides: list[str]) -> None:
    """Take the steps of a recipe in this process."""
    import torch

    from langadapt.models import load_tokenizer
    from langadapt.models.translation import load_translation_tokenizer
    from langadapt.recipe.training import load_training_settings
    from langadapt.training.arguments import training_arguments
    from langadapt.training.data import prepare_tokens
    from langadapt.training.kernels import choose_kernels
    from langadapt.training.methods import prepare_model
    from langadapt.training.packing import Blocks, Collator
    from langadapt.training.trainer import AdaptationTrainer
    from langadapt.training.translation_trainer import TranslationTrainer
    from langadapt.training.translations import TranslationCollator, Translations

    settings = load_training_settings(recipe, overrides)
    translates = settings.stage == "seq2seq"
    open_tokenizer = load_translation_tokenizer if translates else load_tokenizer
    tokenizer: Any = open_tokenizer(settings.tokenizer_source)
    arguments = training_arguments(settings, use_cpu=not torch.cuda.is_available())
    kernels = choose_kernels(settings)
    tokens = prepare_tokens(settings.dataset, settings, tokenizer, Path(settings.output_dir) / settings.packing)
    if translates:
        tokenizer.directions = ["en-fr"]
    kind = TranslationTrainer if translates else AdaptationTrainer
    kind(
        run={"settings": settings.resolved()},
        model=prepare_model(settings, tokenizer, arguments.device, kernels.attention),
        args=arguments,
        train_dataset=Translations(tokens) if translates else Blocks(tokens, settings.packing),
        data_collator=TranslationCollator(0, 0) if translates else Collator(0, kernels.wants_flat_batches),
    ).train()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forecast(recipe: str, overrides: list[str]) -> Any:
    """Return the forecast of one setting."""
    import torch
    from transformers import AutoConfig

    from langadapt.recipe.training import load_training_settings
    from langadapt.training.kernels import choose_kernels
    from langadapt.training.memory import fake_model, forecast_memory

    settings = load_training_settings(recipe, overrides)
    base = AutoConfig.from_pretrained(str(settings.model_name_or_path))
    model = fake_model(settings, base, choose_kernels(settings).attention)
    return forecast_memory(settings, model, ranks=1, on_gpu=torch.cuda.is_available())


def measure_apart(recipe: Path, overrides: list[str]) -> int:
    """Return what `measure` does, in a fresh process."""
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(recipe), *overrides],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    measured: int = json.loads(done.stdout.splitlines()[-1])
    return measured


def print_all(recipe: Path, settings: dict[str, list[str]]) -> None:
    """Measure and forecast a recipe under each of these settings."""
    for name, overrides in settings.items():
        measured, expected = measure_apart(recipe, overrides), forecast(str(recipe), overrides)
        parts = ", ".join(f"{part} {size / 2**20:,.0f}" for part, size in expected.forward_and_backward.items())
        ratio = expected.peak / measured
        print(f"{name:26} {measured / 2**20:9,.0f} {expected.peak / 2**20:9,.0f} {ratio:6.2f}   {parts}", flush=True)


def main() -> None:
    """Measure every setting, forecast it, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", metavar="RECIPE", help="train with this recipe only and print bytes")
    only = parser.parse_args().measure
    if only:
        print(json.dumps(measure(only[0], only[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'MiB':26} {'measured':>9} {'forecast':>9} {'ratio':>6}")
        print_all(make(Path(folder) / "decoder"), SETTINGS)
        print_all(make_translator(Path(folder) / "translator"), TRANSLATOR_SETTINGS)
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
