"""Training does not grow: the process's resident memory stays flat over many steps."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import kshot_ext
from kshot_ext.nn import KShotBatchNorm2d, KShotConv2d, KShotLinear
from kshot_ext.optim import KShotSGD, clip_grad_norm_

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

STATM = Path("/proc/self/statm")
SHOTS = 4


def resident_bytes() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def network() -> nn.Module:
    def block(channels: int, out_channels: int) -> list[nn.Module]:
        return [
            KShotConv2d(channels, out_channels, 1, num_shots=SHOTS),
            KShotBatchNorm2d(out_channels, num_shots=SHOTS),
            nn.ReLU(),
            KShotConv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, num_shots=SHOTS),
        ]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), KShotLinear(32, 10, num_shots=SHOTS)]
    return nn.Sequential(KShotConv2d(3, 16, 3, num_shots=SHOTS), *block(16, 32), *block(32, 32), *head)


def train(model: nn.Module, optimizer: KShotSGD, step: int) -> None:
    """One step; every tenth reads a gradient, accumulates, and takes a code per sample."""
    kshot_ext.set_code(model, torch.rand(SHOTS).softmax(0))
    optimizer.zero_grad()
    images, labels = torch.randn(8, 3, 12, 12), torch.randint(10, (8,))
    nn.functional.cross_entropy(model(images), labels).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    if step % 10 == 0:
        assert model[0].weight.grad.isfinite().all()
        kshot_ext.set_code(model, torch.rand(8, SHOTS).softmax(1))
        nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("steps", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_resident_memory_is_flat(steps: int) -> None:
    model = network()
    optimizer = KShotSGD(model.parameters(), lr=0.01, momentum=0.9)
    warm_up = 100
    for step in range(warm_up):
        train(model, optimizer, step)
    before = most = resident_bytes()
    for step in range(steps):
        train(model, optimizer, step)
        if step % 50 == 49:
            most = max(most, resident_bytes())
    print(f"resident MiB: {before / 2**20:.1f} after {warm_up} steps, at most {most / 2**20:.1f} in {steps} more")
    assert most <= 1.02 * before
