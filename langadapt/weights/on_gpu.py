"""The sums of `measuring` on a GPU, in float64 throughout: reading is what takes the time there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from langadapt.weights.measuring import PRODUCTS, Sums
from langadapt.weights.stored import Values

_PIECE = 2**24


def measure_on(device: str, slices: Sequence[Values], dtypes: Sequence[str], size: int, by_row: bool = False) -> Sums:
    """Return what `measuring.measure` does of the same arguments, computed on ``device`` as torch names it."""
    rows, columns = slices[0].shape
    at_once = max(1, _PIECE // max(1, columns))
    one_dtype = len(set(dtypes)) == 1
    total = Sums(by_row=numpy.empty((rows, len(PRODUCTS))) if by_row else None)
    for start in range(0, rows, at_once):
        stored = [
            _tensor(values[start : start + at_once], dtype).to(device)
            for values, dtype in zip(slices, dtypes, strict=True)
        ]
        real = [values.double() for values in stored]
        base, cpt, sft = real[0], real[1] - real[0], real[2] - real[1]
        vectors = (base, cpt, sft)
        products = torch.stack([(vectors[i] * vectors[j]).sum(dim=1) for i, j in PRODUCTS], dim=1)
        total.products += products.sum(dim=0).cpu().numpy()
        if total.by_row is not None:
            total.by_row[start : start + at_once] = products.cpu().numpy()
        compared = stored if one_dtype else real
        for stage, change in enumerate((cpt, sft)):
            total.largest[stage] = max(total.largest[stage], change.abs().max().item())
            kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[compared[0].element_size()]
            same = compared[stage].view(kind) == compared[stage + 1].view(kind)
            total.identical[stage] += int(same.sum())
        total.values += base.numel()
    return total


def _tensor(values: Values, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(values.view(numpy.int16) if dtype == "bfloat16" else values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
