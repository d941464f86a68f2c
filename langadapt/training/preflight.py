"""What can be known before any model is loaded: checked in one process, in seconds, each fault with its way out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from langadapt.errors import UserError
from langadapt.files import probe_folder, require_file
from langadapt.models import find_model, load_tokenizer
from langadapt.models.building import new_config
from langadapt.models.templates import set_chat_template
from langadapt.models.translation import TranslationTokenizer, is_encoder_decoder, load_translation_tokenizer
from langadapt.recipe.training import TrainingSettings
from langadapt.recipe.yaml_file import read_yaml
from langadapt.training.arguments import training_arguments
from langadapt.training.data import AnyTokenizer
from langadapt.training.methods import check_method
from langadapt.training.sharding import is_sharded

_PACKAGED = ("tensorboard", "wandb", "trackio", "mlflow", "swanlab", "clearml", "codecarbon", "dvclive")


def check(settings: TrainingSettings, config: str | Path, planned: bool = False) -> AnyTokenizer:
    """Check everything but the data's content, and make output_dir; return the tokenizer, for chats with its template.

    ``config`` is the recipe's file: the files beside it are the recipes of the stages before. ``planned`` says that the
    run will be on another machine's GPUs. Raises `UserError`.
    """
    for dataset in filter(None, (settings.dataset, settings.eval_dataset)):
        require_file(dataset, f"Stage 1 has not run; run it with: {_preprocess(config)}")
    _check_model_is_there(settings, config)
    check_method(settings, is_sharded(settings))
    _check_kind(settings)
    _check_order(settings)
    if not planned:
        _check_gpu(settings)
    _check_trackers(settings)
    # On the CPU and without DeepSpeed this touches no device; it finds what only TrainingArguments knows.
    training_arguments(settings, deepspeed=None, fsdp=None, use_cpu=True, tf32=None, ddp_backend=None)
    tokenizer = _open_tokenizer(settings, config)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and settings.stage != "pt":
        set_chat_template(tokenizer, settings.template)
    _check_sizes(settings, tokenizer)
    probe_folder(settings.output_dir)
    return tokenizer


def _check_model_is_there(settings: TrainingSettings, config: str | Path) -> None:
    if settings.model_name_or_path is None:
        return
    try:
        find_model(settings.model_name_or_path)
    except UserError as error:
        if maker := _recipe_that_makes(settings, config):
            number, script = (2, "2_train_cpt.sh") if read_yaml(maker)[0]["stage"] == "pt" else (3, "3_train_sft.sh")
            raise UserError(f"{error}\nStage {number} has not run; run it with: bash {script} {maker}") from None
        raise UserError(f"{error}\nStage 1 can fetch it: {_preprocess(config)} --download") from None


def _recipe_that_makes(settings: TrainingSettings, config: str | Path) -> Path | None:
    """Return the recipe beside ``config`` that writes the model to start from; for sft, of none, cpt.yaml."""
    for path in sorted(Path(config).parent.glob("*.yaml")):
        try:
            values, _ = read_yaml(path)
        except UserError:  # not the file that this run is about
            continue
        if "stage" in values and values.get("output_dir") == settings.model_name_or_path:
            return path
    cpt = Path(config).parent / "cpt.yaml"
    return cpt if settings.stage == "sft" and cpt.is_file() else None


def _open_tokenizer(settings: TrainingSettings, config: str | Path) -> AnyTokenizer:
    if settings.stage == "seq2seq":
        return load_translation_tokenizer(str(settings.model_name_or_path), settings.language_tokens)
    try:
        return load_tokenizer(settings.tokenizer_source)
    except UserError as error:
        if settings.model is None:
            raise
        raise UserError(
            f"{error}\nStage 1 trains it where a recipe has `new_tokenizer`: {_preprocess(config)}"
        ) from None


def _check_kind(settings: TrainingSettings) -> None:
    name, translates = settings.model_name_or_path, settings.stage == "seq2seq"
    if name is None or is_encoder_decoder(name, settings.trust_remote_code) == translates:
        return
    kind = "a decoder alone: it takes stage: sft" if translates else "an encoder-decoder model: it takes stage: seq2seq"
    raise UserError(f"stage is {settings.stage}, but {name} is {kind}.")


def _check_order(settings: TrainingSettings) -> None:
    if (
        settings.stage in ("dpo", "seq2seq")
        and settings.trainer_keys().get("train_sampling_strategy") == "batch_rebalance"
    ):
        raise UserError(
            f"`train_sampling_strategy` is batch_rebalance, which stage: {settings.stage} does not know. Set it to "
            "group_by_length."
        )


def _preprocess(config: str | Path) -> str:
    recipe = Path(config).parent / "preprocess.yaml"
    return "python 1_preprocess.py" + (f" --config {recipe}" if recipe.is_file() else "")


def _check_gpu(settings: TrainingSettings) -> None:
    """Only a few keys need a GPU: everything else also runs on the CPU, if slowly."""
    if torch.cuda.device_count():
        return
    keys = settings.trainer_keys()
    needed = [key for key in ("fp16", "tf32") if keys.get(key)]
    if "use_cpu" in settings.model_fields_set and not settings.use_cpu:
        needed.append("use_cpu=false")
    if needed:
        raise UserError(
            f"no GPU is visible here, and {', '.join(needed)} needs one. Check CUDA_VISIBLE_DEVICES and nvidia-smi, or "
            "take the key out: bf16 and float32 also run on the CPU."
        )


def _check_trackers(settings: TrainingSettings) -> None:
    names = [settings.report_to] if isinstance(settings.report_to, str) else settings.report_to
    for name in {*names} - {"none", "all"}:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"report_to names {name}, which is no tracker that is known here. Known: {known}, none.")
        if name in _PACKAGED and importlib.util.find_spec(name) is None:
            raise UserError(f"report_to: {name} needs the package of that name: pip install {name}.")


def _check_sizes(settings: TrainingSettings, tokenizer: AnyTokenizer) -> None:
    if settings.model is not None:
        loaded = new_config(settings.model.config, tokenizer).get_text_config()
    else:
        try:
            loaded = AutoConfig.from_pretrained(
                settings.model_name_or_path, trust_remote_code=settings.trust_remote_code
            ).get_text_config()
        except (OSError, ValueError, StrictDataclassError) as error:
            raise UserError(f"{settings.model_name_or_path}: its config.json could not be read ({error}).") from None
    longest = getattr(loaded, "max_position_embeddings", None)
    if longest is not None and settings.cutoff_len > longest:
        raise UserError(
            f"cutoff_len is {settings.cutoff_len}, but {settings.base_name} was made for at most {longest} "
            f"tokens (max_position_embeddings). Lower cutoff_len."
        )
    size = len(tokenizer.tokenizer if isinstance(tokenizer, TranslationTokenizer) else tokenizer)
    if size > loaded.vocab_size:
        raise UserError(
            f"{settings.base_name}: the tokenizer has {size} tokens, the model only "
            f"{loaded.vocab_size}. Take both from the same model."
        )
