"""Attention with a code per sample: each sample is attended by its own mixed projections, as by a layer of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kshot_ext

SAMPLES, QUERIES, KEYS, FEATURES, HEADS = 4, 5, 6, 8, 2


def codes() -> Tensor:
    return torch.rand(SAMPLES, 3, dtype=torch.float64).softmax(dim=1)


def masks(kind: str) -> dict[str, Tensor]:
    if kind == "padding":
        padded = torch.zeros(SAMPLES, KEYS, dtype=torch.bool)
        padded[1, 4:] = True
        return {"key_padding_mask": padded}
    shape = {"common": (QUERIES, KEYS), "own": (SAMPLES * HEADS, QUERIES, KEYS)}
    return {"attn_mask": torch.randn(shape[kind], dtype=torch.float64)} if kind in shape else {}


def of_sample(n: int, given: dict[str, Tensor]) -> dict[str, Any]:
    mask = dict(given)
    if "key_padding_mask" in mask:
        mask["key_padding_mask"] = mask["key_padding_mask"][n : n + 1]
    elif "attn_mask" in mask and mask["attn_mask"].dim() == 3:
        mask["attn_mask"] = mask["attn_mask"][n * HEADS : (n + 1) * HEADS]
    return mask


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["none", "padding", "common", "own"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_each_sample_has_projections_of_its_own(batch_first: bool, kind: str, need_weights: bool) -> None:
    attention = nn.MultiheadAttention(FEATURES, HEADS, batch_first=batch_first)
    layer = kshot_ext.convert(nn.Sequential(attention).double(), num_shots=3, perturbation=1.0)[0]
    query = torch.randn(SAMPLES, QUERIES, FEATURES, dtype=torch.float64, requires_grad=True)
    key = torch.randn(SAMPLES, KEYS, FEATURES, dtype=torch.float64)
    code, mask = codes(), masks(kind)

    def order(tensor: Tensor) -> Tensor:
        return tensor if batch_first else tensor.transpose(0, 1)

    kshot_ext.set_code(layer, code)
    output, weights = layer(order(query), order(key), order(key), need_weights=need_weights, **mask)
    (output**2).sum().backward()
    together = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()} | {"query": query.grad}
    layer.zero_grad()
    query.grad = None
    for n in range(SAMPLES):
        own = order(query[n : n + 1]), order(key[n : n + 1]), order(key[n : n + 1])
        expected, expected_weights = layer(*own, need_weights=need_weights, code=code[n], **of_sample(n, mask))
        torch.testing.assert_close(order(output)[n : n + 1], order(expected))
        if need_weights:
            torch.testing.assert_close(weights[n : n + 1], expected_weights)
        (expected**2).sum().backward()
    assert (weights is None) == (not need_weights)
    for name, gradient in together.items():
        alone = query.grad if name == "query" else layer.get_parameter(name).grad
        torch.testing.assert_close(gradient, alone, msg=name)


def test_what_is_no_batch_is_refused() -> None:
    layer = kshot_ext.nn.KShotMultiheadAttention(FEATURES, HEADS, num_shots=3).double()
    x = torch.randn(QUERIES, FEATURES, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs a batch of queries, 3 dimensions, got"):
        layer(x, x, x, code=codes())
