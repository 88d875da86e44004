"""One value that is no number: it reaches the results that depend on it, and no other.

Which results depend on an element is found out without it: all values are small positive integers, so that the
reference in float64 gives another result, exactly, where the element is one larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import Call, results
from cases import ConvCase, lay_out
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference

ELEMENTS = 6  # of each tensor are tried, the first and the last among them


def positive_integers(values: Tensor) -> Tensor:
    return values.abs().mul(7).floor().remainder(3) + 1


def with_cotangent(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, its output times an argument `cotangent`: the gradient that flows back is an argument, too."""

    def weighted(cotangent: Tensor, **arguments: Any) -> Tensor:
        output = function(**arguments)
        return _Weighted.apply(output, cotangent)

    return weighted


class _Weighted(torch.autograd.Function):
    """The output as it is; its gradient is `cotangent`, whatever comes back."""

    @staticmethod
    def forward(ctx, output: Tensor, cotangent: Tensor) -> Tensor:
        ctx.save_for_backward(cotangent)
        return output.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        (cotangent,) = ctx.saved_tensors
        return cotangent.to(grad.dtype), torch.zeros_like(cotangent)


def elements_of(tensor: Tensor) -> list[int]:
    drawn = torch.randint(tensor.numel(), (ELEMENTS,), generator=torch.Generator().manual_seed(tensor.numel()))
    return sorted({0, tensor.numel() - 1, *drawn.tolist()})


def with_element(call: Call, name: str, index: int, value: float | None) -> Call:
    """`call` with one element of a tensor set, or one larger; in the same memory format."""
    tensor = call.tensors[name].clone(memory_format=torch.preserve_format)
    at = torch.unravel_index(torch.tensor(index), tensor.shape)
    tensor[at] = tensor[at] + 1 if value is None else value
    return replace(call, tensors={**call.tensors, name: tensor})


def assert_spreads_as_it_should(
    function: Callable[..., Tensor], twin: Callable[..., Tensor], call: Call, dtype: torch.dtype, value: float
) -> None:
    call = replace(call, tensors={name: positive_integers(tensor) for name, tensor in call.tensors.items()})
    exact, ours = call.to(torch.float64), call.to(dtype)
    before = results(with_cotangent(twin), exact)
    for name, tensor in call.tensors.items():
        for index in elements_of(tensor):
            after = results(with_cotangent(twin), with_element(exact, name, index, None))
            actual = results(with_cotangent(function), with_element(ours, name, index, value))
            for result, values in actual.items():
                depends = before[result] != after[result]
                spoilt = ~values.isfinite()
                assert torch.equal(spoilt, depends), (
                    f"{value} in {name}[{index}] spoils {int((spoilt & ~depends).sum())} elements of {result} that do "
                    f"not depend on it, and leaves {int((depends & ~spoilt).sum())} finite that do"
                )


def conv_call(case: ConvCase, code_per_sample: bool) -> Call:
    call = case.call(code_per_sample=code_per_sample)
    output = reference.kshot_conv2d(**call.tensors, **call.options)
    tensors = {**call.tensors, "cotangent": output}
    call = replace(call, tensors=tensors, options={**call.options, "algorithm": "fused"})
    call = lay_out(call, "channels_last")
    cotangent = call.tensors["cotangent"].contiguous(memory_format=torch.channels_last)
    return replace(call, tensors={**call.tensors, "cotangent": cotangent})


DENSE = (
    # Padding on all sides; widths that fill no vector; more places than a tile.
    ConvCase("padding", spatial=(5, 4), in_channels=5, out_channels=7, padding=1, gate="shared", bias="shared"),
    ConvCase("stride", spatial=(6, 6), kernel=(1, 1), in_channels=5, out_channels=5, stride=2),
    ConvCase("strided_window", spatial=(7, 6), in_channels=3, out_channels=18, stride=(2, 3), padding=(1, 0)),
    ConvCase("dilation", spatial=(6, 5), in_channels=18, out_channels=3, dilation=(1, 2), padding=(0, 2)),
    ConvCase("narrow", spatial=(4, 4), in_channels=9, out_channels=7, input_width=4, output_width=5, padding=1),
    # Windows that lie in the padding alone, on one side or on all.
    ConvCase("beyond_the_image", spatial=(4, 3), in_channels=5, out_channels=7, padding=3, bias="shared"),
    ConvCase("short_kernel", spatial=(4, 1), kernel=(2, 1), in_channels=1, out_channels=2, padding=(1, 2)),
    ConvCase("padded_product", spatial=(4, 4), kernel=(1, 1), in_channels=5, out_channels=5, padding=1, gate="shared"),
    ConvCase("strided_beyond", spatial=(3, 5), in_channels=3, out_channels=18, stride=(2, 3), padding=(5, 3)),
)
DEPTHWISE = (
    # Columns that fill no tile of 4 or 8, and some that fill one and a part.
    ConvCase("three", spatial=(5, 9), in_channels=19, out_channels=19, groups=19, padding=1, bias="shared"),
    ConvCase("five", spatial=(4, 7), kernel=(5, 5), in_channels=5, out_channels=5, groups=5, padding=2, gate="shared"),
    ConvCase("stride", spatial=(5, 11), in_channels=35, out_channels=35, groups=35, padding=1, stride=2),
    ConvCase("wide", spatial=(3, 13), kernel=(1, 7), in_channels=4, out_channels=4, groups=4, padding=(0, 3)),
    ConvCase("even", spatial=(4, 9), kernel=(2, 4), in_channels=6, out_channels=6, groups=6, padding=1),
    ConvCase("dilation", spatial=(5, 9), in_channels=3, out_channels=3, groups=3, padding=2, dilation=2),
    ConvCase("narrow", spatial=(4, 6), in_channels=9, out_channels=9, groups=9, input_width=4, padding=1),
    # Windows that lie in the padding alone.
    ConvCase("beyond_the_image", spatial=(4, 5), in_channels=19, out_channels=19, groups=19, padding=3, bias="shared"),
    ConvCase("padded_product", spatial=(4, 4), kernel=(1, 1), in_channels=8, out_channels=8, groups=8, padding=1),
    ConvCase("strided_beyond", spatial=(3, 9), in_channels=5, out_channels=5, groups=5, stride=2, padding=(3, 5)),
    ConvCase("dilated_beyond", spatial=(3, 4), in_channels=3, out_channels=3, groups=3, padding=6, dilation=2),
)
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


