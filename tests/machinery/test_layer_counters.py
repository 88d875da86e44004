"""Counters of operations that hang hooks on plain layers by their classes: on merged models they see all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def seen_by_hooks(model: nn.Module, images: torch.Tensor) -> int:
    """Twice the multiplications of what is a convolution or a linear map to `isinstance`."""
    counts = []

    def note(layer: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        counts.append(2 * layer.weight[0].numel() * output.numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(note)
    model(images)
    return sum(counts)


def test_hooks_on_plain_classes_see_merged_models_only() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(200, 4))
    code, images = torch.tensor([0.25, 0.75]), torch.randn(2, 3, 9, 9)
    converted = kshot_ext.convert(plain, 2)
    kshot_ext.set_code(converted, code)
    with FlopCounterMode(display=False) as counter:
        plain(images)
    assert seen_by_hooks(kshot_ext.merge(converted, code), images) == counter.get_total_flops()
    assert seen_by_hooks(converted, images) == 0
