"""What the tests of this folder convert: one small network with every common kind of layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kshot_ext

SHOTS = 2
CODE, OTHER_CODE = torch.tensor([0.25, 0.75]), torch.tensor([0.9, 0.1])


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    depthwise = [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    dense = [nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*dense, *depthwise, nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(54, 4))


def converted(training: bool = False, code: Tensor | None = CODE) -> nn.Sequential:
    model = kshot_ext.convert(plain().train(training), SHOTS)
    kshot_ext.set_code(model, code)
    return model


def images(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, 7, 7, generator=generator)


class WithCode(nn.Module):
    """A model whose code is an input, as a graph of it wants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, code: Tensor) -> Tensor:
        kshot_ext.set_code(self.model, code)
        return self.model(images)
