"""Effective weight: `gate[o] * sum_k code[k] * weight[k, o, i, ...]` over the active o and i."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_weight(
    weight: Tensor,  # [K, C_out, C_in/groups, *kernel]
    code: Tensor,  # [K], [N, K] or [N, K, *kernel]
    *,
    gate: Tensor | None = None,  # [C_out] or [N, C_out]
    out_channels: int | None = None,
    in_channels: int | None = None,
) -> Tensor:  # [C_out', C_in', *kernel] or [N, C_out', C_in', *kernel]
    active = weight[:, :out_channels]
    if in_channels is not None:
        active = active[:, :, :in_channels]
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    active, code = active.to(sum_dtype), code.to(sum_dtype)

    trailing = (1,) * (active.dim() - 1)
    copy_dim = 0 if code.dim() == 1 else 1
    per_sample, places = code.shape[:copy_dim], code.shape[2:] or trailing[2:]
    mixed = torch.zeros((), dtype=sum_dtype, device=weight.device)
    for k in range(weight.shape[0]):
        share = code.select(copy_dim, k).reshape(*per_sample, *trailing[:2], *places)
        mixed = mixed + share * active[k]
    if gate is not None:
        gate = gate[..., : active.shape[1]].to(sum_dtype)
        mixed = gate.reshape(*gate.shape, *trailing[1:]) * mixed
    return mixed.to(weight.dtype)
