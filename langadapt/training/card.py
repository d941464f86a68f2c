"""The model card: what a model was made from, how, with which figures, and what is not known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCard, ModelCardData

from langadapt.errors import UserError
from langadapt.files import read_json_object, sha256_of
from langadapt.recipe.training import TrainingSettings
from langadapt.training.checkpoints import Run
from langadapt.training.data import Tokens
from langadapt.training.packing import describe
from langadapt.training.progress import LOG_FILE, read_log
from langadapt.training.saving import RUN_FILE
from langadapt.training.vocabulary import VOCABULARY_FILE

_STAGES = {
    "pt": "continual pretraining",
    "sft": "supervised fine-tuning",
    "dpo": "direct preference optimisation",
    "seq2seq": "supervised fine-tuning on translations",
}
_METHODS = {
    "full": "every parameter was trained",
    "lora": "a LoRA adapter was trained and merged into it",
    "qlora": "a LoRA adapter was trained on it in 4 bits and merged into it unquantised",
    "embeddings": "only the embeddings were trained",
    "freeze": "only some layers were trained",
}


def model_card(
    settings: TrainingSettings,
    run: Run,
    tokens: Tokens,
    trained: int,
    total: int,
    chosen_step: int | None = None,
    library: Literal["transformers", "peft"] = "transformers",
) -> str:
    """Return a model card whose metadata the Hugging Face hub reads: base, data, settings, figures, limits.

    ``trained`` of ``total`` parameters were trained. ``chosen_step`` is the step of least evaluation loss, where the
    weights are that step's; ``library`` is the one that opens the folder it stands in.
    """
    base = _base(settings)
    stage = _STAGES[settings.stage] if settings.model is None else "pretraining"
    tags = [settings.finetuning_type, stage.replace(" ", "-")]
    task = "translation" if settings.stage == "seq2seq" else "text-generation"
    metadata: dict[str, Any] = {"library_name": library, "pipeline_tag": task, "tags": tags}
    metadata |= _origin(settings)
    records = read_log(settings.output_dir)
    log = [record for record in records if record.get("loss") is not None]
    loss = f"{log[-1]['loss']:.4f} at step {log[-1]['step']:,}" if log else "none was logged"
    seen = f"{log[-1]['tokens_seen']:,}" if log else "unknown"
    data = "\n".join(f"- {sentence}" for sentence in describe(tokens, settings.cutoff_len, settings.packing))
    set_keys = settings.model_dump(mode="json", include=settings.model_fields_set)
    keys = yaml.safe_dump(set_keys, allow_unicode=True, sort_keys=True)
    what = "The adapter by itself: " if library == "peft" else ""
    card = ModelCard(
        f"---\n{ModelCardData(**metadata).to_yaml()}\n---\n\n"
        f"# {Path(settings.output_dir).resolve().name}\n\n"
        f"{what}{base}, {stage}; {_METHODS[settings.finetuning_type]}.\n\n"
        f"## Data\n\n`{settings.dataset}`, SHA-256 `{run['dataset_sha256']}`.\n\n{data}\n\n"
        f"## Figures\n\n"
        f"- Trained parameters: {trained:,} of {total:,}.\n"
        f"- Last logged training loss, {_loss_unit(settings)}: {loss} ({LOG_FILE}).\n"
        f"{_evaluation(settings, records, chosen_step)}"
        f"- Tokens seen: {seen}. Ranks: {run['world_size']}.\n"
        f"{_averaging(settings)}\n"
        f"## Settings\n\n```yaml\n{keys}```\n\n"
        f"## Limits\n\n" + "".join(f"- {limit}\n" for limit in _limits(settings))
    )
    return str(card)


def _base(settings: TrainingSettings) -> str:
    """Return what was trained, in words: the base model and what was added to its vocabulary."""
    record = Path(settings.base_name) / VOCABULARY_FILE
    if not record.is_file():
        return settings.base_name
    added = read_json_object(record)
    before, after = (added["held_out"][when]["tokens_per_unit"] for when in ("before", "after"))
    return (
        f"{added['base']} with {added['new_size'] - added['old_size']:,} more pieces of vocabulary "
        f"({before:.2f} tokens a syllable or word before, {after:.2f} after)"
    )


def _origin(settings: TrainingSettings) -> dict[str, Any]:
    """Return the metadata ``base_model`` and ``language`` as far as they are known."""
    found: dict[str, Any] = {}
    base = settings.model_name_or_path
    if base is not None and not Path(base).exists():
        found["base_model"] = base
    elif base is not None and (Path(base) / RUN_FILE).is_file() and (Path(base) / "README.md").is_file():
        # Of a model that an earlier stage made: what that stage began with. The card of any other folder names what
        # its makers began with.
        earlier = ModelCard.load(Path(base) / "README.md", ignore_metadata_errors=True).data.get("base_model")
        if earlier:
            found["base_model"] = earlier
    try:
        language = read_json_object(Path(settings.dataset).with_name("data_report.json"))["settings"]["language"]
    except (OSError, UserError, KeyError, TypeError):
        return found
    return found | ({"language": language} if isinstance(language, str) else {})


def _evaluation(settings: TrainingSettings, log: list[dict[str, Any]], chosen_step: int | None) -> str:
    losses = [record for record in log if record.get("eval_loss") is not None]
    if settings.eval_dataset is None or not losses:
        return ""
    last = next((record for record in losses if record["step"] == chosen_step), losses[-1])
    measured = f"{last['eval_tokens']:,} tokens" if "eval_tokens" in last else f"{last['eval_pairs']:,} pairs"
    line = (
        f"- Evaluation loss, {_loss_unit(settings)}: {last['eval_loss']:.4f} at step {last['step']:,}; {measured} "
        f"of `{settings.eval_dataset}`, SHA-256 `{sha256_of(settings.eval_dataset)}`.\n"
    )
    if chosen_step is not None:
        line += f"- The weights are those of step {chosen_step:,}, where that loss was lowest.\n"
    if "eval_rewards/accuracies" in last:
        line += (
            f"- On these the chosen answer has the higher reward in {last['eval_rewards/accuracies']:.1%} of pairs, "
            f"by {last['eval_rewards/margins']:.3f} on average.\n"
        )
    return line


def _loss_unit(settings: TrainingSettings) -> str:
    return settings.describe_loss() if settings.stage == "dpo" else "nats a token"


def _averaging(settings: TrainingSettings) -> str:
    if settings.ema_decay is not None:
        return f"- The weights are their moving average over the steps, decay {settings.ema_decay}.\n"
    if settings.average_last_checkpoints is not None:
        return f"- The weights are the mean of the last {settings.average_last_checkpoints} checkpoints.\n"
    return ""


def _limits(settings: TrainingSettings) -> list[str]:
    where = "of source and of target" if settings.stage == "seq2seq" else "at a time"
    limits = [
        "What it writes may be false, offensive or ungrammatical; no speaker of the language has checked it.",
        f"It was trained on at most {settings.cutoff_len:,} tokens {where}.",
        "The training loss says little of how it translates or answers; measure it on data held out.",
    ]
    if settings.model is None:
        limits.append(f"The licence and the limits of {settings.base_name} still hold.")
    if settings.stage == "dpo":
        limits.append(
            "It was taught what somebody, or some metric, preferred; it may please that metric and no reader."
        )
    if settings.stage == "pt":
        limits.append("It continues text; it was not taught to follow instructions here.")
    if settings.finetuning_type == "qlora":
        limits.append("The adapter learned on weights rounded to 4 bits; in this model it meets the unrounded ones.")
    if settings.saved_dtype == "bfloat16" or (settings.bf16 and settings.deepspeed):
        limits.append("The weights are rounded to bfloat16, which loses changes smaller than 1/256 of a weight.")
    return limits
