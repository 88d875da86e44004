"""AdamW, with the largest second moment (AMSGrad) or without: the rule of `torch.optim.AdamW`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext.reference.dictionary_gradient import dictionary_gradient


def adamw_update(
    weights: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[float],
    grads: Sequence[Tensor | None],
    uses,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """One step of AdamW on many dictionaries, in place.

        g = grad + sum over uses of code[k] * gate[o] * use_grad[o, ...]        with its sign turned if maximize
        m = beta1 * m + (1 - beta1) * g,    v = beta2 * v + (1 - beta2) * g^2,    u = v, or max(u, v) with AMSGrad
        w = (1 - lr * weight_decay) * w - lr * (m / (1 - beta1^t)) / (sqrt(u / (1 - beta2^t)) + eps)

    Args:
        weights: `[K, C_out, ...]` each.
        exp_avgs, exp_avg_sqs: m and v, like the weights.
        max_exp_avg_sqs: u, like the weights; or none, without AMSGrad.
        steps: t of each weight; 1 is its first step.
        grads: dense gradients like the weights, or None.
        uses: for each weight a list of `(code [K], gate [C_out'] or None, grad [C_out', ...])`.
        lr, beta1, beta2, eps, weight_decay, maximize: as in `torch.optim.AdamW`.

    Example:
        >>> weight, use = torch.zeros(2, 1), (torch.tensor([0.25, 0.75]), None, torch.tensor([4.0]))
        >>> m, v = torch.zeros(2, 1), torch.zeros(2, 1)
        >>> adamw_update([weight], [m], [v], [], [1.0], [None], [[use]], 0.1, 0.9, 0.999, 0.0, 0.0, False)
        >>> weight, m
        (tensor([[-0.1000],
                [-0.1000]]), tensor([[0.1000],
                [0.3000]]))
    """
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
