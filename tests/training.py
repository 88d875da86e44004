"""A small network of K-shot layers and its training, for the tests of optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nn import KShotBatchNorm2d, KShotConv2d, KShotLinear

SHOTS, STEPS = 4, 20


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.05},
    "weight_decay": {"lr": 0.05, "weight_decay": 0.1},
    "momentum": {"lr": 0.02, "momentum": 0.9},
    "dampening": {"lr": 0.02, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    "nesterov": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.01, "maximize": True},
}


class Network(nn.Module):
    """Dictionaries with one use and with several, whole and narrow, gated; and plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = KShotConv2d(3, 6, 3, padding=1, num_shots=SHOTS)
        self.norm = KShotBatchNorm2d(6, num_shots=SHOTS)
        self.twice = KShotConv2d(6, 6, 3, padding=1, groups=2, num_shots=SHOTS)
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.head = KShotLinear(6, 5, num_shots=SHOTS)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor, code: Tensor, width: int = 6) -> Tensor:
        x = self.norm(self.stem(images, code, gate=self.gate, out_channels=width), code).relu()
        x = x + self.twice(x, code)
        x = x + self.scale * self.twice(x, code.flip(0), gate=self.gate[:width])
        return self.head(x.mean((2, 3)), code)


def network() -> Network:
    """In float64, where twenty steps of training do not blow rounding errors up."""
    torch.manual_seed(0)
    return Network().double()


def loss_of(model: nn.Module, step: int, **options: Any) -> Tensor:
    """Loss of one step: its own images, code and width."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    code = torch.rand(SHOTS, generator=generator, dtype=torch.float64).softmax(0)
    return (model(images, code, **{"width": (6, 3)[step % 2], **options}) - target).square().mean()


Prepare = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, prepare: Prepare | None = None, steps: range = range(STEPS)
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if prepare:
            prepare(model, optimizer, step)
        optimizer.step()


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(
            one.state_dict()[name], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
