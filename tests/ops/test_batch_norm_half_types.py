"""Batch norm of half types: sums in float32 and one rounding, in every memory format and beside any parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from calls import Call
from cases import LAYOUTS, lay_out
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference

HALF_TYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
SIZES = ((8, 16, 8, 8), (1, 33, 2, 1), (64, 16), (4, 8, 3), (3, 5, 2, 3, 2))
CHANNELS = 40  # of the parameters, of which the leading ones are used
# dtypes of weight and bias, and whether they are dictionaries; None: of the input
AFFINE: dict[str, tuple[torch.dtype | None, torch.dtype | None, bool] | None] = {
    "none": None,
    "half": (None, None, False),
    "float32": (torch.float32, torch.float32, False),
    "mixed": (torch.float64, None, False),
    "half_dictionary": (None, None, True),
    "float32_dictionary": (torch.float32, torch.float32, True),
    "mixed_dictionary": (None, torch.float32, True),
}


def arguments_of(size: tuple[int, ...], dtype: torch.dtype, affine: str, layout: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {"input": (draw(*size) + 4).to(dtype)}
    tensors = lay_out(Call(tensors), layout).tensors
    arguments: dict[str, Any] = {**tensors, "weight": None, "bias": None, "code": None}
    if kinds := AFFINE[affine]:
        *dtypes, dictionary = kinds
        shape = (3, CHANNELS) if dictionary else (CHANNELS,)
        for name, kind in zip(("weight", "bias"), dtypes):
            arguments[name] = draw(*shape).to(kind or dtype)
        arguments["code"] = torch.tensor([0.1, 0.3, 0.6]) if dictionary else None
    return arguments


def differentiated(
    function: Any, arguments: dict[str, Any], cotangent: Tensor, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items() if x is not None}
    output = function(**{**arguments, **leaves}, **options)
    return output.detach(), dict(
        zip(leaves, torch.autograd.grad(output, list(leaves.values()), cotangent.to(output.dtype)))
    )


def assert_rounded_once(actual: Tensor, exact: Tensor, magnitude: float = 64.0) -> None:
    """Half a unit in the last place, and beside it the rounding errors of sums in float32."""
    ulp = torch.finfo(actual.dtype).eps * torch.exp2(exact.abs().log2().floor())
    bound = 0.5 * ulp + 16 * torch.finfo(torch.float32).eps * magnitude
    bound = bound.maximum(torch.tensor(torch.finfo(actual.dtype).smallest_normal / 2))
    error = (actual.double() - exact).abs()
    assert (error <= bound).all(), f"{float((error / ulp).max()):.2f} units in the last place"


@HALF_TYPES
@pytest.mark.parametrize("layout", [*LAYOUTS[:3]])
@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rounds_once(size: tuple[int, ...], affine: str, layout: str, dtype: torch.dtype) -> None:
    arguments = arguments_of(size, dtype, affine, layout)
    cotangent = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = {"running_mean": None, "running_var": None, "activation": "silu"}
    output, gradients = differentiated(KF.batch_norm_act, arguments, cotangent, **options)
    exact = {name: None if x is None else x.double() for name, x in arguments.items()}
    expected, expected_gradients = differentiated(reference.batch_norm_act, exact, cotangent, **options)
    assert output.dtype == dtype
    assert_rounded_once(output, expected)
    for name, gradient in gradients.items():
        assert gradient.dtype == arguments[name].dtype, name
        assert_rounded_once(gradient, expected_gradients[name], magnitude=1024.0)


@HALF_TYPES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_residuals_are_added_before_the_rounding(residual_dtype: torch.dtype, layout: str, dtype: torch.dtype) -> None:
    arguments = arguments_of((4, 8, 5, 3), dtype, "none", layout)
    residual = torch.randn(4, 8, 5, 3, generator=torch.Generator().manual_seed(2)).to(residual_dtype)
    options = {"running_mean": None, "running_var": None}
    cotangent = torch.ones(4, 8, 5, 3)
    arguments["residual"] = residual
    output, gradients = differentiated(KF.batch_norm_act, arguments, cotangent, **options)
    exact = {name: None if x is None else x.double() for name, x in arguments.items()}
    expected, expected_gradients = differentiated(reference.batch_norm_act, exact, cotangent, **options)
    assert output.dtype == dtype
    assert output.stride() == arguments["input"].stride()
    assert_rounded_once(output, expected)
    assert gradients["residual"].dtype == residual_dtype
    assert_rounded_once(gradients["residual"], expected_gradients["residual"])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_parameters_and_statistics_may_have_any_dtype(dtype: torch.dtype, training: bool, layout: str) -> None:
    """The same in every memory format: what is right for the input must not hang on how it lies in memory."""
    arguments = arguments_of((4, 8, 5, 3), dtype, "none", layout)
    generator = torch.Generator().manual_seed(3)
    arguments |= {
        "weight": torch.randn(8, generator=generator).bfloat16(),
        "bias": torch.randn(8, generator=generator).double(),
    }
    state = {"running_mean": torch.zeros(8).half(), "running_var": torch.ones(8).double()}
    exact_state = {name: x.clone().double() for name, x in state.items()}
    cotangent = torch.ones(4, 8, 5, 3)
    options = {"training": training, "activation": "identity"}
    output, gradients = differentiated(KF.batch_norm_act, arguments, cotangent, **options, **state)
    exact = {name: None if x is None else x.double() for name, x in arguments.items()}
    expected, _ = differentiated(reference.batch_norm_act, exact, cotangent, **options, **exact_state)
    torch.testing.assert_close(output.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-5)
    assert {name: gradient.dtype for name, gradient in gradients.items()} == {
        "input": dtype, "weight": torch.bfloat16, "bias": torch.float64,
    }  # fmt: skip
    for name, values in state.items():
        torch.testing.assert_close(values.double(), exact_state[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_part_of_a_channels_last_tensor_stays_channels_last(dtype: torch.dtype, width: int) -> None:
    input = torch.randn(2, 8, 3, 4).to(dtype).to(memory_format=torch.channels_last)[:, :width]
    output = KF.batch_norm_act(input, None, None, None, None)
    assert output.is_contiguous(memory_format=torch.channels_last)
