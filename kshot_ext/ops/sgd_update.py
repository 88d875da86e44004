"""One optimiser step over many dictionaries, weights and momenta in one pass, from compact or dense gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kshot_ext import reference
from kshot_ext.ops.dictionary_update import Uses, kernels_serve, tell_autograd, use_lists


def sgd_update(
    weights: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    uses: Uses,
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
    if not kernels_serve(weights, momentum_buffers, grads):
        reference.sgd_update(weights, momentum_buffers, grads, uses, *settings)
        return
    torch.ops.kshot_ext.sgd_update(weights, momentum_buffers, grads, *use_lists(uses), *settings)
    tell_autograd(weights, momentum_buffers)
