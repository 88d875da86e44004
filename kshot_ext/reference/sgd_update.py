"""SGD with momentum, Nesterov's or not, and weight decay: the rule of `torch.optim.SGD`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.dictionary_gradient import dictionary_gradient


def sgd_update(
    weights: Sequence[Tensor],  # each [K, C_out, ...]
    momentum_buffers: Sequence[Tensor],  # like the weights, or empty
    grads: Sequence[
        Tensor | None
    ],  # like the weights; to each is added, over the uses of its dictionary, the gradient of
    uses,  # lists of (code [K], gate [C_out'] or None, grad [C_out', ...])
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    for i, weight in enumerate(weights):
        total = dictionary_gradient(weight, grads[i], uses[i])
        total = (-total if maximize else total) + weight_decay * weight
        if momentum_buffers:
            buffer = momentum_buffers[i]
            buffer.mul_(momentum).add_((1 - dampening) * total)
            total = total + momentum * buffer if nesterov else buffer.to(total.dtype)
        weight.sub_((lr * total).to(weight.dtype))
