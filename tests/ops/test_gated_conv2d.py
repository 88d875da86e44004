"""Gated convolution of a plain weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_exact_on_integers,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
)
from cases import CONV2D_CASES, LAYOUTS, TINY_CONV2D_CASES, ConvCase, lay_out
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference

CASES = tuple(case for case in CONV2D_CASES if "cop" not in case.name)


def gated(call: Call) -> Call:
    """The call with the first copy as its plain weight, and no code."""
    tensors = {name: tensor for name, tensor in call.tensors.items() if name != "code"}
    tensors["weight"] = tensors["weight"][0]
    if "bias" in tensors and tensors["bias"].dim() == 2:
        tensors["bias"] = tensors["bias"][0]
    return replace(call, tensors=tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: ConvCase, dtype: torch.dtype, layout: str) -> None:
    call = gated(lay_out(case.call().to(dtype), layout))
    assert_matches_reference(KF.gated_conv2d, reference.gated_conv2d, call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_on_integers(case: ConvCase, dtype: torch.dtype) -> None:
    assert_exact_on_integers(KF.gated_conv2d, reference.gated_conv2d, gated(case.call()).to(dtype))


@pytest.mark.parametrize("case", TINY_CONV2D_CASES, ids=str)
def test_gradcheck(case: ConvCase) -> None:
    assert_gradients_check(KF.gated_conv2d, gated(case.call()))


def test_compile_fullgraph() -> None:
    case = ConvCase("narrow", padding=1, bias="shared", gate="shared", input_width=3, output_width=4)
    assert_compiles(KF.gated_conv2d, [gated(lay_out(case.call().to(torch.float32), layout)) for layout in LAYOUTS])


def test_without_gate_it_is_the_plain_layer() -> None:
    tensors = gated(ConvCase("any", bias="shared").call().to(torch.float32)).tensors
    output = KF.gated_conv2d(**tensors, padding=1, algorithm="mix_then_conv")  # whose convolution is torch's
    assert torch.equal(output, F.conv2d(**tensors, padding=1))


@pytest.mark.parametrize("gate_shape", [(7,), (2, 7)])
def test_gate_is_a_factor_of_the_whole_channel(gate_shape: tuple[int, ...]) -> None:
    tensors = gated(ConvCase("any", bias="shared").call().to(torch.float32)).tensors
    gate = torch.linspace(0, 2, 7).expand(gate_shape)
    expected = F.conv2d(**tensors) * gate.reshape(-1, 7, 1, 1)
    torch.testing.assert_close(KF.gated_conv2d(**tensors, gate=gate), expected)


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "weight_rank": ({"weight": torch.zeros(1, 4, 3, 3, 3)}, ValueError, r"\[C_out, C_in/groups, KH, KW\], got \[1, 4"),
    "weight_no_tensor": ({"weight": None}, TypeError, "weight must be a tensor .*got NoneType"),
    "bias_rank": ({"bias": torch.zeros(3, 4)}, ValueError, r"bias must have shape \[C_out\], got \[3, 4\]"),
    "gate_size": ({"gate": torch.zeros(5)}, ValueError, "gate must have C_out = 4 entries"),
    "input_too_wide": ({"input": torch.zeros(2, 4, 5, 5)}, ValueError, "input has 4 channels, expected 1 to 3"),
    "output_too_wide": ({"out_channels": 5}, ValueError, "out_channels must be 1 to 4"),
    "algorithm": ({"algorithm": 3}, ValueError, "algorithm must be one of .*got 3"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    good = {"input": torch.zeros(2, 3, 5, 5), "weight": torch.zeros(4, 3, 3, 3)}
    assert_rejects(KF.gated_conv2d, {**good, **changes}, error, message)
