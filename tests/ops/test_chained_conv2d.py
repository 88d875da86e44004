"""Links of a chain against the reference, and whole chains against the plain sequence of layers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from calls import Call, assert_compiles, assert_gradients_check, assert_matches_reference, assert_rejects, draw
from torch import Tensor
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAGNITUDE = 64.0  # of the sums over a channel, which nearly cancel in some gradients


@dataclass(frozen=True)
class LinkCase:
    """One call of chained_conv2d; `norm` is None, "shared" or "per_sample" (its weight)."""

    name: str
    channels: tuple[int, int] = (5, 7)
    kernel: int = 1
    size: tuple[int, int] = (6, 5)
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    norm: str | None = "shared"
    code_per_sample: bool = False
    activation: str = "relu"
    gated: bool = False
    out_channels: int | None = None
    moments: bool = True
    batch: int = 3

    def __str__(self) -> str:
        return self.name

    def call(self) -> Call:
        generator = torch.Generator().manual_seed(0)
        (inner, outer), n = self.channels, self.batch
        tensors = {
            "input": draw(generator, n, inner, *self.size),
            "weight": draw(generator, 3, outer, inner // self.groups, self.kernel, self.kernel),
            "code": draw(generator, *([n] if self.code_per_sample else []), 3),
        }
        if self.norm:
            tensors["mean"], tensors["variance"] = draw(generator, inner), draw(generator, inner) ** 2 + 1
            tensors["norm_weight"] = draw(generator, *([n] if self.norm == "per_sample" else []), inner)
            tensors["norm_bias"] = draw(generator, inner)
        if self.gated:
            tensors["gate"] = draw(generator, outer)
        names = ("stride", "padding", "dilation", "groups", "activation", "out_channels", "moments")
        return Call(tensors, {name: getattr(self, name) for name in names})


def link(function, input, weight, code, activation, mean=None, variance=None, norm_weight=None, norm_bias=None, **rest):
    """`function`, `chained_conv2d` of either kind, with the norm spelt out; results that there are."""
    norm = None if mean is None else KF.ChannelNorm(mean, variance, norm_weight, norm_bias, 1e-3, activation)
    return [result for result in function(input, weight, code, norm=norm, **rest) if result is not None]


def ours(**arguments) -> list[Tensor]:
    return link(KF.chained_conv2d, **arguments)


def twin(**arguments) -> list[Tensor]:
    return link(reference.chained_conv2d, **arguments)


DENSE = (
    LinkCase("pointwise"),
    LinkCase("pointwise_many_strips", (20, 40), size=(33, 32), activation="silu"),
    LinkCase("pointwise_no_norm", norm=None),
    LinkCase("pointwise_per_sample_norm", norm="per_sample", activation="hardswish"),
    LinkCase("pointwise_narrow", out_channels=4, gated=True),
    LinkCase("pointwise_strided", (8, 70), size=(7, 9), stride=2),
    LinkCase("pointwise_padded", padding=1),
    LinkCase("dense_3x3", (6, 4), 3, (9, 12), padding=1),
    LinkCase("dense_3x3_unpadded", (6, 4), 3, (9, 12)),
    LinkCase("dense_3x3_strided", (17, 19), 3, (9, 12), stride=2, padding=1, activation="relu6"),
    LinkCase("dense_3x3_many_strips", (24, 20), 3, (60, 64), padding=1, norm="per_sample", batch=2),
    LinkCase("dense_5x5_many_strips_strided", (16, 40), 5, (65, 68), stride=2, padding=2, batch=2),
    LinkCase("dense_dilated", (3, 4), 3, (10, 11), padding=2, dilation=2),
    LinkCase("dense_gaps", (2, 6), 2, (11, 13), stride=3, padding=1),
    LinkCase("no_moments", moments=False),
    LinkCase("empty_batch", batch=0, moments=False),
)
DEPTHWISE = (
    LinkCase("depthwise_3x3", (32, 32), 3, (9, 8), padding=1, groups=32),
    LinkCase("depthwise_5x5_strided", (40, 40), 5, (11, 10), stride=2, padding=2, groups=40, activation="silu"),
    LinkCase("depthwise_even", (6, 6), 2, (11, 13), stride=3, padding=1, groups=6),
    LinkCase("depthwise_dilated", (8, 8), 3, (9, 9), padding=2, dilation=2, groups=8, activation="identity"),
    LinkCase("depthwise_no_norm", (33, 33), 3, (6, 7), padding=1, groups=33, norm=None, gated=True),
    LinkCase("depthwise_code_per_sample", (17, 17), 3, (6, 7), padding=1, groups=17, code_per_sample=True),
    LinkCase(
        "depthwise_all_per_sample", (9, 9), 3, (6, 7), stride=2, padding=1, groups=9,
        norm="per_sample", code_per_sample=True, moments=False,
    ),
    # Tasks of several samples, whose images have fewer rows than the kernel.
    LinkCase("depthwise_many_samples", (7, 7), 3, (2, 5), padding=1, groups=7, batch=19),
    LinkCase(
        "depthwise_many_samples_with_codes", (7, 7), 3, (2, 5), padding=1, groups=7, code_per_sample=True, batch=19
    ),
    LinkCase("depthwise_many_ranges", (200, 200), 3, (5, 130), padding=1, groups=200, batch=1),
)  # fmt: skip
# What no kernel takes goes another way.
APART = (
    LinkCase("dense_code_per_sample", (5, 7), 3, padding=1, code_per_sample=True),
    LinkCase("grouped", (6, 4), 3, padding=1, groups=2),
)


@pytest.mark.parametrize("case", DENSE + DEPTHWISE + APART, ids=str)
def test_matches_reference(case: LinkCase) -> None:
    assert_matches_reference(ours, twin, case.call().to(torch.float32), MAGNITUDE)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("case", [DENSE[0], DENSE[7], DEPTHWISE[0], DEPTHWISE[5], APART[0]], ids=str)
def test_other_dtypes_match_reference(case: LinkCase, dtype: torch.dtype) -> None:
    assert_matches_reference(ours, twin, case.call().to(dtype), MAGNITUDE)


@pytest.mark.parametrize("case", [DENSE[1], DENSE[10], DEPTHWISE[1], DEPTHWISE[4]], ids=str)
def test_every_instruction_set_matches_reference(instruction_set: str, case: LinkCase) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert_matches_reference(ours, twin, case.call().to(dtype), MAGNITUDE)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", [LinkCase("dense"), DEPTHWISE[0]], ids=str)
def test_every_activation_matches_reference(case: LinkCase, activation: str) -> None:
    call = case.call().to(torch.float32)
    assert_matches_reference(ours, twin, Call(call.tensors, {**call.options, "activation": activation}), MAGNITUDE)


@pytest.mark.parametrize(
    "case",
    [
        LinkCase("dense", (2, 3), 3, (4, 3), stride=2, padding=1, activation="silu"),
        LinkCase("depthwise", (3, 3), 3, (3, 4), padding=1, groups=3, norm="per_sample", code_per_sample=True,
                 activation="identity"),
    ],
    ids=str,
)  # fmt: skip
def test_gradients_equal_finite_differences(case: LinkCase) -> None:
    """In float64, where the plain sequence serves; that float32 has its values is tested above."""
    assert_gradients_check(lambda **arguments: tuple(ours(**arguments)), case.call())


def layers_of_a_block() -> list[tuple[tuple[int, ...], dict[str, int]]]:
    """Shape of each dictionary and arguments of its convolution: 1x1, depthwise 3x3, 1x1."""
    return [
        ((3, 24, 8, 1, 1), {}),
        ((3, 24, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 24}),
        ((3, 8, 24, 1, 1), {}),
    ]


def plain_block(x: Tensor, residual: Tensor, code: Tensor, *parameters: Tensor) -> Tensor:
    """The sequence of torch's own layers."""
    for i, (_, window) in enumerate(layers_of_a_block()):
        weight, gain, bias = parameters[3 * i : 3 * i + 3]
        x = F.conv2d(x, torch.einsum("k,koihw->oihw", code, weight), **window)
        x = F.batch_norm(x, None, None, gain, bias, training=True)
        x = F.relu(x) if i < 2 else F.relu6(x + residual)
    return x


