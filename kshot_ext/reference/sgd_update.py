"""SGD with momentum, Nesterov's or not, and weight decay: the rule of `torch.optim.SGD`."""

from __future__ import annotations

import torch
from torch import Tensor


def sgd_update(
    weights: list[Tensor],  # each [K, C_out, ...]
    momentum_buffers: list[Tensor],  # like the weights, or empty
    grads: list[Tensor | None],  # like the weights; to each is added, over the uses of its dictionary, the gradient of
    uses,  # lists of (code [K], gate [C_out'] or None, grad [C_out', ...])
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    for i, weight in enumerate(weights):
        total = _gradient(weight, grads[i], uses[i])
        total = (-total if maximize else total) + weight_decay * weight
        if momentum_buffers:
            buffer = momentum_buffers[i]
            buffer.mul_(momentum).add_((1 - dampening) * total)
            total = total + momentum * buffer if nesterov else buffer.to(total.dtype)
        weight.sub_((lr * total).to(weight.dtype))


def _gradient(weight: Tensor, grad: Tensor | None, uses) -> Tensor:
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros_like(weight, dtype=sum_dtype) if grad is None else grad.to(sum_dtype, copy=True)
    for code, gate, effective_grad in uses:
        rank = effective_grad.dim()
        gated = effective_grad if gate is None else gate.reshape(-1, *(1,) * (rank - 1)) * effective_grad
        active = (slice(None), *(slice(width) for width in effective_grad.shape))
        total[active] += code.reshape(-1, *(1,) * rank) * gated
    return total
