"""One optimiser step over many dictionaries, weights and momenta in one pass, from compact or dense gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops.compact_gradient import Use


def sgd_update(
    weights: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    uses: Sequence[Sequence[Use]],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Update `weights` and `momentum_buffers` in place; see `kshot_ext.optim.KShotSGD` for the rule.

    Args:
        weights: each `[K, C_out, ...]`, or of any shape where `grads` has its gradient; all on one device.
        momentum_buffers: like the weights; empty when `momentum` is 0. Of another dtype they cost time.
        grads: dense gradient of each weight, likewise; None where `uses` has the compact one.
        uses: the uses of each dictionary, `kshot_ext.ops.compact_gradient.Use`; empty where `grads` has its gradient.
    """
    if not weights:
        return
    settings = (lr, momentum, dampening, weight_decay, nesterov, maximize)
    # They differ where only some were converted: buffers after `model.half()`, gradients after `weight.data = ...`.
    same_dtype = all(
        other is None or other.dtype == weight.dtype
        for others in (momentum_buffers, grads)
        for weight, other in zip(weights, others)
    )
    if not same_dtype or backend.kernels_for(weights[0].device) is None:
        reference.sgd_update(weights, momentum_buffers, grads, uses, *settings)
        return
    counts = [len(of_one) for of_one in uses]
    codes, gates, use_grads = ([use[part] for of_one in uses for use in of_one] for part in range(3))
    torch.ops.kshot_ext.sgd_update(weights, momentum_buffers, grads, counts, codes, gates, use_grads, *settings)
    # As torch's own operators in place do it, so that a backward pass over the old values is an error.
    torch.autograd.graph.increment_version([*weights, *momentum_buffers])