@CODES
@pytest.mark.parametrize("case", DENSE, ids=str)
def test_dense(instruction_set: str, case: ConvCase, code_per_sample: bool) -> None:
    case = replace(case, gate=None) if code_per_sample else case
    call = conv_call(case, code_per_sample)
    assert_spreads_as_it_should(KF.kshot_conv2d, reference.kshot_conv2d, call, torch.float32, torch.nan)


@CODES
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_depthwise(instruction_set: str, dtype: torch.dtype, case: ConvCase, code_per_sample: bool) -> None:
    call = conv_call(case, code_per_sample)
    assert_spreads_as_it_should(KF.kshot_conv2d, reference.kshot_conv2d, call, dtype, torch.inf)


@CODES
@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (3, 21), (2, 5, 9, 1, 1)], ids=str)
def test_effective_weight(instruction_set: str, shape: tuple[int, ...], code_per_sample: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(*([2] if code_per_sample else []), shape[0], generator=generator)
    tensors = {"weight": torch.randn(shape, generator=generator), "code": code, "gate": torch.randn(shape[1] - 1)}
    options = {"out_channels": shape[1] - 1}
    cotangent = reference.effective_weight(**tensors, **options)
    call = Call({**tensors, "cotangent": cotangent}, options)
    assert_spreads_as_it_should(KF.effective_weight, reference.effective_weight, call, torch.float32, torch.nan)


@pytest.mark.parametrize("channels", [3, 21])
@pytest.mark.parametrize("activation", ["identity", "relu", "relu6", "hardswish"])
def test_batch_norm_with_fixed_statistics(instruction_set: str, activation: str, channels: int) -> None:
    """Positions and channels keep to themselves; a gradient on a flat part of the activation goes nowhere."""
    input = torch.arange(2 * channels * 6.0).remainder(19).sub(9).view(2, channels, 2, 3)
    leaf = input.to(memory_format=torch.channels_last).requires_grad_()
    mean, var = torch.zeros(channels), torch.ones(channels)
    output = KF.batch_norm_act(leaf, None, None, mean, var, training=False, activation=activation)
    twin_leaf = input.clone().requires_grad_()
    twin = reference.batch_norm_act(twin_leaf, None, None, mean, var, training=False, activation=activation)
    for index in range(input.numel()):
        cotangent = torch.zeros_like(input)
        cotangent.view(-1)[index] = torch.inf
        (actual,) = torch.autograd.grad(output, leaf, cotangent, retain_graph=True)
        expected = torch.zeros_like(input)
        slope = torch.autograd.grad(twin, twin_leaf, torch.ones_like(input), retain_graph=True)[0].view(-1)[index]
        expected.view(-1)[index] = torch.inf * slope if slope != 0 else 0.0
        assert torch.equal(actual, expected), f"infinite gradient of element {index}"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_keeps_channels_apart(instruction_set: str, training: bool, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for channel in (0, 4, 17):
        input = torch.randn(3, 18, 2, 3, generator=generator)
        input[1, channel, 1, 2] = value
        leaf = input.to(memory_format=torch.channels_last).requires_grad_()
        output = KF.batch_norm_act(leaf, None, None, torch.zeros(18), torch.ones(18), training=training)
        (gradient,) = torch.autograd.grad(output, leaf, torch.randn(output.shape, generator=generator))
        others = [c for c in range(18) if c != channel]
        assert output[:, others].isfinite().all()
        assert gradient[:, others].isfinite().all()
        spoilt = (~output[:, channel].isfinite()).sum()
        assert spoilt == (output[:, channel].numel() if training else 1)


def test_a_copy_that_a_sample_does_not_use_cannot_overflow(native_backend: None) -> None:
    input, weight = torch.full((2, 4), 1e20), torch.full((2, 3, 4), 1e20)
    weight[0] = 1
    code = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(KF.kshot_linear(input, weight, code), torch.full((2, 3), 4e20))
    image = KF.kshot_conv2d(input[:, :, None, None], weight[..., None, None], code)
    torch.testing.assert_close(image.flatten(1), torch.full((2, 3), 4e20))