def chained_block(x: Tensor, residual: Tensor, code: Tensor, *parameters: Tensor) -> Tensor:
    norm = None
    for i, (_, window) in enumerate(layers_of_a_block()):
        weight, gain, bias = parameters[3 * i : 3 * i + 3]
        x, mean, variance = KF.chained_conv2d(x, weight, code, norm=norm, **window)
        norm = KF.ChannelNorm(mean, variance, gain, bias, 1e-5, "relu" if i < 2 else "relu6")
    return KF.chained_norm_act(x, norm, residual)


def block_operands() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    operands = [draw(generator, 6, 8, 9, 10), draw(generator, 6, 8, 5, 5), draw(generator, 3)]
    for shape, _ in layers_of_a_block():
        operands += [draw(generator, *shape), draw(generator, shape[1]), draw(generator, shape[1])]
    return operands


def outcome(block, operands: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    output = block(*leaves)
    grad = draw(torch.Generator().manual_seed(1), *output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def test_a_chain_equals_the_plain_layers() -> None:
    """Within twice the error that torch's own layers have in float32, gradients too."""
    operands = [operand.float().double() for operand in block_operands()]
    exact = outcome(plain_block, operands)
    single = [operand.float() for operand in operands]
    for actual, eager, expected in zip(outcome(chained_block, single), outcome(plain_block, single), exact):
        error, allowed = (actual - expected).abs().max(), 2 * (eager - expected).abs().max()
        assert error <= allowed + 4e-6 * expected.abs().max()
    for actual, expected in zip(outcome(chained_block, operands), exact):  # the plain sequence
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("groups", [1, 40])
@pytest.mark.parametrize("size", [(3, 5), (64, 64)], ids=str)
def test_moments_of_a_far_mean(groups: int, size: tuple[int, int]) -> None:
    """Channels whose mean is 1,000 times their deviation: a sum of squares in float32 would leave nothing of it.

    What is left is the rounding of means that are joined, 3e-5 of a deviation.
    """
    generator = torch.Generator().manual_seed(0)
    deviations = torch.randint(-8, 9, (4, 40, *size), generator=generator) / 8
    channels = torch.arange(40.0).view(-1, 1, 1)
    image = 1000 + channels + deviations  # exact in float32
    weight = torch.eye(40)[None, :, :, None, None] if groups == 1 else torch.ones(1, 40, 1, 1, 1)
    raw, mean, variance = KF.chained_conv2d(image, weight, torch.ones(1), groups=groups)
    assert torch.equal(raw, image)
    expected = image.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(variance.double(), expected, rtol=3e-5, atol=0)
    torch.testing.assert_close(mean.double(), image.double().mean((0, 2, 3)), rtol=2e-7, atol=0)


def test_a_first_position_far_away_does_not_hurt() -> None:
    image = torch.zeros(2, 3, 40, 40)
    image[0, :, 0, 0] = 4096
    image += torch.randint(-4, 5, image.shape, generator=torch.Generator().manual_seed(0)) / 4
    _, _, variance = KF.chained_conv2d(image, torch.ones(1, 3, 1, 1, 1), torch.ones(1), groups=3)
    torch.testing.assert_close(variance.double(), image.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


def test_only_raw_tensors_are_kept_for_backward() -> None:
    """Of the tensors larger than parameters: the input, three raw outputs and the residual."""
    leaves = [operand.float().contiguous(memory_format=torch.channels_last).requires_grad_()
              if operand.dim() == 4 else operand.float().requires_grad_() for operand in block_operands()]  # fmt: skip
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chained_block(*leaves)
    assert sorted(kept.values()) == sorted([6 * 8 * 90, 6 * 24 * 90, 6 * 24 * 25, 6 * 8 * 25, 6 * 8 * 25])


def test_deterministic_with_threads() -> None:
    torch.set_num_threads(2)
    single = [operand.float() for operand in block_operands()]
    first, second = (outcome(chained_block, single) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_threads_agree() -> None:
    single = [operand.float() for operand in block_operands()]
    one = outcome(chained_block, single)
    torch.set_num_threads(3)
    for actual, expected in zip(outcome(chained_block, single), one):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_compiles() -> None:
    cases = (DENSE[0], DEPTHWISE[6])
    assert_compiles(lambda **arguments: tuple(ours(**arguments)), [case.call().to(torch.float32) for case in cases])


def test_raw_outputs_are_channels_last_and_moments_float32() -> None:
    raw, mean, variance = ours(**DENSE[7].call().to(torch.bfloat16).tensors, padding=1, activation="relu")
    assert raw.dtype == torch.bfloat16
    assert raw.is_contiguous(memory_format=torch.channels_last)
    assert mean.dtype == variance.dtype == torch.float32


def test_autocast_says_what_is_stored() -> None:
    call = DENSE[7].call().to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        raw, mean, _ = ours(**call.tensors, **call.options)
    assert (raw.dtype, mean.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(raw.float(), twin(**call.tensors, **call.options)[0], rtol=3e-2, atol=0.2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.zeros(3, 5)}, ValueError, r"input must have shape \[N, C_in, H, W\]"),
        ({"mean": torch.zeros(4)}, ValueError, r"norm.mean must be \[C\] .* C = 3, 5"),
        ({"norm_weight": torch.zeros(2, 5)}, ValueError, r"norm.weight must be \[C\] or \[N, C\]"),
        ({"activation": "tanh"}, ValueError, "norm.activation must be one of identity"),
        ({"code": torch.zeros(2)}, ValueError, "code must have K = 3"),
        ({"gate": torch.zeros(3, 7)}, ValueError, r"gate must have shape \[C_out\]"),
    ],
)
def test_wrong_arguments_are_named(change: dict, error: type, message: str) -> None:
    call = LinkCase("pointwise").call().to(torch.float32)
    assert_rejects(ours, {**call.tensors, **call.options, **change}, error, message)
