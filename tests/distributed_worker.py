"""One of the two processes of test_distributed.py: `distributed_worker.py FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from alike import IMAGES, KINDS, is_compact, make
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kshot_ext.distributed import sum_gradients
from kshot_ext.optim import KShotSGD


def backward(model: nn.Module) -> None:
    """On this process's half of the images, with a loss of which the sum over processes is that of all."""
    half = IMAGES.tensor_split(2)[dist.get_rank()]
    model(half).square().sum().backward()


def average_by_hand(model: nn.Module) -> None:
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)


def average_flat(model: nn.Module) -> None:
    flat = torch._utils._flatten_dense_tensors([parameter.grad.contiguous() for parameter in model.parameters()])
    dist.all_reduce(flat)
    parts = torch._utils._unflatten_dense_tensors(flat, [parameter.grad for parameter in model.parameters()])
    for parameter, part in zip(model.parameters(), parts):
        parameter.grad.copy_(part)


def gather_by_hand(model: nn.Module) -> None:
    for parameter in model.parameters():
        grads = [torch.empty_like(parameter, memory_format=torch.contiguous_format) for _ in range(2)]
        dist.all_gather(grads, parameter.grad.contiguous())
        parameter.grad.copy_(sum(grads))


def sum_ours(model: nn.Module) -> None:
    compact = [is_compact(parameter) for parameter in model.parameters()]
    sum_gradients(model.parameters(), dist.group.WORLD)
    assert compact == [is_compact(parameter) for parameter in model.parameters()]


def sum_after_one_has_looked(model: nn.Module) -> None:
    """As where only the first process writes a log."""
    if dist.get_rank() == 0:
        assert model[0].weight.grad.norm() > 0
    sum_gradients(model.parameters(), dist.group.WORLD)


def by_hand(summing: Callable[[nn.Module], None], kind: type[torch.optim.Optimizer]) -> dict[str, Tensor]:
    model, optimizer = make(kind)
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        summing(model)
        optimizer.step()
    return model.state_dict()


def by_ddp(kind: type[torch.optim.Optimizer], **options: bool) -> dict[str, Tensor]:
    """Several steps, with gradients accumulated in one of them and set to zero, not None, in another."""
    model, optimizer = make(kind)
    parallel = DistributedDataParallel(model, **options)
    for step in range(4):
        optimizer.zero_grad(set_to_none=step != 2)
        if step == 1:
            with parallel.no_sync():
                backward(parallel)
        backward(parallel)
        optimizer.step()
    return model.state_dict()


def results(kind: type[torch.optim.Optimizer]) -> dict[str, dict[str, Tensor]]:
    summings = [average_by_hand, average_flat, gather_by_hand]
    if kind is KShotSGD:
        summings += [sum_ours, sum_after_one_has_looked]
    found = {summing.__name__: by_hand(summing, kind) for summing in summings}
    found["ddp"] = by_ddp(kind)
    found["ddp_view"] = by_ddp(kind, gradient_as_bucket_view=True)
    found["ddp_unused"] = by_ddp(kind, find_unused_parameters=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {kind.__name__: results(kind) for kind in KINDS}
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()
