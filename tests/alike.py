"""One model under KShotSGD and under torch's SGD: whatever is done to it must come out alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn import KShotConv2d, KShotLinear
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

KINDS = (KShotSGD, torch.optim.SGD)
IMAGES = torch.linspace(-1, 1, 72, dtype=torch.float64).sin().reshape(4, 2, 3, 3)


def make(kind: type[torch.optim.Optimizer], **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with two dictionaries, one of them in channels_last, whose optimiser has taken a step."""
    torch.manual_seed(0)
    convolution = KShotConv2d(2, 5, 2, num_shots=3)
    convolution.weight = nn.Parameter(convolution.weight.detach().movedim(2, -1).contiguous().movedim(-1, 2))
    model = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), KShotLinear(20, 3, num_shots=3)).double()
    use_code(model)
    optimizer = kind(model.parameters(), **{"lr": 0.5, "momentum": 0.5, **settings})
    loss_of(model).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def use_code(model: nn.Module) -> None:
    """Copies of a model have no code."""
    kshot_ext.set_code(model, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def loss_of(model: nn.Module) -> Tensor:
    return model(IMAGES.to(model[0].weight.dtype)).square().sum()


def assert_alike(work: Callable[[nn.Module, torch.optim.Optimizer], object], **settings: Any) -> None:
    """The work, which ends with a step, leaves the same weights with either optimiser, and returns the same."""
    results = []
    for kind in KINDS:
        model, optimizer = make(kind, **settings)
        returned = work(model, optimizer)
        results.append((returned, [parameter.detach() for parameter in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)


def train_shared(process: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step from the gradient of this process alone, which may be another than that of the model."""
    use_code(model)
    optimizer.zero_grad()
    loss_of(model).backward()
    assert all(is_compact(parameter) == isinstance(optimizer, KShotSGD) for parameter in model.parameters())
    optimizer.step()


def is_compact(parameter: Tensor) -> bool:
    return isinstance(gradient_in_slot(parameter), SumOfUses)
