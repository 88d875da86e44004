"""AdamW, with the largest second moment (AMSGrad) or without: the rule of `torch.optim.AdamW`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.reference.dictionary_gradient import dictionary_gradient


def adamw_update(
    weights: Sequence[Tensor],  # each [K, C_out, ...]
    exp_avgs: Sequence[Tensor],  # like the weights, as are
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],  # or empty
    steps: Sequence[float],  # that each weight takes; 1 is its first
    grads: Sequence[
        Tensor | None
    ],  # like the weights; to each is added, over the uses of its dictionary, the gradient of
    uses,  # lists of (code [K], gate [C_out'] or None, grad [C_out', ...])
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    for i, weight in enumerate(weights):
        grad = dictionary_gradient(weight, grads[i], uses[i])
        grad = -grad if maximize else grad
        first = beta1 * exp_avgs[i].to(grad.dtype) + (1 - beta1) * grad
        second = largest = beta2 * exp_avg_sqs[i].to(grad.dtype) + (1 - beta2) * grad.square()
        if max_exp_avg_sqs:
            largest = torch.maximum(max_exp_avg_sqs[i].to(grad.dtype), second)
            max_exp_avg_sqs[i].copy_(largest)
        exp_avgs[i].copy_(first)
        exp_avg_sqs[i].copy_(second)
        root = (largest / (1 - beta2 ** steps[i])).sqrt()
        moved = (1 - lr * weight_decay) * weight.to(grad.dtype) - lr / (1 - beta1 ** steps[i]) * first / (root + eps)
        weight.copy_(moved)
