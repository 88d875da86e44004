"""Gated convolution module."""

import pytest
import torch
from torch import nn

from kshot_ext import functional as KF
from kshot_ext.nn import GatedConv2d

OPTIONS = [{}, {"bias": False}, {"padding": 1, "padding_mode": "reflect"}, {"groups": 2}]
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_the_plain_layer(options: dict) -> None:
    gated, plain = GatedConv2d(4, 6, 3, **options), nn.Conv2d(4, 6, 3, **options)
    gated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 7, 5)
    torch.testing.assert_close(gated(x), plain(x))


def test_gate_and_widths() -> None:
    layer = GatedConv2d(4, 6, 3, padding=1, stride=2)
    x, gate = torch.randn(2, 3, 7, 5), torch.rand(2, 6)
    expected = KF.gated_conv2d(x, layer.weight, layer.bias, 2, 1, gate=gate, out_channels=5)
    assert torch.equal(layer(x, gate, 5), expected)
    assert expected.shape == (2, 5, 4, 3)
