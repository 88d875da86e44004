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

GEOMETRIES = [
    {"out_channels": 8, "kernel_size": 3, "padding": 1},
    {"out_channels": 8, "kernel_size": 1, "stride": 2},
    {"out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4},
]


def images() -> Tensor:
    return torch.randn(3, 4, 7, 7, dtype=torch.float64).to(memory_format=torch.channels_last)


def gradients(layer: nn.Module, output: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    (output**2).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


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
    torch.testing.assert_close(layer(input), expected)
    found = gradients(layer, layer(input))
    for name, gradient in gradients(layer, expected).items():
        torch.testing.assert_close(found[name], gradient, msg=name)


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
    torch.testing.assert_close(layer(input), expected)
    found = gradients(layer, layer(input))
    for name, gradient in gradients(layer, expected).items():
        torch.testing.assert_close(found[name], gradient, msg=name)


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
