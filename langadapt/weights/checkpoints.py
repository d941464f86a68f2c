"""Three checkpoints, open for reading in slices: found, checked against each other, tied weights resolved.

Only headers are read here, but for output matrices that may be a copy of the embedding; weights stay on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models.folder import adapter_base, check_model_folder, is_adapter
from langadapt.weights.adapters import adapted_tensors
from langadapt.weights.measuring import Source, slices
from langadapt.weights.stored import real, tensors_in
from langadapt.weights.tensor_types import tensor_type
from langadapt.weights.vocabulary import Alignment, align_rows

_MADE_BY = {
    "original": "python 1_preprocess.py --download",
    "cpt": "bash 2_train_cpt.sh",
    "sft": "bash 3_train_sft.sh",
}
# What tells one architecture from another, by their keys in config.json.
_ARCHITECTURE = ("model_type", "hidden_size", "d_model", "num_hidden_layers", "encoder_layers", "decoder_layers")
_NAMED = 5  # how many tensors an error lists before it only counts


@dataclass(frozen=True)
class Checkpoint:
    """One of the three: its role (original, cpt or sft), its folder, its tensors by name, and its config.json."""

    role: str
    path: Path
    tensors: dict[str, Source]
    config: dict[str, Any]

    @property
    def dtype(self) -> str:
        """The dtypes of its tensors, e.g. ``bfloat16`` or ``bfloat16, float32``."""
        return ", ".join(sorted({tensor.dtype for tensor in self.tensors.values()}))


def open_checkpoints(original: str, cpt: str, sft: str) -> tuple[list[Checkpoint], str, Alignment | None]:
    """Return the three checkpoints with the same tensors of the same shapes, and how that came about.

    That is a sentence on how the output matrix is stored, and how rows were matched where vocabularies differ.

    Each argument is a model folder, or a hub name whose files are in the Hugging Face cache; nothing is downloaded.
    Raises `UserError` for a folder that is missing or no model, for weights that are not floating point, and for
    checkpoints of different architecture or size, naming the tensors.
    """
    named = zip(_MADE_BY, (original, cpt, sft), strict=True)
    opened = [_open(role, name) for role, name in named]
    _check_architecture(opened)
    checkpoints, output_matrix = resolve_output_matrix(opened)
    checkpoints, alignment = align_rows(checkpoints)
    for other in checkpoints[1:]:
        _check_alike(checkpoints[0], other)
    return checkpoints, output_matrix, alignment


def resolve_output_matrix(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], str]:
    """Leave out an output matrix that is only the embedding again; return the checkpoints and a sentence on it.

    A checkpoint that stores no output matrix uses its embedding as one, unless its config says otherwise. Where that
    holds for all, or a stored copy equals the embedding, comparing the matrix would count the embedding twice.
    """
    head = next((name for c in checkpoints for name in c.tensors if tensor_type(name) == "output"), None)
    if head is None:
        return list(checkpoints), "tied to the embedding, which is counted once"
    embeddings = [_embedding_like(checkpoint, head, checkpoints) for checkpoint in checkpoints]
    pairs = list(zip(checkpoints, embeddings, strict=True))
    if all(e is not None and (head not in c.tensors or _equal(c.tensors[head], e)) for c, e in pairs):
        without = [replace(c, tensors={n: t for n, t in c.tensors.items() if n != head}) for c in checkpoints]
        return without, f"tied to the embedding, which is counted once; the stored copies ({head}) are left out"
    tied = [c.role for c, e in pairs if head not in c.tensors and e is not None]
    whole = [c if e is None else replace(c, tensors={head: e, **c.tensors}) for c, e in pairs]
    return whole, f"a tensor of its own, {head}" + (f"; in {', '.join(tied)} it is the embedding" if tied else "")


def _open(role: str, name: str) -> Checkpoint:
    path = _folder(role, name)
    if is_adapter(path):
        base = _open(role, adapter_base(path))
        return replace(base, path=path, tensors=adapted_tensors(path, base.tensors))
    tensors: dict[str, Source] = {t.name: t for shard in check_model_folder(path) for t in tensors_in(shard)}
    return Checkpoint(role, path, _without_copies(tensors), read_json_object(path / "config.json"))


def _without_copies(tensors: dict[str, Source]) -> dict[str, Source]:
    """Leave out what encoder and decoder store of an embedding that they share, where it is only that again."""
    shared = next((tensor for name, tensor in tensors.items() if f".{name}".endswith(".shared.weight")), None)
    if shared is None:
        return tensors
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not (name.endswith(".embed_tokens.weight") and _equal(tensor, shared))
    }


def _folder(role: str, name: str) -> Path:
    if Path(name).exists():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(
            f"{role}={name}: no such folder, and no model of that name in the Hugging Face cache. "
            f"Make it with: {_MADE_BY[role]}; or name another folder with --{role}."
        ) from None


def _embedding_like(checkpoint: Checkpoint, head: str, checkpoints: Sequence[Checkpoint]) -> Source | None:
    """Return the embedding that a checkpoint's output matrix may be tied to; None when there is none."""
    if head not in checkpoint.tensors and checkpoint.config.get("tie_word_embeddings") is False:
        return None
    shapes = {c.tensors[head].shape for c in checkpoints if head in c.tensors}
    candidates = (t for name, t in checkpoint.tensors.items() if tensor_type(name) == "embedding")
    return next((tensor for tensor in candidates if tensor.shape in shapes), None)


def _equal(one: Source, other: Source) -> bool:
    return one.shape == other.shape and all(
        numpy.array_equal(real(one.read(*rows), one.dtype), real(other.read(*rows), other.dtype))
        for rows in slices(one)
    )


def _check_architecture(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise `UserError` where the configs that say what they are of do not say the same."""
    for key in _ARCHITECTURE:
        said = [(checkpoint, checkpoint.config[key]) for checkpoint in checkpoints if key in checkpoint.config]
        if any(value != said[0][1] for _, value in said):
            each = "; ".join(f"{checkpoint.role} {checkpoint.path}: {value}" for checkpoint, value in said)
            raise UserError(
                f"checkpoints of different models: {key} in config.json is not the same. {each}. "
                "Give three checkpoints of one model."
            )


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    missing = sorted(first.tensors.keys() - other.tensors.keys())
    extra = sorted(other.tensors.keys() - first.tensors.keys())
    if missing or extra:
        found = [f"it lacks {_some(missing)}"] * bool(missing) + [f"it has besides {_some(extra)}"] * bool(extra)
        raise UserError(
            f"{other.path}: not the same tensors as {first.path}: {'; '.join(found)}. "
            "Give three checkpoints of one model."
        )
    unlike = [name for name, tensor in first.tensors.items() if other.tensors[name].shape != tensor.shape]
    if unlike:
        name = unlike[0]
        raise UserError(
            f"{other.path}: a checkpoint of another size: {name} is {list(other.tensors[name].shape)} here and "
            f"{list(first.tensors[name].shape)} in {first.path} ({len(unlike)} tensors differ in shape). "
            "Give three checkpoints of one model."
        )


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
