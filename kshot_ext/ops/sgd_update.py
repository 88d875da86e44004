"""One optimiser step over a dictionary, weights and momenta in one pass, from a compact or a dense gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops.compact_gradient import Use


def sgd_update(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor | None,
    uses: Sequence[Use] | None,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """Update `weight` and `momentum_buffer` in place; see `kshot_ext.optim.KShotSGD` for the rule.

    Args:
        weight: `[K, C_out, ...]` (any shape with a dense gradient).
        momentum_buffer: like `weight`, or None when `momentum` is 0.
        grad: dense gradient, or None where `uses` has the compact one.
        uses: the uses of the dictionary, `kshot_ext.ops.compact_gradient.Use`.
    """
    settings = (lr, momentum, dampening, weight_decay, nesterov)
    if backend.kernels_for(weight.device) is None:
        reference.sgd_update(weight, momentum_buffer, grad, uses, *settings)
        return
    codes, gates, grads = ([], [], []) if uses is None else map(list, zip(*uses)) if uses else ([], [], [])
    torch.ops.kshot_ext.sgd_update(weight, momentum_buffer, grad, codes, gates, grads, *settings)
