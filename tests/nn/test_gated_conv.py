"""Gated convolution module."""

import pytest
import torch
from torch import nn

import kshot_ext
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


@pytest.mark.parametrize(
    ("wide", "plain"),
    [
        ((8, 12, 3), (5, 7, 3)),
        ((8, 12, 3, 2, 1, 1, 4), (4, 6, 3, 2, 1, 1, 2)),
        ((8, 8, 3, 1, 1, 1, 8), (5, 5, 3, 1, 1, 1, 5)),
    ],
)
def test_a_part_of_it_is_a_plain_layer(wide: tuple, plain: tuple) -> None:
    """Narrow and merge, with and without groups."""
    model = nn.Sequential(GatedConv2d(*wide))
    view = kshot_ext.narrow(model, nn.Sequential(nn.Conv2d(*plain, device="meta")))
    merged = kshot_ext.merge(view)
    assert view[0].weight is model[0].weight
    assert repr(merged) == repr(nn.Sequential(nn.Conv2d(*plain)))
    assert torch.equal(merged[0].weight, model[0].weight[: plain[1], : merged[0].weight.shape[1]])
    x = torch.randn(2, plain[0], 7, 5)
    torch.testing.assert_close(view(x), merged(x))
    torch.testing.assert_close(
        view(x), KF.gated_conv2d(x, model[0].weight, model[0].bias, *wide[3:], out_channels=plain[1])
    )
    with pytest.raises(ValueError, match=f"an input of {plain[0]} channels, to which it was narrowed, got {wide[0]}"):
        view(torch.randn(2, wide[0], 7, 5))
    assert model[0].widths is None


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (nn.Conv2d(4, 8, 3), "expected at most 4 channels in and 6 out, got"),
        (nn.Conv2d(4, 6, 1), "kernel_size: expected"),
        (nn.Conv2d(4, 6, 3, bias=False), "bias: expected True, got False"),
        (nn.Conv2d(4, 6, 3, groups=2), r"expected groups of \(4, 6\) channels in and out, got \(2, 3\)"),
    ],
)
def test_what_is_no_part_of_it_is_refused(plain: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"layer '0': {message}"):
        kshot_ext.narrow(nn.Sequential(GatedConv2d(4, 6, 3)), nn.Sequential(plain))
