"""Is this folder a model? Checked before anything is loaded, so that the answer is one sentence and comes at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

from langadapt.errors import UserError
from langadapt.files import read_json_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
WAY_OUT = "Check the path, or download the model: python 1_preprocess.py --config RECIPE/preprocess.yaml --download."
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


def find_model(name: str) -> str:
    """Return ``name`` if it is a checked model or adapter folder or may be a hub name; raise `UserError` otherwise.

    A hub name is ``organisation/model``, with no such path on this disk.
    """
    path = Path(name)
    if is_adapter(path):
        adapter_base(path)
    elif path.exists():
        check_model_folder(path)
    else:
        _require_hub_name(name)
    return name


def find_tokenizer(name: str) -> str:
    """Return ``name`` if it is a folder with a tokenizer.json or may be a hub name; raise `UserError` otherwise.

    For an adapter's folder without one it is the base's.
    """
    path = Path(name)
    if is_adapter(path) and not (path / "tokenizer.json").is_file():
        return find_tokenizer(adapter_base(path))
    if not path.exists():
        _require_hub_name(
            name, " Or download the model: python 1_preprocess.py --config RECIPE/preprocess.yaml --download."
        )
    elif not (path / "tokenizer.json").is_file():
        raise UserError(f"{name}: no tokenizer in it, tokenizer.json is missing. Copy it from the model's origin.")
    return name


def check_model_folder(path: str | Path) -> list[Path]:
    """Return the safetensors files of a model folder, in shard order.

    Raises `UserError` for a folder without config.json or weights, with weights only in a format that would have to
    be unpickled, with a shard missing or cut short, or with a shard index that names anything but plain file names.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: not a folder. Give the folder of a Hugging Face model (config.json, *.safetensors).")
    if is_adapter(path):
        raise UserError(f"{path}: an adapter, not a model. Give the finished model, which it is merged into.")
    if not (path / "config.json").is_file():
        inside = sorted(p.name for p in path.iterdir() if (p / "config.json").is_file())
        hint = f" There are models in it: {', '.join(inside)}." if inside else ""
        raise UserError(f"{path}: not a model folder, config.json is missing.{hint}")
    shards = _shards(path)
    for shard in shards:
        _check_shard(shard)
    return shards


def is_adapter(path: str | Path) -> bool:
    """Say whether a folder holds an adapter of PEFT rather than a whole model."""
    return (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()


def adapter_base(path: str | Path) -> str:
    """Return the checked folder, or the hub name, of the model that an adapter belongs to.

    Raises `UserError` when the adapter has no safetensors, or they are cut short, or its base is gone.
    """
    path = Path(path)
    if not (path / ADAPTER).is_file():
        raise UserError(
            f"{path}: an adapter without {ADAPTER}. Pickled weights (adapter_model.bin) can run code and are never "
            "opened; convert them where you trust them, or copy the folder again."
        )
    _check_shard(path / ADAPTER)
    base = read_json_object(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{path / ADAPTER_CONFIG}: names no base model. Write its path as base_model_name_or_path.")
    if is_adapter(base):
        raise UserError(f"{path / ADAPTER_CONFIG}: the base {base} is itself an adapter. Merge that one first.")
    try:
        return find_model(base)
    except UserError as error:
        raise UserError(
            f"{path}: an adapter whose base cannot be used: {error}\n"
            f"Put the base back, or write its path as base_model_name_or_path into {path / ADAPTER_CONFIG}."
        ) from None


def first_line(error: Exception) -> str:
    """Return what a library says of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_hub_name(name: str, way_out: str = "") -> None:
    if (
        name.startswith((".", "/", "~"))
        or not _HUB_NAME.match(name)
        or name.count("/") != 1
        or Path(name).parent.exists()
    ):
        raise UserError(
            f"{name}: no such folder. Give a Hugging Face model folder, or a hub name (organisation/model).{way_out}"
        )


def _shards(path: Path) -> list[Path]:
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if (path / INDEX).is_file():
        weight_map = read_json_object(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{path / INDEX}: expected a `weight_map` of tensors to files. Copy the folder again.")
        names = sorted(set(map(str, weight_map.values())))
        for name in names:
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise UserError(f"{path / INDEX}: names {name!r}, which is no plain safetensors file name; not opened.")
            if not (path / name).is_file():
                raise UserError(f"{path}: the shard {name} that {INDEX} names is missing. Copy the folder again.")
        if names:
            return [path / name for name in names]
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in path.glob(pattern))
    if pickled:
        raise UserError(
            f"{path}: holds {pickled[0]} but no safetensors. Pickled weights can run code and are never opened; "
            "convert them to safetensors where you trust them, or take those that the hub's safetensors/convert space "
            "proposes: hf download NAME --revision refs/pr/N --local-dir FOLDER."
        )
    raise UserError(f"{path}: no weights ({SINGLE} or {INDEX}).")


def _check_shard(path: Path) -> None:
    """Check the safetensors header against the file's size: eight bytes of length, a JSON header, then the data."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{path}: cut short ({size} bytes). Copy the file again.")
        try:
            header = json.loads(handle.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        except (ValueError, AttributeError, LookupError, TypeError):
            raise UserError(f"{path}: the safetensors header is broken. Copy the file again.") from None
    if size < 8 + length + end:
        raise UserError(f"{path}: cut short, {size} of {8 + length + end} bytes. Copy the file again.")
