"""Models that the tests of `kshot_ext.fuse` fuse, and what they look at."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mobile_blocks import TimmNet, VisionNet, residual_net
from torch import Tensor, nn

import kshot_ext

NETS = {"torchvision": VisionNet, "timm": TimmNet, "residual": residual_net}
LINKS = {"torchvision": 9, "timm": 11, "residual": 5}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def fused_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    kshot_ext.fuse(model)
    return model


def images(dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 13, 12, generator=generator).to(dtype).contiguous(memory_format=memory_format)


def outcome(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after one pass."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum().backward()
    made = {"output": output.detach(), "input": x.grad}
    made |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return made | {name: buffer.clone() for name, buffer in model.named_buffers()}


def operators(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")
