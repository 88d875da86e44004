"""Average pooling against torch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from calls import DTYPES, Call, assert_compiles, assert_gradients_check, assert_matches_reference, assert_rejects, draw
from cases import is_channels_last, lay_out
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import backend, reference
from kshot_ext import functional as KF


@dataclass(frozen=True)
class PoolCase:
    """One call; `options` are those of torch's function."""

    name: str
    options: dict[str, Any]
    size: tuple[int, ...] = (2, 5, 7, 9)

    def __str__(self) -> str:
        return self.name

    def call(self) -> Call:
        return Call({"input": draw(torch.Generator("cpu").manual_seed(0), *self.size)}, self.options)


CASES = (
    PoolCase("cells", {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
    PoolCase("padding_counts", {"kernel_size": 3, "stride": 1, "padding": 1}),
    PoolCase("halves", {"kernel_size": 2}),
    PoolCase("halves_ceil", {"kernel_size": 2, "ceil_mode": True}),
    PoolCase("gaps", {"kernel_size": (2, 1), "stride": (3, 4), "ceil_mode": True}),
    PoolCase("overlaps", {"kernel_size": (5, 4), "stride": (2, 3), "padding": (2, 1), "ceil_mode": True}),
    PoolCase(
        "overlaps_without_padding",
        {"kernel_size": (5, 4), "stride": (2, 3), "padding": (2, 1), "ceil_mode": True, "count_include_pad": False},
    ),
    PoolCase("divisor", {"kernel_size": 3, "stride": 2, "padding": 1, "divisor_override": 5}),
    PoolCase("whole_image", {"kernel_size": (7, 9)}),
    PoolCase("last_window_in_padding", {"kernel_size": 4, "stride": 4, "padding": 2, "ceil_mode": True}, (1, 3, 5, 6)),
    PoolCase("vectors_and_a_rest", {"kernel_size": 3, "stride": 1, "padding": 1}, (2, 37, 4, 3)),
    PoolCase("one_channel", {"kernel_size": 3, "stride": 1, "padding": 1}, (2, 1, 4, 3)),
    PoolCase("empty_batch", {"kernel_size": 2}, (0, 5, 4, 4)),
)


@pytest.mark.parametrize("layout", ["contiguous", "sliced", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: PoolCase, dtype: torch.dtype, layout: str) -> None:
    assert_matches_reference(KF.avg_pool2d, reference.avg_pool2d, lay_out(case.call().to(dtype), layout))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference_for_every_instruction_set(instruction_set: str, case: PoolCase) -> None:
    call = lay_out(case.call().to(torch.float32), "channels_last")
    assert torch.ops.kshot_ext.cpu_isa() == instruction_set
    assert_matches_reference(KF.avg_pool2d, reference.avg_pool2d, call)


def test_values_counted_by_hand() -> None:
    """A single one in a corner: the windows that hold it have 4, 6, 6 and 9 positions inside of the image."""
    image = torch.zeros(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    image[0, 1, 0, 0] = 36
    output = KF.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    expected = torch.zeros(2, 4, 4)
    expected[1, :2, :2] = torch.tensor([[9.0, 6.0], [6.0, 4.0]])
    torch.testing.assert_close(output[0], expected)
    assert is_channels_last(output)


def test_large_images_are_cut_among_threads() -> None:
    """Beyond four megabytes, where results are stored past the caches."""
    x = torch.randn(9, 16, 96, 101).contiguous(memory_format=torch.channels_last).requires_grad_()
    settings = 3, 1, 1, False, False
    torch.set_num_threads(3)
    output = KF.avg_pool2d(x, *settings)
    gradient = torch.autograd.grad(output, x, output.detach())[0]
    expected = F.avg_pool2d(x, *settings)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, expected.detach())[0])


@pytest.mark.parametrize("case", CASES[:8], ids=str)
def test_gradcheck(case: PoolCase) -> None:
    call = PoolCase(case.name, case.options, (2, 2, 5, 6)).call()
    assert_gradients_check(KF.avg_pool2d, lay_out(call, "channels_last"))


def test_compile_fullgraph() -> None:
    calls = [lay_out(case.call().to(torch.float32), "channels_last") for case in CASES[:5]]
    assert_compiles(KF.avg_pool2d, calls)


def test_second_derivative_is_refused_and_the_reference_has_it(native_backend: None) -> None:
    x = torch.randn(1, 2, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()

    def first(x: Tensor) -> Tensor:
        return torch.autograd.grad(KF.avg_pool2d(x, 2).square().sum(), x, create_graph=True)[0]

    gradient = first(x)
    with pytest.raises(RuntimeError, match="no derivative"):
        gradient.sum().backward()
    with backend.use_reference():
        torch.testing.assert_close(torch.autograd.grad(first(x).sum(), x)[0], torch.full_like(x, 0.5))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": torch.zeros(2, 3, 4)}, ValueError, r"input must have shape \[N, C, H, W\]"),
        ({"input": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, TypeError, "input must be one of"),
        ({"input": torch.zeros(2, 0, 4, 4)}, ValueError, "input must have channels and positions"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be an int >= 1"),
        ({"kernel_size": (2, 2, 2)}, ValueError, "kernel_size must be an int >= 1 or 2"),
        ({"stride": 0}, ValueError, "stride must be an int >= 1"),
        ({"padding": 2}, ValueError, "padding must be at most half of kernel_size"),
        ({"kernel_size": 7}, ValueError, "must fit into the padded input"),
        ({"divisor_override": 0}, ValueError, "divisor_override must be at least 1"),
    ],
)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.avg_pool2d, {"input": torch.zeros(2, 3, 4, 4), "kernel_size": 3, **changes}, error, message)


POOL = ([3, 3], [1, 1], [1, 1], False, True, 0)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("avg_pool2d", (torch.zeros(2, 3, 4), *POOL), "input must be"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [3], *POOL[1:]), "two entries"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [3, 0], *POOL[1:]), "kernel_size must be 1"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [3, 2**62], *POOL[1:]), "kernel_size must be 1"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [3, 3], [1, 0], *POOL[2:]), "stride must be 1"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [3, 3], [1, 1], [1, 2], *POOL[3:]), "padding must be 0 to half"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), [7, 3], *POOL[1:]), "kernel_size must fit"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4), *POOL[:5], -1), "divisor must be"),
        ("avg_pool2d", (torch.zeros(2, 3, 4, 4).int(), *POOL), "expected float32"),
        ("avg_pool2d_backward", (torch.zeros(2, 3, 4, 5), 4, 4, *POOL), r"must be \[N, C, 4, 4\]"),
        ("avg_pool2d_backward", (torch.zeros(2, 3, 4, 4), 0, 4, *POOL), "an image must have"),
        ("avg_pool2d_backward", (torch.zeros(2, 3, 4, 4), 2**40, 4, *POOL), "an image must have"),
    ],
)
def test_raw_operators_check_what_they_are_given(
    native_backend: None, operator: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.kshot_ext, operator)(*arguments)
