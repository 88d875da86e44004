"""torchvision's and timm's own networks, fused: how many links, and the same results. Needs torchvision or timm.

Their blocks are restated in `mobile_blocks.py`, for `test_fuse.py`, which runs everywhere.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend")
NETWORKS = {
    "torchvision mobilenet_v2": 51,
    "torchvision mobilenet_v3_small": 33,
    "torchvision efficientnet_b0": 48,
    "torchvision mnasnet1_0": 51,
    "torchvision shufflenet_v2_x0_5": 55,
    "torchvision resnet50": 36,
    "torchvision densenet121": 0,
    "timm efficientnet_b0": 48,
    "timm mobilenetv2_100": 51,
    "timm mobilenetv3_large_100": 45,
    "timm mobilenetv4_conv_small": 43,
}


def network(name: str) -> nn.Module:
    library, model = name.split()
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    torch.manual_seed(0)
    return getattr(module.models, model)() if library == "torchvision" else module.create_model(model)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(1)  # of dropout
    return model(x)


@pytest.mark.parametrize("name", NETWORKS)
def test_is_the_network(name: str) -> None:
    plain = network(name)
    fused = copy.deepcopy(plain)
    report = kshot_ext.fuse(fused)
    assert len(report.fused) == NETWORKS[name], report
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for training in (True, False):  # the second with the statistics that the first has moved
        expected = logits(plain.train(training), x)
        found = logits(fused.train(training), x)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    kshot_ext.unfuse(fused)
    assert [type(module) for module in fused.modules()] == [type(module) for module in plain.modules()]
