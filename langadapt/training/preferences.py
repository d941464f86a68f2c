"""Direct preference optimisation (Rafailov et al. 2023) by TRL's DPOTrainer, under the rules of `AdaptationTrainer`.

The reference is the model that training starts from. By default its log-probabilities are measured once, before the
first step, and kept beside the tokens: a run that was killed meanwhile goes on measuring, and one that is resumed reads
them. Otherwise it is asked in every step: a second model, or for an adapter the base without it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from langadapt.models import load_model
from langadapt.recipe.training import TrainingSettings
from langadapt.training.attention import set_attention
from langadapt.training.checkpoints import Run
from langadapt.training.data import Tokens, open_tokens
from langadapt.training.methods import weight_types
from langadapt.training.trainer import AdaptationTrainer


def preference_trainer(
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
    model: Any,
    arguments: TrainingArguments,
    folders: Mapping[str, Path | None],
    pad_token_id: int,
    run: Run,
    **options: Any,
) -> PreferenceTrainer:
    """Return the trainer of a model that `prepare_model` made, its reference measured where that is done before.

    ``folders`` are those of the encoded pairs to ``train`` and to evaluate on (``eval``, or None).
    """
    data = {name: pairs_of(open_tokens(folder)) for name, folder in folders.items() if folder is not None}
    config, generation = model.config.get_text_config(), model.generation_config
    padding = config.pad_token_id, generation.pad_token_id
    measured = _reference_file(settings, run)
    trainer = PreferenceTrainer(
        reference_files={name: folder / measured for name, folder in folders.items() if folder is not None},
        run=run,
        model=model,
        ref_model=_second_model(settings, model),
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        data_collator=PairCollator(pad_token_id=pad_token_id),
        processing_class=copy.deepcopy(tokenizer),  # TRL gives it a padding token
        **options,
    )
    # What TRL changed, and a finished model would bring along.
    trainer.processing_class = tokenizer
    config.pad_token_id, generation.pad_token_id = padding
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(weight_types(settings)[0])
    return trainer


class PairCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's batch, the chosen answers above the rejected ones, with what `langadapt.training.metering.Meter` counts."""

    def torch_call(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask, completion_mask and position_ids, each (2 x pairs, longest); num_tokens."""
        batch: dict[str, torch.Tensor] = super().torch_call(examples)
        mask = batch["attention_mask"]
        positions = torch.arange(mask.shape[1]).expand_as(mask)
        return batch | {"position_ids": positions, "num_tokens": mask.sum()[None]}


class PreferenceTrainer(AdaptationTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's losses and rewards, with the checkpoints, stops, skipped steps and log lines of every other stage.

    ``reference_files`` are where the log-probabilities of the reference will stand, for ``train`` and ``eval``.
    """

    def __init__(self, *, reference_files: Mapping[str, Path], **options: Any) -> None:
        self._reference_files = reference_files
        super().__init__(**options)
        self._drop_copied_adapter()

    def _choose_loss(self) -> None:
        """Leave the loss to TRL."""

    # What TRL does for its users and is done elsewhere here, or not at all

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # encoded before the ranks start

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: a finished model gets its card from `langadapt.training.card`."""

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def _drop_copied_adapter(self) -> None:
        """Delete the copy of the adapter that TRL takes for the reference: a new adapter switched off is the base."""
        if isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")

    def _lengths(self, examples: Dataset) -> NDArray[np.int64]:
        prompt, chosen, rejected = (
            pc.list_value_length(examples.data.column(f"{part}_ids")).to_numpy()
            for part in ("prompt", "chosen", "rejected")
        )
        longest: NDArray[np.int64] = prompt + np.maximum(chosen, rejected)
        return longest

    # The reference

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        self._drop_copied_adapter()
        path = self._reference_files[name]
        if not path.is_file():
            self._measure_reference(dataset, path, batch_size)
        chosen, rejected = np.fromfile(path, np.float32).reshape(-1, 2).T
        return dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)

    def _measure_reference(self, dataset: Dataset, path: Path, size: int) -> None:
        """Write the log-probabilities of both answers of each pair, two float32 numbers, ``size`` pairs a rank at once.

        What a killed start has measured stands in a file ``.partial`` beside ``path``.
        """
        if self.is_deepspeed_enabled:
            self.model.to(self.args.device)  # it is brought there only when training starts
        partial, ranks, rank = path.with_suffix(".partial"), self.args.world_size, self.args.process_index
        together, width = size * ranks, 2 * np.dtype(np.float32).itemsize
        measured = [partial.stat().st_size // (together * width) * together if partial.is_file() else 0]
        broadcast_object_list(measured)
        if rank == 0:
            with open(partial, "ab") as handle:
                handle.truncate(measured[0] * width)
        for start in range(measured[0], len(dataset), together):
            first = start + rank * size
            mine = [dataset[index] for index in range(first, min(first + size, len(dataset)))]
            values = torch.zeros(size, 2, device=self.args.device)
            if mine:
                batch = self._prepare_inputs(self.data_collator(mine))
                del batch["num_tokens"]
                values[: len(mine)] = torch.stack(self.compute_ref_log_probs(self.model, batch), 1)
            every = self.accelerator.gather(values)[: len(dataset) - start].cpu().numpy()
            if rank == 0:
                with open(partial, "ab") as handle:
                    handle.write(every.astype(np.float32).tobytes())
        if rank == 0:
            os.replace(partial, path)
        self.accelerator.wait_for_everyone()

    # Evaluation

    def _measure_evaluation(self) -> dict[str, float] | None:
        """Return loss and rewards as means over the pairs of all ranks; None when asked to stop meanwhile."""
        data, ranks = self.eval_dataset, self.args.world_size
        size = self.args.per_device_eval_batch_size
        sums: defaultdict[str, float] = defaultdict(float)
        start = 0
        while start < len(data):
            if self.stop_if_asked():
                return None
            # Ranks gather batches of one size only: what does not fill all of them is measured by each.
            shared = len(data) - start >= size * ranks
            first = start + self.args.process_index * size if shared else start
            examples = [data[index] for index in range(first, min(first + size, len(data)))]
            count = len(examples) * (ranks if shared else 1)
            for name, value in self._measure_batch(examples).items():
                sums[name] += count * value
            start += count
        return {f"eval_{name}": value / len(data) for name, value in sums.items()} | {"eval_pairs": len(data)}

    def _measure_batch(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        batch = self._prepare_inputs(self.data_collator(examples))
        del batch["num_tokens"]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = DPOTrainer.compute_loss(self, self.model_wrapped, batch)
        measured = {name: values[0] for name, values in self._metrics["eval"].items() if name != "num_tokens"}
        self._metrics["eval"].clear()
        return {"loss": float(self.accelerator.gather(loss.detach()).mean()), **measured}

    # Logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, adding the means of TRL's rewards and log-probabilities over the batches in which they are finite."""
        metrics = self._metrics["train"]
        metrics.pop("num_tokens", None)  # counted by the meter
        for name, values in list(metrics.items()):
            metrics[name] = [value for value in values if math.isfinite(value)] or [math.nan]
        super().log(logs, start_time)

    def _counted(self) -> dict[str, Any]:
        return {**super()._counted(), "rewards": self._metrics["train"], "scored": self._total_train_tokens}

    def _go_on_counting(self, counters: dict[str, Any]) -> None:
        super()._go_on_counting(counters)
        self._metrics["train"].update(counters["rewards"])
        self._total_train_tokens = counters["scored"]


def pairs_of(tokens: Tokens) -> Dataset:
    """Return the pairs among encoded tokens as TRL wants them: prompt_ids, chosen_ids and rejected_ids, int32 lists."""
    starts, ends = tokens.pieces[:-1], tokens.pieces[1:]
    answers = np.array([start + np.argmax(tokens.learned[start:end]) for start, end in zip(starts, ends, strict=True)])
    prompt = _lists(tokens.ids, starts[::2], answers[::2])
    return Dataset(
        pa.table(
            {
                "prompt_ids": prompt,
                "chosen_ids": _lists(tokens.ids, answers[::2], ends[::2]),
                "rejected_ids": _lists(tokens.ids, answers[1::2], ends[1::2]),
            }
        )
    )


def _lists(ids: NDArray[np.int32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.LargeListArray:
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    parts = [ids[start:end] for start, end in zip(starts, ends, strict=True)]
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(parts)))


def _reference_file(settings: TrainingSettings, run: Run) -> str:
    """Return the name of a file by all that the log-probabilities depend on, beside the tokens."""
    quantised = (
        [settings.quantization_type, settings.double_quantization] if settings.finetuning_type == "qlora" else []
    )
    parts = [
        run["base_model"],
        settings.finetuning_type,
        settings.bf16,
        settings.fp16,
        settings.deepspeed is not None,
        quantised,
    ]
    return f"reference-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def _second_model(settings: TrainingSettings, model: Any) -> Any:
    """Return the reference as a model of its own, or None where none is kept."""
    if settings.precompute_ref_log_probs or isinstance(model, PeftModel):
        return None
    reference = load_model(
        str(settings.model_name_or_path), weight_types(settings)[1], trust_remote_code=settings.trust_remote_code
    )
    set_attention(reference, model.config._attn_implementation, isolated=False)
    return reference.requires_grad_(False)
