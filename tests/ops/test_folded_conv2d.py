"""Convolutions with their norm folded in, against the reference and against the layers apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

Operands = tuple[Tensor, Tensor, Tensor, KF.ChannelNorm]

# Channels in, out; kernel; size; window.
DENSE = {
    "pointwise": ((5, 7), 1, (6, 5), {}),
    "pointwise_wide": ((20, 140), 1, (33, 32), {}),
    "pointwise_past_caches": ((8, 64), 1, (100, 60), {}),
    "pointwise_strided": ((8, 70), 1, (7, 9), {"stride": 2}),
    "dense_3x3": ((6, 33), 3, (9, 12), {"padding": 1}),
    "dense_5x5_strided": ((16, 40), 5, (31, 20), {"stride": 2, "padding": 2}),
}
DEPTHWISE = {
    "depthwise_3x3": ((32, 32), 3, (9, 8), {"padding": 1, "groups": 32}),
    "depthwise_cut": ((41, 41), 5, (11, 10), {"stride": 2, "padding": 2, "groups": 41}),
    "depthwise_past_caches": ((64, 64), 3, (100, 60), {"padding": 1, "groups": 64}),
}
CASES = DENSE | DEPTHWISE


def operands(name: str, per_sample: bool = False, batch: int = 3) -> tuple[Operands, dict[str, int]]:
    (inner, outer), kernel, size, window = CASES[name]
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    rows = [batch] if per_sample else []
    weight = normal(4, outer, inner // window.get("groups", 1), kernel, kernel) / kernel
    norm = KF.ChannelNorm(normal(outer), normal(outer) ** 2 + 0.5, normal(*rows, outer), normal(*rows, outer), 1e-3)
    image = normal(batch, inner, *size).contiguous(memory_format=torch.channels_last)
    return (image, weight, normal(*rows, 4).softmax(-1), norm), window


@pytest.fixture(autouse=True)
def _native_without_gradients(native_backend: None) -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_equal(call: Operands, window: dict[str, int], **options: Tensor | None) -> None:
    """Within twice the error of torch's layers in the same dtype, or a few roundings of the largest value."""
    image, weight, code, norm = call
    wide = [None if t is None else t.double() for t in norm[:4]]
    residual = options.get("residual")
    exact = reference.folded_conv2d(
        image.double(), weight.double(), code.double(), norm._replace(**dict(zip(norm._fields, wide))), **window,
        residual=None if residual is None else residual.double(),
    )  # fmt: skip
    actual = KF.folded_conv2d(image, weight, code, norm, **window, **options)
    assert actual.dtype == image.dtype
    assert actual.is_contiguous(memory_format=torch.channels_last)
    if code.dim() == 1:
        apart = torch_layers(image, weight, code, norm, window, residual)
        allowed = 2 * (apart.double() - exact).abs().max()
    else:
        allowed = 0
    slack = 8 * torch.finfo(image.dtype).eps * exact.abs().max()
    assert (actual.double() - exact).abs().max() <= allowed + slack


def torch_layers(image, weight, code, norm, window, residual) -> Tensor:
    mixed = torch.einsum("k,koihw->oihw", code, weight).to(image.dtype)
    raw = F.conv2d(image, mixed, **window)
    output = F.batch_norm(raw, norm.mean, norm.variance, norm.weight, norm.bias, eps=norm.eps)
    return ACTIVATIONS[norm.activation](output if residual is None else output + residual)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_layers_apart(name: str) -> None:
    call, window = operands(name)
    for activation in ("relu", "identity"):
        assert_equal((*call[:3], call[3]._replace(activation=activation)), window)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["pointwise_wide", "pointwise_past_caches", "depthwise_cut", "depthwise_past_caches"])
def test_every_activation(name: str, activation: str) -> None:
    call, window = operands(name)
    assert_equal((*call[:3], call[3]._replace(activation=activation)), window)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["pointwise", "dense_3x3", "depthwise_cut"])
def test_half_types(name: str, dtype: torch.dtype) -> None:
    (image, weight, code, norm), window = operands(name)
    assert_equal((image.to(dtype), weight, code, norm._replace(activation="relu6")), window)


@pytest.mark.parametrize("name", ["pointwise_wide", "dense_3x3", "depthwise_cut"])
def test_every_instruction_set(instruction_set: str, name: str) -> None:
    call, window = operands(name)
    assert_equal((*call[:3], call[3]._replace(activation="hardswish")), window)


