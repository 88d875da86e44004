"""Effective weight: K copies mixed by a code, gated and sliced."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_weight(
    weight: Tensor,
    code: Tensor,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    in_channels: int | None = None,
) -> Tensor:
    """Mix K weights, gate and slice the channels.

        effective[o, i] = gate[o] * sum_k code[k] * weight[k, o, i]        o < C_out', i < C_in'

    Sums are in float32, for float64 in float64.

    Args:
        weight: dictionary `[K, C_out, C_in/groups, *kernel]`.
        code: `[K]`, `[N, K]` or `[N, K, *kernel]`.
        gate: `[C_out]` or `[N, C_out]`.
        out_channels: output width C_out'; default: C_out.
        in_channels: input width C_in'; default: all that the weight has.

    Returns:
        `[C_out', C_in', *kernel]`; with a leading N if the code or the gate has one.

    Example:
        >>> weight = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # K = 2, 1 x 2
        >>> effective_weight(weight, torch.tensor([0.5, 0.5]), gate=torch.tensor([10.0]))
        tensor([[20., 30.]])
    """
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
