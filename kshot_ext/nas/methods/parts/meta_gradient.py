"""How what shapes a step should change, so that the weights after the step do better: a gradient of second order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from kshot_ext import backend

Loss = Callable[[], Tensor]


def meta_gradient(
    lesson: Loss, examination: Loss, weights: Sequence[nn.Parameter], shapers: Sequence[Tensor], rate: float
) -> list[Tensor]:
    """The gradient, with respect to what a lesson depends on, of an examination after a step by the lesson:

        w' = w - rate * d lesson(w, s) / dw
        d examination(w') / ds = -rate * d/ds <d lesson(w, s) / dw, v>,   v = d examination(w') / dw'

    So no more than one vector is differentiated twice. The native kernels differentiate once; the part of second order
    runs on the reference backend, which is made of torch's own operators (see :mod:`kshot_ext.backend`).

    Args:
        lesson: computes the loss by which the step is made, a scalar, from the weights and the shapers.
        examination: computes the loss after the step, a scalar, from the weights.
        weights: of the step; the same bits after the call as before, their gradients too.
        shapers: what the gradient is wanted of; the lesson depends on each.
        rate: how far the step goes.

    Returns:
        For each shaper a tensor of its shape.

    Example:
        >>> w, s = nn.Parameter(torch.tensor(2.0)), torch.tensor(3.0, requires_grad=True)
        >>> meta_gradient(lambda: s * w**2, lambda: w**2, [w], [s], 0.1)  # w' = 2 - 0.1 * 2 * 3 * 2; -0.1 * 4 * 2 w'
        [tensor(-0.6400)]
    """
    steps = torch.autograd.grad(lesson(), weights, allow_unused=True)
    moved = [weight for weight, step in zip(weights, steps) if step is not None]
    with _moved(moved, [step for step in steps if step is not None], -rate):
        directions = torch.autograd.grad(examination(), moved, allow_unused=True)
    pairs = [(weight, direction) for weight, direction in zip(moved, directions) if direction is not None]
    with backend.use_reference():
        gradients = torch.autograd.grad(lesson(), [weight for weight, _ in pairs], create_graph=True)
        products = ((gradient * direction).sum() for gradient, (_, direction) in zip(gradients, pairs))
        along = cast("torch.Tensor", sum(products))
        return list(torch.autograd.grad(-rate * along, shapers))


@contextmanager
@torch.no_grad()
def _moved(weights: Sequence[Tensor], steps: Sequence[Tensor], factor: float) -> Iterator[None]:
    """Inside the context the weights are further by a factor of some steps; afterwards where they were, to the bit."""
    kept = [weight.clone() for weight in weights]
    try:
        for weight, step in zip(weights, steps):
            weight.add_(step, alpha=factor)
        with torch.enable_grad():
            yield
    finally:
        for weight, before in zip(weights, kept):
            weight.copy_(before)