@pytest.mark.parametrize("name", ["pointwise", "depthwise_3x3"])
def test_residual_is_added_before_the_activation(name: str) -> None:
    call, window = operands(name)
    norm = call[3]._replace(activation="relu6")
    residual = torch.randn_like(KF.folded_conv2d(*call, **window))
    assert_equal((*call[:3], norm), window, residual=residual)


def test_codes_and_parameters_per_sample() -> None:
    for name in ("depthwise_3x3", "pointwise"):  # the second one goes another way
        call, window = operands(name, per_sample=True)
        assert_equal((*call[:3], call[3]._replace(activation="silu")), window)


def test_a_norm_without_parameters_and_leading_channels() -> None:
    (image, weight, code, norm), _ = operands("pointwise_wide")
    norm = KF.ChannelNorm(norm.mean[:50], norm.variance[:50], eps=1e-3, activation="relu")
    actual = KF.folded_conv2d(image[:, :11], weight, code, norm, out_channels=50)
    expected = reference.folded_conv2d(image[:, :11], weight, code, norm, out_channels=50)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def names_of_operators(call) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        call()
    return [event.name for event in measured.events() if event.name.startswith("kshot_ext::")]


def test_one_operator_serves_what_records_no_gradient() -> None:
    call, window = operands("dense_3x3")
    assert names_of_operators(lambda: KF.folded_conv2d(*call, **window)) == ["kshot_ext::folded_conv2d"]
    call[1].requires_grad_()
    assert names_of_operators(lambda: KF.folded_conv2d(*call, **window)) == ["kshot_ext::folded_conv2d"]


@torch.enable_grad()
def test_gradients_are_those_of_the_layers_apart() -> None:
    (image, weight, code, norm), window = operands("dense_3x3")
    leaves = [tensor.clone().requires_grad_() for tensor in (image, weight, code, *norm[:4])]

    def gradients(function) -> tuple[Tensor, ...]:
        output = function(*leaves[:3], KF.ChannelNorm(*leaves[3:], norm.eps, "relu"), **window)
        return torch.autograd.grad((output * torch.arange(output.numel()).view(output.shape).cos()).sum(), leaves)

    for actual, expected in zip(gradients(KF.folded_conv2d), gradients(reference.folded_conv2d)):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_compiles() -> None:
    call, window = operands("dense_3x3")
    compiled = torch.compile(
        lambda *operands: KF.folded_conv2d(*operands, **window), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*call), KF.folded_conv2d(*call, **window))


def test_autocast_says_what_is_stored() -> None:
    call, window = operands("pointwise")
    with torch.autocast("cpu", torch.bfloat16):
        output = KF.folded_conv2d(*call, **window)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), KF.folded_conv2d(*call, **window), rtol=3e-2, atol=3e-2)


def test_a_residual_of_another_dtype_is_not_rounded() -> None:
    """4 and 2^-9 have no sum in bfloat16: of a float32 residual the sum is rounded once."""
    image, weight, code = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16), torch.full((1, 1, 1, 1, 1), 4.0), torch.ones(1)
    norm = KF.ChannelNorm(torch.zeros(1), torch.ones(1), eps=0.0)
    residual = torch.full((1, 1, 1, 1), 2.0**-6 + 2.0**-15)
    output = KF.folded_conv2d(image, weight, code, norm, residual=residual)
    assert output.dtype == torch.bfloat16
    assert output.item() == 4.03125  # 4 + 2^-6 lies halfway; rounding the residual first would give 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.zeros(3, 5)}, ValueError, r"input must have shape \[N, C_in, H, W\]"),
        ({"norm": KF.ChannelNorm(torch.zeros(4), torch.ones(7))}, ValueError, "C = 3, 7 as the output has"),
        ({"residual": torch.zeros(3, 7, 6, 4)}, ValueError, r"residual must have shape \[3, 7, 6, 5\] like the output"),
        ({"code": torch.zeros(3)}, ValueError, "code must have K = 4"),
    ],
)
def test_wrong_arguments_are_named(change: dict, error: type, message: str) -> None:
    (image, weight, code, norm), _ = operands("pointwise")
    with pytest.raises(error, match=message):
        KF.folded_conv2d(**{"input": image, "weight": weight, "code": code, "norm": norm, **change})
