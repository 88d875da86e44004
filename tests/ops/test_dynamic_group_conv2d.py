"""Convolution whose groups are given by gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
)
from cases import LAYOUTS, ConvCase, lay_out
from torch.nn import functional as F

from kshot_ext import backend, reference
from kshot_ext import functional as KF

pytestmark = pytest.mark.usefixtures("native_backend")


@dataclass(frozen=True)
class GroupConvCase:
    conv: ConvCase
    gates: tuple[float, ...]

    def __str__(self) -> str:
        return self.conv.name

    def call(self, *, code_per_sample: bool = False) -> Call:
        call = self.conv.call(code_per_sample=code_per_sample)
        gates = torch.tensor(self.gates, dtype=torch.float64)
        options = {name: call.options[name] for name in ("stride", "padding", "dilation")}
        return Call({**call.tensors, "group_gates": gates}, options)


CASES = (
    GroupConvCase(ConvCase("plain", in_channels=8, out_channels=8, padding=1), (0, 1, 0)),
    GroupConvCase(ConvCase("more_outputs", in_channels=4, out_channels=12, stride=2, bias="dictionary"), (1, 0)),
    GroupConvCase(ConvCase("more_inputs", in_channels=12, out_channels=4, padding="same", bias="shared"), (0, 1)),
    GroupConvCase(ConvCase("pointwise", in_channels=8, out_channels=8, kernel=(1, 1)), (0.5, 1, 0)),
    GroupConvCase(ConvCase("one_pixel", in_channels=8, out_channels=8, kernel=(1, 1), spatial=(1, 1)), (0, 1, 0)),
    GroupConvCase(ConvCase("far_padding", in_channels=4, out_channels=4, padding=7, stride=(40, 1)), (0, 1)),
    GroupConvCase(ConvCase("no_samples", in_channels=4, out_channels=4, batch=0, bias="dictionary"), (0, 1)),
)
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


@CODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: GroupConvCase, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = lay_out(case.call(code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(KF.dynamic_group_conv2d, reference.dynamic_group_conv2d, call)


@CODES
@pytest.mark.parametrize("gates", [(0.0, 1.0), (0.5, -1.0)], ids=str)
def test_gradcheck(gates: tuple[float, ...], code_per_sample: bool) -> None:
    conv = ConvCase("tiny", spatial=(3, 2), kernel=(2, 1), shots=2, in_channels=4, out_channels=4, bias="dictionary")
    assert_gradients_check(KF.dynamic_group_conv2d, GroupConvCase(conv, gates).call(code_per_sample=code_per_sample))


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    call = CASES[1].call(code_per_sample=code_per_sample).to(torch.float32)
    assert_compiles(KF.dynamic_group_conv2d, [lay_out(call, layout) for layout in LAYOUTS])


@pytest.mark.parametrize(("gates", "groups"), [((1, 1, 1), 1), ((0, 1, 1), 2), ((0, 0, 1), 4), ((0, 0, 0), 8)])
def test_leading_gates_of_zero_are_torchs_groups(gates: tuple[float, ...], groups: int) -> None:
    """The first gates own the highest bits, so groups lie side by side, as those of torch."""
    images, weight = torch.randn(2, 8, 5, 5).double(), torch.randn(1, 16, 8, 3, 3).double()
    output = KF.dynamic_group_conv2d(images, weight, torch.ones(1), torch.tensor(gates).double(), padding=1)
    size = 8 // groups
    blocks = [w[:, g * size : (g + 1) * size] for g, w in enumerate(weight[0].chunk(groups))]
    torch.testing.assert_close(output, F.conv2d(images, torch.cat(blocks), padding=1, groups=groups))


@pytest.mark.parametrize("channels_last", [False, True])
@CODES
def test_output_has_the_memory_format_of_the_input(channels_last: bool, code_per_sample: bool) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    call = CASES[0].call(code_per_sample=code_per_sample).to(torch.float32)
    images = call.tensors["input"].contiguous(memory_format=memory_format)
    output = KF.dynamic_group_conv2d(**{**call.tensors, "input": images}, **call.options)
    assert output.is_contiguous(memory_format=memory_format)


def test_autocast() -> None:
    call = CASES[1].call().to(torch.float32)
    exact = KF.dynamic_group_conv2d(**call.tensors, **call.options)
    leaves = {name: tensor.requires_grad_() for name, tensor in call.tensors.items()}
    with torch.autocast("cpu", torch.bfloat16):
        output = KF.dynamic_group_conv2d(**leaves, **call.options)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.1)
    output.float().sum().backward()
    assert {leaf.grad.dtype for leaf in leaves.values()} == {torch.float32}


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "input": torch.zeros(2, 12, 5, 5),
        "weight": torch.zeros(3, 4, 12, 3, 3),
        "code": torch.zeros(3),
        "group_gates": torch.zeros(2),
        **changes,
    }


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "input_narrow": ({"input": torch.zeros(2, 8, 5, 5)}, ValueError, "input must have C_in = 12 channels .*got 8"),
    "input_wide": ({"input": torch.zeros(2, 13, 5, 5)}, ValueError, "input has 13 channels, expected 1 to 12"),
    "input_rank": ({"input": torch.zeros(12, 5, 5)}, ValueError, r"input must have shape \[N, C_in, H, W\]"),
    "code_rows": ({"code": torch.zeros(5, 3)}, ValueError, "must have N = 2 rows like input, got 5"),
    "bias": ({"bias": torch.zeros(12)}, ValueError, r"bias must have shape \[4\]"),
    "gates": ({"group_gates": torch.zeros(3)}, ValueError, r"at most n = 2 entries .*got 3"),
    "stride": ({"stride": 0}, ValueError, "stride must be an int >= 1"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.dynamic_group_conv2d, arguments(**changes), error, message)


def test_the_reference_serves_the_same_calls() -> None:
    for case in CASES:
        call = case.call().to(torch.float32)
        expected = KF.dynamic_group_conv2d(**call.tensors, **call.options)
        with backend.use_reference():
            found = KF.dynamic_group_conv2d(**call.tensors, **call.options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
