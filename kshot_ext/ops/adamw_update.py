"""One step of AdamW over many dictionaries, weights and both moments in one pass, from compact or dense gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kshot_ext import reference
from kshot_ext.ops.dictionary_update import Uses, kernels_serve, tell_autograd, use_lists


def adamw_update(
    weights: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[float],
    grads: Sequence[Tensor | None],
    uses: Uses,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Update `weights` and their moments in place; see `kshot_ext.optim.KShotAdamW` for the rule.

    Args:
        weights: each `[K, C_out, ...]`, or of any shape where `grads` has its gradient; all on one device.
        exp_avgs, exp_avg_sqs: like the weights. Of another dtype they cost time.
        max_exp_avg_sqs: likewise for AMSGrad; else empty.
        steps: the number of the step that each weight takes, 1 for its first.
        grads: dense gradient of each weight, likewise; None where `uses` has the compact one.
        uses: the uses of each dictionary, `kshot_ext.ops.compact_gradient.Use`; empty where `grads` has its gradient.
    """
    if not weights:
        return
    states = exp_avgs, exp_avg_sqs, max_exp_avg_sqs
    settings: tuple[Any, ...] = (lr, beta1, beta2, eps, weight_decay, maximize)
    if not kernels_serve(weights, *states, grads):
        reference.adamw_update(weights, *states, steps, grads, uses, *settings)
        return
    torch.ops.kshot_ext.adamw_update(weights, *states, steps, grads, *use_lists(uses), *settings)
    tell_autograd(weights, *states)
