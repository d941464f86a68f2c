"""The models of a session: by name, loaded when they are asked for, no more at a time than the memory holds.

Adapters on one base share it: the base is loaded once, and going from one adapter to another, or to the base alone,
switches what is added to its layers. An adapter that is the only one of its base is merged into it, which is faster.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel

from langadapt.errors import UserError
from langadapt.inference.conversation import Responder, make_responder, make_translator
from langadapt.inference.output import write_notice
from langadapt.models import check_model_folder, find_model, load_model, load_tokenizer, pick_device, pick_dtype
from langadapt.models.adapters import adapter_generation_config, put_adapter
from langadapt.models.folder import adapter_base, is_adapter
from langadapt.models.loading import device_map
from langadapt.models.translation import is_encoder_decoder, load_translation_tokenizer, usual_direction
from langadapt.recipe.inference import InferenceSettings

_ROOM = 1.2  # memory asked for, in sizes of the weights: the rest is for what an answer takes
_BYTES_4BIT = 0.6  # a weight: half a byte, its scales, and the layers that stay as they were
_NAMED = re.compile(r"(?P<name>[\w.+-]+)=(?P<path>.+)")


@dataclass
class _Network:
    """Weights in memory, and what answers with them."""

    model: PreTrainedModel
    adapted: PeftModel | None = None  # the model seen through the adapters on it
    responders: dict[str, Responder] = field(default_factory=dict)


class Lineup:
    """The models that the settings name, in their order."""

    def __init__(self, settings: InferenceSettings) -> None:
        """Check all of them, and load none. Raises `UserError` for one that is no model, or is named twice."""
        self._settings = settings
        self._paths = name_models(settings.model_path)
        self._device = pick_device(settings.device)
        self._dtype = pick_dtype(settings.dtype, self._device)
        if settings.quantization and importlib.util.find_spec("bitsandbytes") is None:
            raise UserError("quantization: 4bit needs bitsandbytes: pip install bitsandbytes.")
        for path in self._paths.values():
            find_model(path)
        bases = {path: _place(adapter_base(path) if is_adapter(path) else path) for path in self._paths.values()}
        users = Counter(bases.values())
        self._networks_of = {
            path: path if is_adapter(path) and users[base] == 1 and not settings.quantization else base
            for path, base in bases.items()
        }
        self._loaded: dict[str, _Network] = {}  # the one used last stands last

    @property
    def names(self) -> list[str]:
        """The names of all models."""
        return list(self._paths)

    def path(self, name: str) -> str:
        """Return the folder or hub name of a model."""
        return self._paths[name]

    def has_translator(self) -> bool:
        """Say whether any model is an encoder-decoder translator."""
        trust = self._settings.trust_remote_code
        return any(is_encoder_decoder(path, trust) for path in self._paths.values())

    def is_loaded(self, name: str) -> bool:
        """Say whether a model would answer without being loaded first."""
        return self._networks_of[self._paths[name]] in self._loaded

    def loaded_first(self) -> list[str]:
        """Return all names, those of loaded models first: in this order the fewest are loaded anew."""
        return sorted(self._paths, key=lambda name: not self.is_loaded(name))

    def get(self, name: str) -> Responder:
        """Return a model that is ready to answer, until the next call; others make room for it if they must.

        Raises `UserError` for weights that cannot be loaded, and where a chat format is asked for but cannot be had.
        """
        path = self._paths[name]
        key = self._networks_of[path]
        if key not in self._loaded:
            self._make_room(key)
            self._loaded[key] = _Network(self._load(key))
        network = self._loaded[key] = self._loaded.pop(key)
        if name not in network.responders:
            generation_config = network.model.generation_config
            if is_adapter(path) and key != path:
                network.adapted = self._put_adapter(network, key, path, _adapter_name(self._paths, name))
                generation_config = adapter_generation_config(path) or generation_config
            if network.model.config.is_encoder_decoder:
                tokenizer = load_translation_tokenizer(path, self._settings.language_tokens)
                network.responders[name] = make_translator(
                    name, network.model, tokenizer, usual_direction(path, tokenizer)
                )
            else:
                network.responders[name] = make_responder(
                    name, network.model, load_tokenizer(path), generation_config, self._settings.prompt_format
                )
        if network.adapted is not None:
            switched = network.adapted.base_model
            if is_adapter(path):
                switched.enable_adapter_layers()
                switched.set_adapter(_adapter_name(self._paths, name))
            else:
                switched.disable_adapter_layers()
        return network.responders[name]

    def _load(self, key: str) -> PreTrainedModel:
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.quantization:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self._dtype
            )
        if settings.device_map or settings.quantization:
            options["device_map"] = device_map(key, settings.device_map or self._device)
        if is_adapter(key):  # merged on the CPU, in float32
            return load_model(key, self._dtype, self._device, settings.trust_remote_code)
        placed = settings.quantization is not None or options.get("device_map") is not None
        device = None if placed else self._device
        return load_model(key, self._dtype, device, settings.trust_remote_code, **options)

    def _put_adapter(self, network: _Network, key: str, path: str, name: str) -> PeftModel:
        try:
            return put_adapter(network.adapted or network.model, path, name).eval()
        except UserError:
            del self._loaded[key]  # it may hold a part of the adapter
            raise

    def _make_room(self, key: str) -> None:
        """Forget the models that were used longest ago, until there is memory and leave for another.

        Where its size is not known, ``models_in_memory`` alone decides; without that, all others are forgotten.
        """
        most, size = self._settings.models_in_memory, self._size(key)
        if size is None and self._loaded and most is None:
            write_notice(
                f"{key} is not on this disk yet, so its size is not known: the other models make room for it. "
                "(models_in_memory=N keeps N of them.)"
            )
            most = 1
        needed = _ROOM * (size or 0)
        while self._loaded and (len(self._loaded) >= (most or math.inf) or self._free_memory() < needed):
            del self._loaded[next(iter(self._loaded))]
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _size(self, key: str) -> float | None:
        """Return the bytes that a model will take; None for one of the hub that was not downloaded yet."""
        merged = is_adapter(key)
        folder = _folder(adapter_base(key) if merged else key)
        if folder is None:
            return None
        width = 4 if merged and self._device.type == "cpu" else self._dtype.itemsize
        return _count_weights(folder) * (_BYTES_4BIT if self._settings.quantization else width)

    def _free_memory(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.mem_get_info(self._device)[0])
        return float(psutil.virtual_memory().available)


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Return name -> path of models given as ``path`` or ``name=path``.

    A model without a name has the end of its path for one: as many parts as tell it apart from the others. Raises
    `UserError` for a name or path that is there twice.
    """
    pairs = []
    for text in given:
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        pairs.append((match["name"], match["path"]) if match else (None, text))
    paths = [path for _, path in pairs]
    places = [_place(path) for path in paths]
    if repeated := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"model_path: {repeated[0]} is there twice. Name each model once.")
    nameless = [place for (name, _), place in zip(pairs, places, strict=True) if name is None]
    names = [name or _tail(place, nameless) for (name, _), place in zip(pairs, places, strict=True)]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"model_path: two models have the name {repeated[0]}. Give each its own: name=path.")
    return dict(zip(names, paths, strict=True))


def _tail(place: str, places: Sequence[str]) -> str:
    parts = [Path(other).parts for other in places]
    mine = Path(place).parts
    for count in range(1, len(mine)):
        if sum(other[-count:] == mine[-count:] for other in parts) == 1:
            return "/".join(mine[-count:])
    return place


def _place(path: str) -> str:
    """Return what two spellings of the same folder have in common; a hub name as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _adapter_name(paths: dict[str, str], name: str) -> str:
    return f"adapter{list(paths).index(name)}"  # PEFT makes it part of names that dots divide


def _folder(name: str) -> str | None:
    """Return where a model's files lie: its folder, or of a hub name that of its last download; None without one."""
    if Path(name).is_dir():
        return name
    try:
        folder = snapshot_download(name, local_files_only=True)
        check_model_folder(folder)
    except (LocalEntryNotFoundError, UserError):  # none, or one that was broken off
        return None
    return folder


def _count_weights(folder: str) -> int:
    """Return how many numbers the safetensors of a model folder hold."""
    count = 0
    for shard in check_model_folder(folder):
        with safe_open(shard, framework="pt") as file:
            count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count
