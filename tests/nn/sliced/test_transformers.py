"""Blocks as AutoFormer's, of our sliced layers, against weights that are sliced by hand as its code slices them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import sliced

PAGE = (Path(__file__).parents[3] / "docs" / "sliced_supernets.md").read_text()
HEAD, WIDEST, MOST_HEADS = 4, 12, 3
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def block() -> nn.Sequential:
    """A norm and the attention of the page."""
    names: dict = {"nn": nn, "sliced": sliced}
    [attention] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Attention" in code]
    exec(attention.partition("\n\n\nblock =")[0], names)
    torch.manual_seed(0)
    made = nn.Sequential(sliced.DynamicLayerNorm(WIDEST), names["Attention"](WIDEST, MOST_HEADS, HEAD)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def by_hand(weights: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """AutoFormer's `LayerNormSuper`, `qkv_super` and `LinearSuper`, without its relative positions."""
    features, own = x.shape[-1], heads * HEAD
    x = F.layer_norm(x, (features,), weights["0.weight"][:features], weights["0.bias"][:features])
    rows = weights["1.qkv.linear.weight"][:, :features]
    weight = torch.cat([rows[i : 3 * own : 3] for i in range(3)])
    bias = torch.cat([weights["1.qkv.linear.bias"][i : 3 * own : 3] for i in range(3)])
    q, k, v = F.linear(x, weight, bias).unflatten(-1, (3, heads, HEAD)).permute(2, 0, 3, 1, 4)
    mixed = (q @ k.mT / HEAD**0.5).softmax(-1) @ v
    weight, bias = weights["1.proj.linear.weight"][:features, :own], weights["1.proj.linear.bias"][:features]
    return F.linear(mixed.transpose(1, 2).flatten(2), weight, bias)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("features", [5, 8, 12])
def test_a_block_of_elastic_width_and_heads(features: int, heads: int) -> None:
    model = block()
    model[1].heads = heads
    x = torch.randn(2, 5, features, dtype=torch.float64)
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    ours, wanted = model(x), by_hand(weights, x, heads)
    torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-11)
    gradients = [
        torch.autograd.grad(y.square().sum(), list(p))
        for y, p in ((ours, model.parameters()), (wanted, weights.values()))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_copies_and_a_code_for_each_sample() -> None:
    model = kshot_ext.convert(block(), num_shots=3, perturbation=0.5)
    model[1].heads = 2
    x, codes = torch.randn(3, 5, 8, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    kshot_ext.find_batch_axes(model, x)
    kshot_ext.set_code(model, codes)
    found = model(x)
    for n, code in enumerate(codes):
        weights = {name: torch.einsum("k,k...->...", code, p) for name, p in model.named_parameters()}
        torch.testing.assert_close(found[n : n + 1], by_hand(weights, x[n : n + 1], 2), rtol=1e-11, atol=1e-11)
