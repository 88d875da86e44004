"""Convolutions that route: against the grouped form that CondConv is computed by, and in the place of others'."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import RoutedConv2d
from kshot_ext.nn.conversions import register_routing

SAMPLES, EXPERTS = 3, 4


class CondConv(nn.Module):
    """Another library's layer: the same attributes and tensors, and the grouped form."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__()
        vars(self).update(vars(RoutedConv2d(*arguments, **named)))

    def forward(self, input: Tensor, routing: Tensor) -> Tensor:
        weight = (routing @ self.weight).view(-1, *self.weight_shape[1:])
        bias = None if self.bias is None else (routing @ self.bias).flatten()
        if self.dynamic_padding:
            extra = [self._total(side, axis) for axis, side in ((1, input.shape[3]), (0, input.shape[2]))]
            input = F.pad(input, [part for total in extra for part in (total // 2, total - total // 2)])
        padding = 0 if self.dynamic_padding else self.padding
        groups = self.groups * len(input)
        output = F.conv2d(
            input.reshape(1, -1, *input.shape[2:]), weight, bias, self.stride, padding, self.dilation, groups
        )
        return output[0].view(len(routing), self.out_channels, *output.shape[2:])

    def _total(self, side: int, axis: int) -> int:
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        return max(0, reach - (side % self.stride[axis] or self.stride[axis]))


class Gated(nn.Module):
    """A block that computes its routing from the input."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.router = nn.Linear(6, EXPERTS)
        self.convolve = CondConv(6, 6, 3, padding=1, num_experts=EXPERTS, **options)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.convolve(images, self.router(images.mean(dim=(2, 3))).sigmoid()))


@pytest.fixture(autouse=True, scope="module")
def known() -> None:
    register_routing(CondConv, RoutedConv2d)


@pytest.mark.parametrize(
    "geometry",
    [
        {"out_channels": 8, "kernel_size": 1},
        {"out_channels": 8, "kernel_size": 3, "padding": 1, "bias": True},
        {"out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6, "stride": 2},
        {"out_channels": 4, "kernel_size": (3, 5), "padding": "same", "stride": 2, "groups": 2, "bias": True},
        {"out_channels": 6, "kernel_size": 5, "padding": "same", "stride": (1, 3), "dilation": 2, "groups": 6},
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_equals_the_grouped_form(geometry: dict, memory_format: torch.memory_format) -> None:
    plain = CondConv(6, num_experts=EXPERTS, dtype=torch.float64, **geometry)
    ours = copy.deepcopy(plain)
    RoutedConv2d.adopt(ours)
    results = []
    image = torch.randn(SAMPLES, 6, 9, 8, dtype=torch.float64).to(memory_format=memory_format)
    factors = torch.randn(SAMPLES, EXPERTS, dtype=torch.float64)
    for layer in (plain, ours):
        input, routing = image.clone().requires_grad_(), factors.clone().requires_grad_()
        output = layer(input, routing)
        (output * torch.arange(output.numel(), dtype=torch.float64).view_as(output).cos()).sum().backward()
        results.append((output, input.grad, routing.grad, *(p.grad for p in layer.parameters())))
    assert type(ours) is RoutedConv2d
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_it_starts_each_expert_as_torch_starts_a_layer() -> None:
    torch.manual_seed(0)
    layer = RoutedConv2d(4, 8, 3, bias=True, num_experts=2)
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    assert torch.equal(layer.weight.view(2, 8, 4, 3, 3), torch.stack([first.weight, second.weight]))
    assert torch.equal(layer.bias, torch.stack([first.bias, second.bias]))


def test_convert_puts_it_in_the_place_of_such_a_layer_and_merge_takes_it_back() -> None:
    model = Gated(bias=True).double()
    model.convolve.role = "kept"
    converted = kshot_ext.convert(model, num_shots=2)
    assert type(converted.convolve) is RoutedConv2d
    assert converted.convolve.role == "kept"
    report = kshot_ext.conversion_report(converted)
    assert (report.swapped["convolve"], report.left) == ("CondConv", {})
    assert report.parameters["convolve"] == 6 * 6 * 9 + 6  # of one expert
    for name, tensor in model.convolve.state_dict().items():
        assert torch.equal(converted.convolve.state_dict()[name], tensor)
    images = torch.randn(SAMPLES, 6, 5, 5, dtype=torch.float64)
    code = torch.tensor([1.0, 0.0], dtype=torch.float64)
    kshot_ext.set_code(converted, code)
    torch.testing.assert_close(converted.eval()(images), model.eval()(images))
    merged = kshot_ext.merge(converted)
    assert type(merged.convolve) is CondConv
    assert vars(merged.convolve).keys() == vars(model.convolve).keys()
    torch.testing.assert_close(merged(images), model(images))
    merged.load_state_dict(model.state_dict())
    converted.load_state_dict(model.state_dict())


def test_only_these_layers_may_be_converted() -> None:
    model = Gated()
    converted = kshot_ext.convert(model, include="convolve")
    assert type(converted.convolve) is RoutedConv2d
    assert type(converted.router) is nn.Linear
    assert converted.state_dict().keys() == model.state_dict().keys()
    assert type(kshot_ext.merge(converted).convolve) is CondConv
    assert type(kshot_ext.convert(model, exclude="convolve").convolve) is CondConv


def test_a_layer_with_a_forward_of_its_own_stays() -> None:
    model = Gated()
    model.convolve.forward = lambda input, routing: input
    with pytest.warns(UserWarning, match="convolve: it has a forward of its own"):
        converted = kshot_ext.convert(model, num_shots=2)
    assert type(converted.convolve) is CondConv


def test_another_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be a number, two, or \"same\", got 'valid'"):
        RoutedConv2d(3, 3, 3, padding="valid")


def test_networks_of_timm() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_cc_b0_4e", num_classes=5).eval()
    routed = [name for name, layer in model.named_modules() if type(layer).__name__ == "CondConv2d"]
    converted = kshot_ext.convert(model, include=routed)
    assert len(routed) == 24
    assert [name for name, layer in converted.named_modules() if type(layer) is RoutedConv2d] == routed
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(converted(images), model(images), rtol=1e-5, atol=1e-5)
    model.load_state_dict(converted.state_dict())
    converted.load_state_dict(model.state_dict())
