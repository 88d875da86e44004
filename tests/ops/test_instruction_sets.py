"""The kernels of every instruction set, and their threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from calls import DTYPES, Call, assert_matches_reference, draw, results
from cases import ConvCase, fused_serves, lay_out, with_algorithm
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext import functional as KF
from kshot_ext.ops.adamw_update import adamw_update
from kshot_ext.ops.compact_gradient import Use
from kshot_ext.ops.sgd_update import sgd_update
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

WEIGHTS = [(5, 7, 61, 3, 3), (3, 2, 1031), (1, 67)]  # rows longer than a chunk, and rests of every vector width
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


def call_of(weight: tuple[int, ...], *, code_per_sample: bool = False, gated: bool = True) -> Call:
    generator = torch.Generator().manual_seed(0)
    shots, channels = weight[:2]
    tensors = {
        "weight": draw(generator, *weight),
        "code": draw(generator, *([2] if code_per_sample else []), shots),
    }
    return Call({**tensors, "gate": draw(generator, channels)} if gated else tensors)


@CODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_mixing_matches_reference(
    instruction_set: str, weight: tuple[int, ...], dtype: torch.dtype, code_per_sample: bool
) -> None:
    call = call_of(weight, code_per_sample=code_per_sample).to(dtype)
    assert torch.ops.kshot_ext.cpu_isa() == instruction_set
    assert_matches_reference(KF.effective_weight, reference.effective_weight, call)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_sgd_update_matches_reference(instruction_set: str, weight: tuple[int, ...], dtype: torch.dtype) -> None:
    def updated() -> list[Tensor]:
        tensors = call_of(weight).to(dtype).tensors
        weights, momenta = tensors["weight"].clone(), tensors["weight"].flip(0).contiguous()
        code, gate = (tensors[name].to(torch.promote_types(dtype, torch.float32)) for name in ("code", "gate"))
        sgd_update(
            [weights], [momenta], [None], [[Use(code, gate, tensors["weight"][0])]],
            lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=True, maximize=True,
        )  # fmt: skip
        return [weights, momenta]

    assert_as_the_reference(updated, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_adamw_update_matches_reference(instruction_set: str, weight: tuple[int, ...], dtype: torch.dtype) -> None:
    def updated() -> list[Tensor]:
        tensors = call_of(weight).to(dtype).tensors
        weights, first = tensors["weight"].clone(), tensors["weight"].flip(0).contiguous()
        second, largest = first.abs() + 0.5, first.abs() * 2
        code, gate = (tensors[name].to(torch.promote_types(dtype, torch.float32)) for name in ("code", "gate"))
        adamw_update(
            [weights], [first], [second], [largest], [3.0], [None], [[Use(code, gate, tensors["weight"][0])]],
            lr=0.1, beta1=0.9, beta2=0.75, eps=1e-3, weight_decay=0.1, maximize=True,
        )  # fmt: skip
        return [weights, first, second, largest]

    assert_as_the_reference(updated, dtype)


def assert_as_the_reference(updated: Callable[[], list[Tensor]], dtype: torch.dtype) -> None:
    actual = updated()
    with backend.use_reference():
        expected = updated()
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


CONVOLUTIONS = {
    # More channels than any vector or register block has lanes, and a rest.
    "dense": ConvCase("dense", in_channels=19, out_channels=37, padding=1, bias="dictionary", stride=(1, 2)),
    "narrow": ConvCase("narrow", in_channels=19, out_channels=37, input_width=17, output_width=33, gate="shared"),
    "depthwise": ConvCase("depthwise", in_channels=37, out_channels=37, groups=37, padding=1, bias="shared"),
}


@CODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_matches_reference(
    instruction_set: str, name: str, dtype: torch.dtype, code_per_sample: bool
) -> None:
    call = CONVOLUTIONS[name].call(code_per_sample=code_per_sample).to(dtype)
    algorithm = "fused" if fused_serves(call) else "auto"
    call = lay_out(with_algorithm(call, algorithm), "channels_last")
    assert_matches_reference(KF.kshot_conv2d, reference.kshot_conv2d, call)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_matches_reference(
    instruction_set: str, training: bool, dtype: torch.dtype, activation: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: draw(generator, 37) for name in ("weight", "bias")}
    tensors |= {name: draw(generator, 3, 37, 5, 3) for name in ("input", "residual")}
    state = {"running_mean": draw(generator, 37), "running_var": draw(generator, 37).square() + 1}
    call = Call(tensors, {"training": training, "activation": activation}, state).to(dtype)
    call = lay_out(call, "channels_last")
    assert_matches_reference(KF.batch_norm_act, reference.batch_norm_act, call, magnitude=64.0)


def every_bit_pattern(dtype: torch.dtype) -> Tensor:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    return patterns.view(dtype)


@pytest.mark.parametrize("factor", [1.0, 0.75, 1 / 3, 3e-5, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_widen_and_round_as_torch_does(instruction_set: str, dtype: torch.dtype, factor: float) -> None:
    """All 65,536 values, among them subnormal ones, infinities and NaN; ties and overflow come by the factors."""
    values, code = every_bit_pattern(dtype), torch.tensor([factor])
    mixed = KF.effective_weight(values.reshape(1, -1), code)
    torch.testing.assert_close(mixed, (values.float() * code).to(dtype), rtol=0, atol=0, equal_nan=True)


def assert_same_bits(function: Callable[..., Any], call: Call) -> None:
    """One thread or two, and again: the same outputs and gradients to the last bit."""
    by_threads = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        by_threads.append(results(function, call))
    for other in by_threads[1:]:
        for name, result in other.items():
            assert torch.equal(result, by_threads[0][name]), name


@CODES
def test_threads_do_not_change_a_bit(instruction_set: str, code_per_sample: bool) -> None:
    call = call_of((4, 64, 64, 3, 3), code_per_sample=code_per_sample).to(torch.float32)
    assert_same_bits(KF.effective_weight, call)


def test_threads_do_not_change_a_bit_of_many_dictionaries(instruction_set: str) -> None:
    weights = [call_of(shape, gated=False).to(torch.float32).tensors["weight"] for shape in ((3, 64, 700), (3, 9, 5))]

    def mixed(code: Tensor, **named: Tensor) -> list[Tensor]:
        return KF.mix_weights(list(named.values()), code)

    call = Call({"first": weights[0], "second": weights[1], "code": torch.tensor([0.2, 0.3, 0.5])})
    assert_same_bits(mixed, call)


@CODES
@pytest.mark.parametrize("groups", [1, 32], ids=["dense", "depthwise"])
def test_threads_do_not_change_a_bit_of_a_convolution(instruction_set: str, groups: int, code_per_sample: bool) -> None:
    case = ConvCase("any", (24, 24), (3, 3), 4, in_channels=32, out_channels=32, groups=groups, padding=1)
    call = case.call(code_per_sample=code_per_sample).to(torch.float32)
    assert_same_bits(KF.kshot_conv2d, lay_out(with_algorithm(call, "fused"), "channels_last"))


def test_threads_do_not_change_a_bit_of_batch_norm(instruction_set: str) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"input": draw(generator, 8, 32, 24, 24), "weight": draw(generator, 32), "bias": draw(generator, 32)}
    call = Call(tensors, {"running_mean": None, "running_var": None}).to(torch.float32)
    assert_same_bits(KF.batch_norm_act, lay_out(call, "channels_last"))


def test_unknown_instruction_set_is_refused(native_backend: None) -> None:
    before = torch.ops.kshot_ext.cpu_isa()
    assert not torch.ops.kshot_ext.force_cpu_isa("mmx")
    assert torch.ops.kshot_ext.cpu_isa() == before


@pytest.mark.parametrize("operator", [KF.effective_weight, reference.effective_weight])
def test_not_a_number_goes_through(operator: Callable[..., Tensor]) -> None:
    weight = torch.tensor([[[1.0, torch.nan, torch.inf]]])
    assert operator(weight, torch.ones(1)).flatten().tolist()[0] == 1.0
    assert operator(weight, torch.ones(1)).isfinite().flatten().tolist() == [True, False, False]


def test_silu_to_a_few_roundings(instruction_set: str) -> None:
    """Where e^x is made by kernels of ours, over all that float32 can tell from 0 and x, and at its ends."""
    assert torch.ops.kshot_ext.cpu_isa() == instruction_set
    ends = torch.tensor([0.0, -0.0, 87.2, 88.7, 88.8, 1e30, -87.2, -87.4, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([torch.linspace(-86, 86, 50_021), ends]).reshape(-1, 16).requires_grad_()
    exact = x.detach().double().requires_grad_()
    statistics = [torch.zeros(16), torch.ones(16)]
    output = KF.batch_norm_act(x, None, None, *statistics, training=False, eps=0.0, activation="silu")
    expected = torch.nn.functional.silu(exact)
    torch.testing.assert_close(output.double(), expected, rtol=4e-7, atol=1e-36, equal_nan=True)
    (slope,) = torch.autograd.grad(output.sum(), x)
    (exact_slope,) = torch.autograd.grad(expected.sum(), exact)
    finite = exact.isfinite()
    torch.testing.assert_close(slope[finite].double(), exact_slope[finite], rtol=2e-5, atol=5e-7)
