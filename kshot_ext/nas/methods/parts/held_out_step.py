"""A step of what learns beside the weights: on held-out images, while the weights stand still."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from kshot_ext.nas.training.divergence import check_loss
from kshot_ext.nas.training.frozen import frozen
from kshot_ext.nas.training.loop import Stepper


def held_out_step(
    batch: tuple[Tensor, Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    weights: nn.Module,
    optimizer: Optimizer,
    do: Stepper,
) -> float:
    """Moves what an optimiser trains by the loss of a whole batch, of which each process takes its part.

    Args:
        batch: of :meth:`Stepper.held_out`, the same in all processes.
        loss_of: the mean loss of images and labels; it depends on what the optimiser trains.
        weights: get no gradient.
        optimizer: of a part of the method's modules.
        do: what a step may use.

    Returns:
        The loss of the whole batch.

    Raises:
        DivergedError: if the loss is not finite; in all processes, and before the step is made.
    """
    images, labels, share = do.processes.part(*batch)
    with frozen(weights), do.forward():
        loss = loss_of(images, labels)
    do.gradient_steps.backward(share * loss)
    [whole] = do.processes.summed([share * loss.item()])
    check_loss(whole)
    do.apply(optimizer)
    return whole
