"""What must follow from one call for another, with no reference in between: random calls, and the same ones changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzz.case import Case
from fuzz.operators import MULTILINEAR
from fuzz.strategies import cases
from hypothesis import HealthCheck, assume, given, settings
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext import functional as KF

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

CODED = (
    "kshot_conv1d",
    "kshot_conv2d",
    "kshot_conv3d",
    "kshot_linear",
    "effective_weight",
    "dynamic_group_weight",
    "dynamic_group_conv2d",
)
CONVOLUTIONS = (*CODED[:3], "gated_conv2d")
OURS = (
    "kshot_conv2d",
    "gated_conv2d",
    "effective_weight",
    "dynamic_group_weight",
)  # with kernels of ours throughout, if those are asked for
EXAMPLES = 25
_HEALTH = [
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]


class Call:
    """A random call in float32 of ordinary values, as tensors that can be changed."""

    def __init__(self, case: Case) -> None:
        ordinary = {name: kind for name, kind in case.values.items() if kind in ("simplex", "negative", "spread")}
        self.case = dataclasses.replace(case, dtype="float32", parameter_dtype="", values=ordinary)
        self.operator = MULTILINEAR[case.operator]
        self.tensors, self.options = self.operator.tensors(self.case)

    def __call__(self, **changes: Tensor) -> Tensor:
        return self.operator.function(**{**self.tensors, **changes}, **self.options)

    def count(self) -> int:
        return max(self.operator.depths(self.case).values())

    def size(self, **changes: Tensor) -> Tensor:
        """The sum of absolute products behind every element of the output, in float64."""
        tensors = {name: t.abs().double() for name, t in {**self.tensors, **changes}.items()}
        return self.operator.twin(**tensors, **self.options)


def for_calls(operator: str) -> Callable[[Callable[[Call], None]], None]:
    """Run a check on random calls of an operator, the same ones every time."""

    def run(check: Callable[[Call], None]) -> None:
        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=_HEALTH)
        @given(cases(operator))
        def on_case(case: Case) -> None:
            call = Call(case)
            try:
                call()
            except ValueError:  # "fused" where there is no such kernel, or a kernel larger than the image
                assume(False)
            check(call)

        on_case()

    return run


def assert_equal_to_rounding(one: Tensor, other: Tensor, size: Tensor, count: int) -> None:
    bound = 2 * (count + 8) * torch.finfo(torch.float32).eps * size + torch.finfo(torch.float32).tiny
    assert one.shape == other.shape
    assert ((one.double() - other.double()).abs() <= bound).all()


def axis_of_copies(code: Tensor) -> int:
    return 1 if code.dim() > 2 else -1  # [N, K, *kernel] or [K], [N, K]


@pytest.mark.parametrize("name", ["input", "weight", "code"])
@pytest.mark.parametrize("operator", CODED)
def test_linear_in_each_tensor(operator: str, name: str) -> None:
    if name == "input" and operator.endswith("weight"):
        name = "gate" if operator == "effective_weight" else "code"

    @for_calls(operator)
    def check(call: Call) -> None:
        assume(name in call.tensors)
        bias = call.tensors.pop("bias", None)  # what is added is no part of what is linear
        del bias
        one = call.tensors[name]
        other = torch.randn(one.shape, generator=torch.Generator().manual_seed(1))
        both = call(**{name: 2 * one - 3 * other})
        apart = 2 * call().double() - 3 * call(**{name: other}).double()
        size = 2 * call.size() + 3 * call.size(**{name: other})
        assert_equal_to_rounding(both, apart, size, call.count())


@pytest.mark.parametrize("operator", CODED)
def test_permuted_copies_under_a_permuted_code(operator: str) -> None:
    @for_calls(operator)
    def check(call: Call) -> None:
        order = torch.randperm(len(call.tensors["weight"]), generator=torch.Generator().manual_seed(0))
        code = call.tensors["code"]
        changes = {"weight": call.tensors["weight"][order], "code": code.index_select(axis_of_copies(code), order)}
        if "bias" in call.tensors and call.tensors["bias"].dim() == 2:
            changes["bias"] = call.tensors["bias"][order]
        assert_equal_to_rounding(call(**changes), call(), call.size(), call.count())


@pytest.mark.parametrize("operator", CODED)
def test_equal_copies_under_a_simplex_code_are_that_copy(operator: str) -> None:
    @for_calls(operator)
    def check(call: Call) -> None:
        assume(call.tensors["code"].numel() > 0)
        code = call.tensors["code"].softmax(axis_of_copies(call.tensors["code"]))
        first = torch.zeros_like(code)
        first.select(axis_of_copies(code), 0).fill_(1)
        expanded = {"weight": call.tensors["weight"][:1].expand_as(call.tensors["weight"])}
        if "bias" in call.tensors and call.tensors["bias"].dim() == 2:
            expanded["bias"] = call.tensors["bias"][:1].expand_as(call.tensors["bias"])
        size = call.size(**expanded, code=code)
        assert_equal_to_rounding(call(**expanded, code=code), call(code=first), size, call.count())


@pytest.mark.parametrize("operator", CODED[:5])
def test_a_gate_of_zeros_is_an_absent_channel(operator: str) -> None:
    @for_calls(operator)
    def check(call: Call) -> None:
        output = call()
        channels = -1 if operator == "kshot_linear" else output.dim() - call.tensors["weight"].dim() + 1
        channels = 1 if operator.startswith("kshot_conv") else channels
        assume("gate" in call.tensors and output.numel() > 0)
        gate = call.tensors["gate"].clone()
        gate[..., 0] = 0
        gated = call(gate=gate)
        assert (gated.select(channels, 0) == 0).all()
        others = output.narrow(channels, 1, output.shape[channels] - 1)
        size = call.size().narrow(channels, 1, others.shape[channels])
        assert_equal_to_rounding(gated.narrow(channels, 1, others.shape[channels]), others, size, call.count())


@pytest.mark.parametrize("operator", [*CONVOLUTIONS, "kshot_linear"])
def test_an_input_width_is_an_input_padded_with_zeros(operator: str) -> None:
    @for_calls(operator)
    def check(call: Call) -> None:
        channels = -1 if operator == "kshot_linear" else 1
        weight, input = call.tensors["weight"], call.tensors["input"]
        whole = weight.shape[2] if operator == "kshot_linear" else call.case.sizes["in_channels"]
        padded = input.new_zeros([whole if d == channels % input.dim() else size for d, size in enumerate(input.shape)])
        padded.narrow(channels, 0, input.shape[channels]).copy_(input)
        narrow = call()
        if operator != "kshot_linear" and call.options["out_channels"] is None:
            call.options = {**call.options, "out_channels": narrow.shape[1]}
        gate = call.tensors.get("gate")
        assume(gate is None or gate.shape[-1] in (narrow.shape[channels], weight.shape[0 if operator[0] == "g" else 1]))
        assert_equal_to_rounding(call(input=padded), narrow, call.size(), call.count())


@pytest.mark.parametrize("operator", OURS)
def test_threads_change_no_bit(operator: str) -> None:
    @for_calls(operator)
    def check(call: Call) -> None:
        assume(call.options.get("algorithm", "fused") == "fused")
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = {name: t.detach().requires_grad_() for name, t in call.tensors.items()}
            output = call(**leaves)
            results.append([output, *torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)])
        for others in results[1:]:
            for one, other in zip(results[0], others, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("operator", ["kshot_conv2d", "gated_conv2d"])
def test_a_split_batch_changes_no_bit(operator: str) -> None:
    """Of our kernels; the vendor's pick theirs by the size of the batch."""

    @for_calls(operator)
    def check(call: Call) -> None:
        assume(call.options["algorithm"] == "fused" and len(call.tensors["input"]) > 1)
        whole, first = call(), len(call.tensors["input"]) // 2
        per_sample = [name for name in ("input", "code", "gate") if _is_per_sample(call, name)]
        for part in (slice(0, first), slice(first, None)):
            parts = {name: call.tensors[name][part] for name in per_sample}
            assert torch.equal(call(**parts), whole[part])


