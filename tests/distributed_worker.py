"""One of the two processes of test_distributed.py: `distributed_worker.py FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from alike import IMAGES, KINDS, is_compact, make, use_code
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import kshot_ext
from kshot_ext.distributed import compact_all_reduce_hook, sum_gradients
from kshot_ext.optim import KShotAdamW, KShotSGD


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


def by_ddp(kind: type[torch.optim.Optimizer], hook: bool = False, **options: bool) -> dict[str, Tensor]:
    """Several steps, with gradients accumulated in one of them and set to zero, not None, in another."""
    model, optimizer = make(kind)
    parallel = DistributedDataParallel(model, **options)
    if hook:
        parallel.register_comm_hook(None, compact_all_reduce_hook)
    for step in range(4):
        optimizer.zero_grad(set_to_none=step != 2)
        if step == 1:
            with parallel.no_sync():
                backward(parallel)
        backward(parallel)
        optimizer.step()
    return model.state_dict()


def by_different_codes(hook: bool) -> dict[str, Tensor]:
    """A step in which each process uses a code of its own, and one in which the first uses the model twice."""
    model, optimizer = make(KShotSGD)
    parallel = DistributedDataParallel(model)
    if hook:
        parallel.register_comm_hook(None, compact_all_reduce_hook)
    kshot_ext.set_code(model, torch.eye(3, dtype=torch.float64)[dist.get_rank()])
    backward(parallel)
    optimizer.step()
    optimizer.zero_grad()
    use_code(model)
    if dist.get_rank() == 0:
        with parallel.no_sync():
            backward(parallel)
    backward(parallel)
    optimizer.step()
    return model.state_dict()


def bytes_sent(hook: bool) -> int:
    """By one process, in the backward pass of one step; torch's own hook stands for DDP without one."""
    model, _ = make(KShotSGD)
    parallel = DistributedDataParallel(model)
    parallel.register_comm_hook(None, compact_all_reduce_hook if hook else default_hooks.allreduce_hook)
    reduce, sent = dist.all_reduce, []

    def counting(tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        sent.append(tensor.nbytes)
        return reduce(tensor, *arguments, **named)

    dist.all_reduce = counting
    try:
        backward(parallel)
    finally:
        dist.all_reduce = reduce
    return sum(sent)


def by_fsdp(kind: type[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """FSDP2: each layer's dictionaries, which must be contiguous, are cut along the copies."""
    model, _ = make(kind)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for layer in (model[0], model[3], model):
        fully_shard(layer)
    optimizer = kind(model.parameters(), lr=0.5, momentum=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    return {name: value.full_tensor() for name, value in model.state_dict().items()}


def by_adamw(kind: type[torch.optim.Optimizer]) -> dict[str, Tensor]:
    model, _ = make(torch.optim.SGD)
    optimizer = kind(model.parameters(), lr=0.1)
    parallel = DistributedDataParallel(model)
    if kind is KShotAdamW:
        parallel.register_comm_hook(None, compact_all_reduce_hook)
    for _ in range(3):
        optimizer.zero_grad()
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
    found["ddp_hook"] = by_ddp(kind, hook=True)
    found["ddp_hook_view"] = by_ddp(kind, hook=True, gradient_as_bucket_view=True)
    found["fsdp"] = by_fsdp(kind)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, Any] = {kind.__name__: results(kind) for kind in KINDS}
    found["different_codes"] = {hook: by_different_codes(hook) for hook in (False, True)}
    found["adamw"] = {kind.__name__: by_adamw(kind) for kind in (torch.optim.AdamW, KShotAdamW)}
    found["bytes"] = {hook: bytes_sent(hook) for hook in (False, True)}
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()
