"""SGD with momentum, Nesterov's or not, and weight decay: the rule of `torch.optim.SGD`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kshot_ext.reference.dictionary_gradient import dictionary_gradient


def sgd_update(
    weights: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    uses,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of SGD on many dictionaries, in place.

        g = grad + sum over uses of code[k] * gate[o] * use_grad[o, ...]
        g = (-g if maximize else g) + weight_decay * w
        b = momentum * b + (1 - dampening) * g
        w = w - lr * (g + momentum * b if nesterov else b)          without buffers: w - lr * g

    Args:
        weights: `[K, C_out, ...]` each.
        momentum_buffers: b, like the weights; or none.
        grads: dense gradients like the weights, or None.
        uses: for each weight a list of `(code [K], gate [C_out'] or None, grad [C_out', ...])`.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`.

    Example:
        >>> import torch
        >>> weight, use = torch.tensor([[1.0], [1.0]]), (torch.tensor([0.25, 0.75]), None, torch.tensor([4.0]))
        >>> sgd_update([weight], [], [None], [[use]], 0.1, 0.0, 0.0, 0.0, False, False)
        >>> weight
        tensor([[0.9000],
                [0.7000]])
    """
    for i, weight in enumerate(weights):
        total = dictionary_gradient(weight, grads[i], uses[i])
        total = (-total if maximize else total) + weight_decay * weight
        if momentum_buffers:
            buffer = momentum_buffers[i]
            buffer.mul_(momentum).add_((1 - dampening) * total)
            total = total + momentum * buffer if nesterov else buffer.to(total.dtype)
        weight.sub_((lr * total).to(weight.dtype))
