"""Some channels of channels_last images, as splits of channels make them: taken as they lie, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from calls import Call, assert_matches_reference, draw
from cases import ConvCase, lay_out, with_algorithm
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.ops.memory_order import has_channels_innermost

BETWEEN = 3  # channels before those in use, and after them


def channel_slice(tensor: Tensor) -> Tensor:
    """The same values as neighbouring channels of a channels_last batch that has NaN in the others."""
    size, channels, *image = tensor.shape
    wide = tensor.new_full([size, *image, channels + 2 * BETWEEN], torch.nan).movedim(-1, 1)
    return wide[:, BETWEEN : BETWEEN + channels].copy_(tensor)


def sliced(call: Call) -> Call:
    images = {name: channel_slice(call.tensors[name]) for name in ("input", "residual") if name in call.tensors}
    return replace(call, tensors={**call.tensors, **images})


def among_others(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, whose output is the middle of a wider one in channels_last: so its gradient is a slice, too."""

    def run(**arguments: object) -> Tensor:
        output = function(**arguments)
        side = output.new_ones(len(output), BETWEEN, *output.shape[2:])
        return torch.cat([side, output, side], dim=1).movedim(1, -1)

    return run


def copies(function: Callable[..., Tensor], call: Call, between: int) -> list[str]:
    """What torch copies while the call runs, forward and backward; the gradient lies in so many channels more."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in call.tensors.items()}
    output = function(**leaves, **call.options, **call.state)
    wide = torch.randn(len(output), *output.shape[2:], output.shape[1] + between, dtype=output.dtype).movedim(-1, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = function(**leaves, **call.options, **call.state)
        torch.autograd.grad(output, list(leaves.values()), wide[:, : output.shape[1]])
    return [event.name for event in profile.events() if event.name in ("aten::copy_", "aten::clone")]


def norm_call(size: tuple[int, ...], activation: str) -> Call:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: draw(generator, size[1]) for name in ("weight", "bias")}
    tensors |= {name: 3 * draw(generator, *size) + 1 for name in ("input", "residual")}
    state = {"running_mean": draw(generator, size[1]), "running_var": draw(generator, size[1]).square() + 1}
    return Call(tensors, {"activation": activation}, state)


NORM_SIZES = [(3, 37, 5, 3), (1, 16, 9, 9), (7, 5, 1, 1), (2, 29, 1, 4), (64, 1, 3, 3)]


@pytest.mark.parametrize("activation", ["identity", "relu", "relu6", "hardswish"])
@pytest.mark.parametrize("size", NORM_SIZES, ids=str)
def test_batch_norm_matches_reference(instruction_set: str, size: tuple[int, ...], activation: str) -> None:
    call = sliced(norm_call(size, activation).to(torch.float32))
    assert_matches_reference(
        among_others(KF.batch_norm_act), among_others(reference.batch_norm_act), call, magnitude=64.0
    )


CONVOLUTIONS = [
    ConvCase("pointwise", kernel=(1, 1), in_channels=19, out_channels=37, bias="shared"),
    ConvCase("dense", in_channels=19, out_channels=37, padding=1, stride=(1, 2)),
    ConvCase("depthwise", in_channels=37, out_channels=37, groups=37, padding=1),
    ConvCase("depthwise_blocks", (9, 6), (5, 5), in_channels=96, out_channels=96, groups=96, padding=2, stride=2),
    ConvCase("one_image", batch=1, in_channels=18, out_channels=16, padding=1),
    ConvCase("one_pixel", (1, 1), (1, 1), 5, in_channels=17, out_channels=33),
    ConvCase("one_pixel_depthwise", (1, 1), (3, 3), 5, in_channels=33, out_channels=33, groups=33, padding=1),
]


@pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution_matches_reference(instruction_set: str, case: ConvCase, code_per_sample: bool) -> None:
    call = case.call(code_per_sample=code_per_sample).to(torch.float32)
    call = sliced(with_algorithm(call, "fused"))
    assert_matches_reference(among_others(KF.kshot_conv2d), among_others(reference.kshot_conv2d), call)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_depthwise_of_other_types_matches_reference(instruction_set: str, dtype: torch.dtype) -> None:
    call = sliced(with_algorithm(CONVOLUTIONS[2].call().to(dtype), "fused"))
    assert_matches_reference(among_others(KF.kshot_conv2d), among_others(reference.kshot_conv2d), call)


def test_slices_are_copied_no_more_than_whole_tensors(native_backend: None) -> None:
    calls = [(case.name, KF.kshot_conv2d, with_algorithm(case.call(), "fused")) for case in CONVOLUTIONS]
    for name, function, call in [("batch norm", KF.batch_norm_act, norm_call((3, 37, 5, 3), "relu")), *calls]:
        call = call.to(torch.float32)
        whole = copies(function, lay_out(call, "channels_last"), 0)
        assert copies(function, sliced(call), BETWEEN) == whole, name


def test_auto_takes_a_slice_as_channels_last(native_backend: None) -> None:
    """Our kernel serves 1x1 layers of channels_last images."""
    call = sliced(ConvCase("any", (9, 9), (1, 1), in_channels=24, out_channels=32).call().to(torch.float32))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = KF.kshot_conv2d(**call.tensors, **call.options)
    assert "kshot_ext::mixed_conv2d" in [event.name for event in profile.events()]
    assert has_channels_innermost(output)


IMAGES = torch.arange(2 * 6 * 3 * 4.0).reshape(2, 6, 3, 4)
IN_CHANNELS_LAST = IMAGES.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (IMAGES, False),
        (IMAGES[:, 1:4], False),
        (IN_CHANNELS_LAST, True),
        (IN_CHANNELS_LAST[:, 1:4], True),
        (IN_CHANNELS_LAST[:, ::2], True),
        (IN_CHANNELS_LAST[:, :, ::2, 1:], True),
        (IN_CHANNELS_LAST[:, :1], False),
        (IMAGES[:, :, :1, :1].contiguous(), True),
        (torch.ones(1).expand(2, 6, 3, 4), False),
        (IMAGES[..., 0], False),
        (IMAGES[..., 0].mT.contiguous().mT, True),
    ],
)
def test_has_channels_innermost(image: Tensor, expected: bool) -> None:
    assert has_channels_innermost(image) == expected
