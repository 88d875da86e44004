"""Layers of once-for-all in their own classes become ours: on classes of that name, written here from its equations."""

from __future__ import annotations

import types

import pytest
import torch
from elastic_blocks import ElasticNet, disturbed
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import sliced

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Theirs(nn.Module):
    """A layer of the library: the attributes of ours, and a forward that is not to run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the library's own forward ran")


def class_of_theirs(name: str, module: str, base: type[nn.Module] = Theirs) -> type[nn.Module]:
    return types.new_class(name, (base,), exec_body=lambda space: space.update(__module__=f"ofa.{module}"))


LAYERS = {
    kind: class_of_theirs(kind.__name__, "imagenet_classification.elastic_nn.modules.dynamic_op")
    for kind in (sliced.DynamicConv2d, sliced.DynamicSeparableConv2d, sliced.DynamicBatchNorm2d, sliced.DynamicLinear,
                 sliced.DynamicSE)
}  # fmt: skip
HSWISH = class_of_theirs("Hswish", "utils.pytorch_modules")


def as_theirs(net: nn.Module) -> nn.Module:
    """A network of ours in the classes of the library, whose inner layers know no padding."""
    for layer in list(net.modules()):
        if type(layer) in LAYERS:
            for part in layer.modules():
                if isinstance(part, nn.Conv2d):
                    part.__class__, part.padding, part.dilation = nn.Conv2d, (0, 0), (1, 1)
            layer.__class__ = LAYERS[type(layer)]
        elif type(layer) is nn.Hardswish:
            layer.__class__ = HSWISH
    return net


@pytest.mark.filterwarnings("error")
def test_a_network_of_theirs_computes_the_same() -> None:
    net = disturbed(ElasticNet()).eval()
    net.choose(2)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    wanted, state = net(x), {name: t.clone() for name, t in net.state_dict().items()}
    tensors = {id(t) for t in net.state_dict(keep_vars=True).values()}
    theirs = as_theirs(net)
    with pytest.raises(AssertionError, match="own forward ran"):
        theirs(x)
    report = sliced.adopt(theirs)
    assert report.left == {}
    assert report.adopted["blocks.1.depth_conv.se"] == "DynamicSE"
    assert report.adopted["blocks.2.depth_conv.act"] == "Hardswish"
    torch.testing.assert_close(theirs(x), wanted, rtol=1e-12, atol=1e-12)
    assert {id(t) for t in theirs.state_dict(keep_vars=True).values()} == tensors
    assert list(theirs.state_dict()) == list(state)
    assert all(torch.equal(state[name], t) for name, t in theirs.state_dict().items())
    kshot = kshot_ext.convert(theirs, 2, exclude="*.se")
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(kshot(x), wanted, rtol=1e-11, atol=1e-11)


def test_the_report_tells_what_stays() -> None:
    special = class_of_theirs("Mine", "mine", LAYERS[sliced.DynamicConv2d])()
    special.conv = nn.Conv2d(3, 4, 1)
    own = as_theirs(nn.Sequential(sliced.DynamicLinear(3, 4)))[0]
    own.forward = lambda x: x
    net = nn.Sequential(special, own, as_theirs(nn.Sequential(sliced.DynamicBatchNorm2d(4)))[0])
    report = sliced.adopt(net)
    assert str(report).splitlines() == [
        "adopted: 1",
        "  1 DynamicBatchNorm2d",
        "left as they are: 2",
        "  0: Mine is a subclass of DynamicConv2d, and may mean something else",
        "  1: it has a forward of its own",
    ]
    with pytest.raises(ValueError, match=r"Sequential has no layer of once-for-all to adopt\n  0: Mine is"):
        sliced.adopt(net)


def test_classes_of_other_code_are_adopted_when_named() -> None:
    class Elastic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.kernel_size, self.stride, self.dilation = nn.Conv2d(4, 8, 3, 2, bias=False), 3, 2, 2
            self.max_in_channels, self.max_out_channels, self.active_out_channel = 4, 8, 5

    layer, x = Elastic(), torch.randn(2, 3, 9, 9)
    model = nn.Sequential(layer)
    sliced.adopt(model, {Elastic: sliced.DynamicConv2d})
    wanted = F.conv2d(x, layer.conv.weight[:5, :3], None, 2, 1, 2)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-6)


def test_standardised_layers_of_theirs_stay_so() -> None:
    """`set_bn_param(ws_eps=...)` of the library puts a convolution with `WS_EPS` inside."""
    layer, x = sliced.DynamicConv2d(4, 8), torch.randn(2, 3, 5, 5)
    layer.conv.WS_EPS = 1e-3
    standardised = sliced.DynamicConv2d(4, 8, ws_eps=1e-3)
    standardised.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), standardised(x), rtol=0, atol=0)
    assert (layer(x) - sliced.DynamicConv2d.forward(standardised, x)).abs().max() == 0
