"""A gate scales the output before it is rounded to a half type: what overflows without the gate must not with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference

CONVOLUTIONS = {1: KF.kshot_conv1d, 2: KF.kshot_conv2d, 3: KF.kshot_conv3d}
REFERENCES = {1: reference.kshot_conv1d, 2: reference.kshot_conv2d, 3: reference.kshot_conv3d}
GATES = {"shared": (16,), "per_sample": (2, 16)}
CODES = {"shared_code": (2,), "code_per_sample": (2, 2)}


def large_call(dims: int, groups: int, code: tuple[int, ...], gate: tuple[int, ...]) -> dict[str, Any]:
    """Outputs of 160,000, which float16 does not hold, times a gate of 1/128: 1,250."""
    kernel = (3,) + (1,) * (dims - 1)
    fan_in = 16 // groups * 3
    return {
        "input": torch.full((2, 16, 3, *(2,) * (dims - 1)), 128.0),
        "weight": torch.full((2, 16, 16 // groups, *kernel), 1250.0 / fan_in).half().float(),
        "code": torch.full(code, 0.5),
        "bias": torch.full((16,), 1250.0),
        "gate": torch.full(gate, 1 / 128),
    }


def outcome(function: Any, tensors: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = function(**leaves, **options)
    cotangent = torch.full_like(output, 2.0**-8)
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return {"output": output.detach(), **dict(zip(leaves, gradients))}


def assert_matches(actual: dict[str, Tensor], expected: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> None:
    for name, values in actual.items():
        assert values.dtype == dtypes[name], name
        torch.testing.assert_close(values.double(), expected[name], rtol=4e-3, atol=1e-3, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("groups", [1, 4, 16], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int, groups: int, gate: str, code: str) -> None:
    tensors = large_call(dims, groups, CODES[code], GATES[gate])
    expected = outcome(REFERENCES[dims], {name: x.double() for name, x in tensors.items()}, groups=groups)
    half = {name: x.half() for name, x in tensors.items()}
    algorithms = ["auto", "mix_then_conv"] + (["fused"] if dims == 2 and groups == 16 else [])
    for algorithm in algorithms:
        actual = outcome(CONVOLUTIONS[dims], half, groups=groups, algorithm=algorithm)
        assert_matches(actual, expected, dict.fromkeys(actual, torch.float16))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("groups", [1, 16], ids=["dense", "depthwise"])
def test_convolutions_under_autocast(groups: int, gate: str, code: str) -> None:
    tensors = large_call(2, groups, CODES[code], GATES[gate])
    expected = outcome(reference.kshot_conv2d, {name: x.double() for name, x in tensors.items()}, groups=groups)
    for algorithm in ("auto", "mix_then_conv"):
        with torch.autocast("cpu", dtype=torch.float16):
            actual = outcome(KF.kshot_conv2d, tensors, groups=groups, algorithm=algorithm)
        assert_matches(actual, expected, {**dict.fromkeys(actual, torch.float32), "output": torch.float16})


@pytest.mark.parametrize("gate", GATES)
def test_gated_convolution(gate: str) -> None:
    tensors = large_call(2, 1, (1,), GATES[gate])
    tensors = {**tensors, "weight": tensors["weight"][0]}
    del tensors["code"]
    expected = outcome(reference.gated_conv2d, {name: x.double() for name, x in tensors.items()})
    actual = outcome(KF.gated_conv2d, {name: x.half() for name, x in tensors.items()})
    assert_matches(actual, expected, dict.fromkeys(actual, torch.float16))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("autocast", [False, True])
def test_linear(gate: str, code: str, autocast: bool) -> None:
    tensors = large_call(1, 1, CODES[code], GATES[gate])
    tensors |= {"input": tensors["input"].flatten(1)[:, :16], "weight": 3 * tensors["weight"][..., 0]}
    expected = outcome(reference.kshot_linear, {name: x.double() for name, x in tensors.items()})
    if not autocast:
        tensors = {name: x.half() for name, x in tensors.items()}
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        actual = outcome(KF.kshot_linear, tensors)
    assert actual["output"].dtype == torch.float16
    for name, values in actual.items():
        torch.testing.assert_close(values.double(), expected[name], rtol=4e-3, atol=1e-3, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("code", CODES)
def test_copies_may_overflow_where_the_gate_brings_the_mixture_back(code: str) -> None:
    tensors = large_call(2, 1, CODES[code], GATES["per_sample"])
    tensors |= {"code": 4000 * tensors["code"], "gate": tensors["gate"] / 4000}  # a mixture of 104,000 without the gate
    expected = outcome(reference.kshot_conv2d, {name: x.double() for name, x in tensors.items()})["output"]
    half = {name: x.half() for name, x in tensors.items() if name not in ("gate", "code")}
    output = KF.kshot_conv2d(**half, code=tensors["code"], gate=tensors["gate"])
    torch.testing.assert_close(output.double(), expected, rtol=4e-3, atol=0)