def _is_per_sample(call: Call, name: str) -> bool:
    return name == "input" or (name in call.tensors and call.tensors[name].dim() > 1)


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("algorithm", ["auto", "fused", "mix_then_conv"])
@pytest.mark.parametrize("stride", [2, 3, (1, 4)])
def test_a_stride_leaves_positions_out(stride: Any, algorithm: str, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(3, 16, 11, 9, generator=generator),
        torch.randn(2, 16, 16 // groups, 3, 3, generator=generator),
    )
    arguments = {"code": torch.tensor([0.25, 0.75]), "padding": 1, "groups": groups, "algorithm": algorithm}
    rows, columns = stride if isinstance(stride, tuple) else (stride, stride)
    every = KF.kshot_conv2d(x, weight, **arguments)
    strided = KF.kshot_conv2d(x, weight, stride=stride, **arguments)
    torch.testing.assert_close(strided, every[:, :, ::rows, ::columns], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("operator", CONVOLUTIONS[:3])
def test_a_one_hot_code_is_the_plain_layer(operator: str) -> None:
    """Per sample or not: torch's own convolution, whose output channels are gated."""
    convolve = {"kshot_conv1d": F.conv1d, "kshot_conv2d": F.conv2d, "kshot_conv3d": F.conv3d}[operator]

    @for_calls(operator)
    def check(call: Call) -> None:
        t, sizes = call.tensors, call.case.sizes
        assume(t["input"].shape[1] == sizes["in_channels"] and call.options["out_channels"] is None)
        k = len(t["weight"]) - 1
        code = torch.zeros_like(t["code"])
        code.select(axis_of_copies(code), k).fill_(1)
        bias = t.get("bias")
        bias = bias if bias is None or bias.dim() == 1 else bias[k]
        window = [call.options[name] for name in ("stride", "padding", "dilation", "groups")]
        plain = convolve(t["input"].double(), t["weight"][k].double(), None if bias is None else bias.double(), *window)
        if "gate" in t:
            plain = plain * t["gate"].double().reshape(*t["gate"].shape, *(1,) * (plain.dim() - 2))
        assert_equal_to_rounding(call(code=code), plain, call.size(code=code), call.count())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_converted_model_merges_back_to_itself(channels_last: bool) -> None:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, groups=16)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 3 * 3, 5)).eval()
    images = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    expected = model(images)
    converted = kshot_ext.convert(model, num_shots=3).eval()
    one_hot = torch.tensor([1.0, 0.0, 0.0])
    kshot_ext.set_code(converted, one_hot)
    torch.testing.assert_close(converted(images), expected, rtol=1e-5, atol=1e-5)
    merged = kshot_ext.merge(converted, one_hot)
    torch.testing.assert_close(merged(images), expected, rtol=0, atol=0)
