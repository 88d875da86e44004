"""Attention over kernels: equal to the papers' formulas, image by image, gradients too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamic_convolution import DynamicConv2d
from omni_dimensional_convolution import OmniDimensionalConv2d
from weight_net import WeightNetConv2d

GEOMETRIES = [
    {"out_channels": 8, "kernel_size": 3, "padding": 1},
    {"out_channels": 8, "kernel_size": 1, "stride": 2},
    {"out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4},
]


def images() -> Tensor:
    return torch.randn(3, 4, 7, 7, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()


def gradients(layer: nn.Module, input: Tensor, output: Tensor) -> dict[str, Tensor]:
    leaves = {"input": input, **dict(layer.named_parameters())}
    return dict(zip(leaves, torch.autograd.grad((output**2).sum(), leaves.values(), retain_graph=True)))


def assert_equal(layer: nn.Module, input: Tensor, expected: Tensor) -> None:
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(layer(input), expected, **close)
    found = gradients(layer, input, layer(input))
    for name, gradient in gradients(layer, input, expected).items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}", **close)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_dynamic_convolution(geometry: dict) -> None:
    layer = DynamicConv2d(4, num_shots=3, temperature=2.0, **geometry).double()
    input = images()
    attention = torch.softmax(layer.attention(input.mean(dim=(2, 3))) / 2.0, dim=1)
    window = geometry.get("stride", 1), geometry.get("padding", 0), 1, geometry.get("groups", 1)
    expected = torch.cat(
        [
            F.conv2d(x[None], torch.tensordot(shares, layer.weight, 1), shares @ layer.bias, *window)
            for x, shares in zip(input, attention)
        ]
    )
    assert_equal(layer, input, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_omni_dimensional_convolution(geometry: dict) -> None:
    layer = OmniDimensionalConv2d(4, num_shots=3, **geometry).double()
    input = images()
    by = layer.attentions(input)
    torch.testing.assert_close(by["kernel"].sum(dim=1), torch.ones(3, dtype=torch.float64))
    side, groups = geometry["kernel_size"], geometry.get("groups", 1)
    expected = []
    for n, x in enumerate(input):
        weight = sum(share * copy for share, copy in zip(by["kernel"][n], layer.weight))
        weight = weight * by["place"][n].view(side, side)
        weight = weight * by["output"][n].view(-1, 1, 1, 1)
        own = by["input"][n].view(groups, -1)
        weight = torch.cat([part * factor.view(1, -1, 1, 1) for part, factor in zip(weight.chunk(groups), own)])
        expected.append(F.conv2d(x[None], weight, None, layer.stride, layer.padding, 1, groups))
    expected = torch.cat(expected)
    assert_equal(layer, input, expected)


@pytest.mark.parametrize(
    "geometry",
    [
        *(each for each in GEOMETRIES if "groups" not in each),
        {"out_channels": 6, "kernel_size": 3, "factors": 4, "parts": 2},
        {"out_channels": 6, "kernel_size": 3, "groups": 2, "factors": 6, "parts": 2},
        {"out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4, "factors": 1, "parts": 1},
    ],
    ids=str,
)
def test_weight_net(geometry: dict) -> None:
    """The paper's form: a grouped fully connected layer makes each image's weight, and the batch becomes groups."""
    layer = WeightNetConv2d(4, **geometry).double()
    input = images()
    groups, parts, factors, outputs = layer.outputs
    inputs, side = layer.weight.shape[1:3]
    attention = layer.attention(input.mean(dim=(2, 3))).view(3, groups, parts, factors, outputs)
    by_channel = attention.permute(0, 1, 4, 2, 3).reshape(3, -1, 1, 1)
    weight = layer.weight.view(groups, parts, factors, outputs, inputs, side, side)
    fully_connected = weight.permute(0, 3, 1, 4, 5, 6, 2).reshape(-1, factors, 1, 1)
    own = F.conv2d(by_channel, fully_connected, groups=parts * groups * outputs)
    own = own.view(3 * groups * outputs, parts * inputs, side, side)
    output = F.conv2d(input.reshape(1, -1, 7, 7), own, None, layer.stride, layer.padding, 1, 3 * groups)
    assert_equal(layer, input, output.view(3, groups * outputs, *output.shape[2:]))


def test_the_page_says_what_the_formula_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kernel_attention.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    image, weight, kernel, place, out = (names[name] for name in ("images", "weight", "kernel", "place", "out"))
    for n in range(3):
        own = torch.tensordot(kernel[n], weight, 1) * place[n].view(3, 3) * out[n].view(-1, 1, 1, 1)
        expected = F.conv2d(image[n : n + 1], own, padding=1)
        torch.testing.assert_close(names["output"][n : n + 1], expected, rtol=1e-4, atol=1e-4)
