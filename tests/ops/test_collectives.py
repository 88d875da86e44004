"""Sums over processes: their derivatives, and where they are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, func
from torch.autograd import forward_ad

from kshot_ext import functional as KF
from kshot_ext.ops import collectives
from kshot_ext.ops.synchronized_batch_norm import synchronized_batch_norm_act


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_second_derivative_sums_over_the_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the same value u = v = 3, and has the same loss (u + v)^2."""
    monkeypatch.setattr(collectives, "all_reduce", lambda tensor, group: tensor.data.mul_(2) and tensor)
    v = torch.tensor([3.0], requires_grad=True)
    loss = collectives.summed(v, None).square()
    (gradient,) = torch.autograd.grad(loss, v, create_graph=True)
    assert gradient.item() == 2 * (2 * (3 + 3))  # both losses, by v
    (second,) = torch.autograd.grad(gradient, v)
    assert second.item() == 2 * 4  # both processes' gradients, 4 (u + v), by v


def tangent(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with forward_ad.dual_level():
        function(forward_ad.make_dual(x, x))


def batched_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    torch.autograd.grad(output, leaf, torch.ones(2, *output.shape), is_grads_batched=True)


def tangent_of_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    tangent(lambda cotangent: torch.autograd.grad(output, leaf, cotangent)[0], torch.ones_like(output))


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "grad": lambda f, x: func.grad(lambda at: f(at).sum())(x),
    "vmap": lambda f, x: func.vmap(f)(x[None]),
    "jvp": lambda f, x: func.jvp(f, (x,), (x,)),
    "dual level": tangent,
    "is_grads_batched": batched_backward,
    "dual level around backward": tangent_of_backward,
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_synchronised_batch_norm_refuses_transforms(
    transform: Callable[[Callable[[Tensor], Tensor], Tensor], Any], group: dist.ProcessGroup
) -> None:
    def function(x: Tensor) -> Tensor:
        return synchronized_batch_norm_act(x, None, None, None, None, group=group)

    with pytest.raises(RuntimeError, match=r"synchronize_batch_norm\(model, None\), or those of model.eval\(\)"):
        transform(function, torch.randn(4, 3, 2, 2))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((3,), (2, 3)), ((2, 3), (3,))], ids=str)
def test_synchronised_batch_norm_takes_a_code_per_sample(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], group: dist.ProcessGroup
) -> None:
    """One process is the whole batch, so results and gradients are those of the norm that is not synchronised."""
    results = []
    for synchronised in (False, True):
        generator = torch.Generator().manual_seed(0)
        tensors = [
            torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in ((4, 3, 5, 5), *shapes, (4, 2))
        ]
        input, weight, bias, code = tensors
        options = {"group": group} if synchronised else {"training": True}
        norm = synchronized_batch_norm_act if synchronised else KF.batch_norm_act
        output = norm(input, weight, bias, None, None, code=code, activation="relu", **options)
        (output**2).sum().backward()
        results.append([output, *(tensor.grad for tensor in tensors)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
