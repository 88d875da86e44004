"""Sums over the processes of one training; every exchange between them goes through here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kshot_ext import backend


class LostProcessError(RuntimeError):
    """Another process of the training has ended or does not answer."""


def all_reduce(tensor: Tensor, group: dist.ProcessGroup, *, maximum: bool = False) -> Tensor:
    """Replace a contiguous tensor by its sum, or its maximum, over the processes of a group, and return it.

    Raises:
        LostProcessError: if another process has ended, or does not answer within the group's timeout.
    """
    with _loss_explained():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM, group=group)
    return tensor


def broadcast(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Replace a contiguous tensor by that of the group's first process, and return it.

    Raises:
        LostProcessError: as for `all_reduce`.
    """
    with _loss_explained():
        dist.broadcast(tensor, group=group, group_src=0)
    return tensor


def summed(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over the processes of a group as a new tensor, differentiable.

    Every process gets the sum S, so that its own values receive sum_r dL_r/dS, the sum over all processes' losses.
    That is a sum again, and can be differentiated in its turn.

    Raises:
        RuntimeError: under a function transform, forward-mode differentiation, or in a batched backward pass:
            `torch.distributed` has no rules for them.
    """
    if backend.under_transform() or torch._C._dispatch_keys(values).has(_BATCHED):
        raise RuntimeError(
            "sums over processes, as in batch norm with the statistics of several of them, cannot be made under "
            "function transforms, forward-mode differentiation or is_grads_batched=True: let each process use its own "
            "statistics there, by kshot_ext.distributed.synchronize_batch_norm(model, None), or those of model.eval()"
        )
    return _sum(values, group)


_BATCHED: Any = torch._C._parse_dispatch_key("Batched")  # what `is_grads_batched=True` gives to a backward pass


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_reduce(values.clone(memory_format=torch.contiguous_format), group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return summed(grad, ctx.group), None


_sum: Callable[[Tensor, dist.ProcessGroup], Tensor] = _Sum.apply


@contextmanager
def _loss_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's backends raise this, or kinds of it, for closed connections and timeouts
        raise LostProcessError(
            f"another process of this training has ended or did not answer in time ({error})"
        ) from error
