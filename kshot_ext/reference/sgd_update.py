"""SGD with momentum, Nesterov's or not, and weight decay: the rule of `torch.optim.SGD`."""

from __future__ import annotations

import torch
from torch import Tensor


def sgd_update(
    weight: Tensor,  # [K, C_out, ...]
    momentum_buffer: Tensor | None,  # like weight
    grad: Tensor | None,  # like weight; or None, and the gradient is the sum of
    uses,  # (code [K], gate [C_out'] or None, grad [C_out', ...]) over the uses of the dictionary
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros_like(weight, dtype=sum_dtype) if grad is None else grad.to(sum_dtype)
    for code, gate, effective_grad in uses or ():
        rank = effective_grad.dim()
        gated = effective_grad if gate is None else gate.reshape(-1, *(1,) * (rank - 1)) * effective_grad
        active = (slice(None), *(slice(width) for width in effective_grad.shape))
        total[active] += code.reshape(-1, *(1,) * rank) * gated
    total = total + weight_decay * weight
    if momentum_buffer is not None:
        momentum_buffer.mul_(momentum).add_((1 - dampening) * total)
        total = total + momentum * momentum_buffer if nesterov else momentum_buffer.to(sum_dtype)
    weight.sub_((lr * total).to(weight.dtype))
