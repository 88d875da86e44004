"""Do two paths want the same of the weights that they share? Compares their gradients there.

Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022, split a supernet by that.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping

import torch
from torch import Tensor, nn

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nn import KShotModule
from kshot_ext.ops.gradient_slot import with_grads

PathGradients = Mapping[nn.Parameter, Tensor]


def path_gradients(
    supernet: Supernet, path: Architecture, loss: Tensor, gradient_steps: GradientSteps, processes: DataParallel
) -> PathGradients:
    """Gradients of a path's loss with respect to the effective weights of its modules.

    With ``w = sum_k code[k] * weight[k]`` each copy's gradient is ``code[k] * dL/dw``; the entries of a code sum to 1,
    hence ``dL/dw = sum_k dL/dweight[k]``. Offsets and the parameters of batch norm are left out: they are few numbers,
    often with large gradients.

    Args:
        supernet: its parameters' ``grad`` is left alone.
        path: the path.
        loss: its loss under a code on the simplex, with its graph, which is freed; of several processes, each one's
            part of the loss.
        gradient_steps: the precision of the loss.
        processes: over which the gradients are summed.

    Returns:
        For each dictionary ``[K, C_out, C_in/groups, *kernel]`` that the loss depends on ``[C_out, C_in/groups,
        *kernel]``, zero in channels that the path does not use.
    """
    weights = dict(_weights(supernet.path(path)))
    found = {
        weight: gradient.sum(dim=0) if has_copies else gradient
        for (weight, has_copies), gradient in zip(weights.items(), gradient_steps.gradients(loss, list(weights)))
        if gradient is not None
    }
    processes.sum_gradients(with_grads(found.values()))
    return found


def gradient_cosine(one: PathGradients, other: PathGradients, among: Container[Tensor] | None = None) -> float:
    """Cosine of the gradients of two paths over the weights that both use.

    Args:
        one, other: gradients by :func:`path_gradients`.
        among: weights to look at; None for all.

    Returns:
        Between -1 and 1; NaN if they share no weight, or a gradient is zero or not finite there.

    Example:
        >>> shared, own = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        >>> gradient_cosine({shared: torch.tensor([1.0, 1.0]), own: torch.ones(2)}, {shared: torch.tensor([0.0, 2.0])})
        0.70710...
    """
    shared = [weight for weight in one if weight in other and (among is None or weight in among)]
    if not shared:
        return math.nan
    ours, theirs = (torch.cat([side[weight].flatten() for weight in shared]) for side in (one, other))
    dot, squares, other_squares = torch.stack([ours @ theirs, ours @ ours, theirs @ theirs]).double().tolist()
    lengths = math.sqrt(squares * other_squares)
    return dot / lengths if lengths > 0 else math.nan


def _weights(path: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """The weights of a path's modules, and whether their first dimension counts copies."""
    for module in path.modules():
        has_copies = isinstance(module, KShotModule)
        for parameter in module.parameters(recurse=False):
            if parameter.dim() - has_copies > 1:
                yield parameter, has_copies
