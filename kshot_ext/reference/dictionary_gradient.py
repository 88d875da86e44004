"""The dense gradient of a dictionary, from what optimisers get of it."""

from __future__ import annotations

import torch
from torch import Tensor


def dictionary_gradient(weight: Tensor, grad: Tensor | None, uses) -> Tensor:
    """The dense gradient or zero, and the outer products of all uses: (code [K], gate [C_out'] or None, grad)."""
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros_like(weight, dtype=sum_dtype) if grad is None else grad.to(sum_dtype, copy=True)
    for code, gate, effective_grad in uses:
        rank = effective_grad.dim()
        gated = effective_grad if gate is None else gate.reshape(-1, *(1,) * (rank - 1)) * effective_grad
        active = (slice(None), *(slice(width) for width in effective_grad.shape))
        total[active] += code.reshape(-1, *(1,) * rank) * gated
    return total
