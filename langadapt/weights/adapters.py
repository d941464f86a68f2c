"""The folder of a LoRA adapter as a checkpoint: its base, the product of its two factors added as rows are read.

The change of a weight is scale * B @ A (Hu and others, 2021, "LoRA"), with scale alpha / r, or alpha / sqrt(r) where
the adapter says `use_rslora`. Only a slice of the product is ever made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from langadapt.errors import UserError
from langadapt.files import read_json_object
from langadapt.models.folder import ADAPTER, ADAPTER_CONFIG
from langadapt.weights.measuring import Source
from langadapt.weights.stored import Stored, Values, real, tensors_in
from langadapt.weights.tensor_types import tensor_type

_FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)$")
_PREFIX = "base_model.model."
_OUTPUT = "lm_head"
_WAY_OUT = "Give the finished model, which it is merged into; stages 2 and 3 write it beside the adapter."


@dataclass(frozen=True)
class Adapted:
    """A tensor of the base with an adapter's change on it, in float64; ``left`` @ ``right`` is the change / scale.

    ``turned`` says that the product is the change's transpose, as for embeddings.
    """

    base: Source
    left: Stored
    right: Stored
    scale: float
    turned: bool

    dtype = "float64"

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def rows(self) -> int:
        return self.base.rows

    @property
    def columns(self) -> int:
        return self.base.columns

    def read(self, first: int, last: int) -> Values:
        """Return rows ``first`` to ``last`` (not with it), [rows, columns]."""
        left, right = self._factors()
        return real(self.base.read(first, last), self.base.dtype) + self.scale * (left[first:last] @ right)

    def pieces(self, first: int, last: int, rows: int) -> Iterator[Values]:
        """Yield rows ``first`` to ``last`` (not with it), ``rows`` at a time."""
        whole = self.read(first, last)
        yield from (whole[start : start + rows] for start in range(0, last - first, rows))

    def read_columns(self, first: int, last: int) -> Values:
        """Return columns ``first`` to ``last`` (not with it), [rows, columns]."""
        left, right = self._factors()
        return real(self.base.read_columns(first, last), self.base.dtype) + self.scale * (left @ right[:, first:last])

    def _factors(self) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        left, right = _whole(self.left), _whole(self.right)
        return (right.T, left.T) if self.turned else (left, right)


def adapted_tensors(path: Path, base: dict[str, Source]) -> dict[str, Source]:
    """Return the tensors of a base with an adapter's changes, as the merged model would have them.

    Where the output matrix is tied and the adapter changes one use of the tensor, there are two. Raises `UserError` for
    an adapter that is no plain LoRA, or does not fit the base.
    """
    config = read_json_object(path / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("fan_in_fan_out"):
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        raise UserError(f"{path}: an adapter ({kind}) whose change is no product of two factors. {_WAY_OUT}")
    factors: dict[str, dict[str, Stored]] = {}
    tensors = dict(base)
    for stored in tensors_in(path / ADAPTER):
        name = stored.name.removeprefix(_PREFIX)
        if match := _FACTOR.match(name):
            factors.setdefault(match["module"], {})[match["kind"].split(".")[0]] = stored
        elif (name := name.replace(".modules_to_save", "").replace(".base_layer", "")) in base or _ties(name, base):
            tensors[name] = stored
        else:
            raise UserError(f"{path / ADAPTER}: {stored.name} belongs to no tensor of the base. {_WAY_OUT}")
    embedding = next((name for name in base if tensor_type(name) == "embedding"), None)
    for module, pair in factors.items():
        name = f"{module}.weight"
        if name not in tensors and not _ties(name, base):
            raise UserError(f"{path / ADAPTER}: changes {name}, which the base does not have. {_WAY_OUT}")
        on = tensors[name] if name in tensors else tensors[str(embedding)]
        if name == embedding and not any(tensor_type(n) == "output" for n in base):
            tensors.setdefault(f"{_OUTPUT}.weight", base[name])
        tensors[name] = _adapted(path, config, module, on, pair)
    return tensors


def _adapted(path: Path, config: dict[str, Any], module: str, base: Source, pair: dict[str, Stored]) -> Adapted:
    turned = "lora_embedding_A" in pair
    names = ("lora_embedding_B", "lora_embedding_A") if turned else ("lora_B", "lora_A")
    if missing := [name for name in names if name not in pair]:
        raise UserError(f"{path / ADAPTER}: {module} has no {missing[0]}. Copy the adapter again.")
    left, right = (pair[name] for name in names)
    rank = right.shape[0]
    # An embedding is [tokens, size], and its factors are B [size, r] and A [r, tokens].
    expected = base.shape[::-1] if turned else base.shape
    if left.shape + right.shape != (expected[0], rank, rank, expected[-1]):
        raise UserError(
            f"{path}: the adapter's factors for {module} are {list(left.shape)} and {list(right.shape)}, its base is "
            f"{list(base.shape)}. Is it the base that the adapter was trained on?"
        )
    alpha = _for_module(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        raise UserError(f"{path / ADAPTER_CONFIG}: lora_alpha is {alpha!r}, expected a number. Copy the adapter again.")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapted(base, left, right, scale, turned)


def _for_module(pattern: Any, module: str, otherwise: Any) -> Any:
    """Return what a rank or alpha pattern of PEFT gives a module: the first key that its name ends in."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _ties(name: str, base: dict[str, Source]) -> bool:
    """Say whether a name is that of an output matrix which the base does not store."""
    return tensor_type(name) == "output" and name not in base and any(tensor_type(n) == "embedding" for n in base)


@lru_cache(maxsize=4)
def _whole(factor: Stored) -> NDArray[numpy.float64]:
    return real(factor.read(0, factor.rows), factor.dtype)
