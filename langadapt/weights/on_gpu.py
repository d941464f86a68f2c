"""The sums of `measuring` on a GPU, in float64 throughout: reading is what takes the time there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy
import torch

from langadapt.weights.measuring import PRODUCTS, Sums, added
from langadapt.weights.stored import Values


def measure_on(
    device: str, pieces: Iterable[Sequence[Values]], dtypes: Sequence[str], size: int, by_row: bool = False
) -> Sums:
    """Return what `measuring.measure` does of the same arguments, computed on ``device`` as torch names it."""
    one_dtype = len(set(dtypes)) == 1
    parts = []
    for piece in pieces:
        stored = [_tensor(values, dtype).to(device) for values, dtype in zip(piece, dtypes, strict=True)]
        real = [values.double() for values in stored]
        base, cpt, sft = real[0], real[1] - real[0], real[2] - real[1]
        vectors = (base, cpt, sft)
        products = torch.stack([(vectors[i] * vectors[j]).sum(dim=1) for i, j in PRODUCTS], dim=1)
        compared = stored if one_dtype else real
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[compared[0].element_size()]
        bits = [values.view(kind) for values in compared]
        part = Sums(
            base.numel(),
            products.sum(dim=0).cpu().numpy(),
            numpy.array([change.abs().max().item() for change in (cpt, sft)]),
            numpy.array([int((bits[stage] == bits[stage + 1]).sum()) for stage in range(2)]),
            products.cpu().numpy() if by_row else None,
        )
        parts.append(part)
    return added(parts)


def _tensor(values: Values, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(values.view(numpy.int16) if dtype == "bfloat16" else values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
