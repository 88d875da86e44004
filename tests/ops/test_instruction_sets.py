"""The kernels of every instruction set, and their threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from calls import DTYPES, Call, assert_matches_reference, draw, results
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext import functional as KF
from kshot_ext.ops.compact_gradient import Use
from kshot_ext.ops.sgd_update import sgd_update

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
            weights, momenta, None, [Use(code, gate, tensors["weight"][0])],
            lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.01, nesterov=True,
        )  # fmt: skip
        return [weights, momenta]

    actual = updated()
    with backend.use_reference():
        expected = updated()
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


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


@CODES
def test_threads_do_not_change_a_bit(instruction_set: str, code_per_sample: bool) -> None:
    call = call_of((4, 64, 64, 3, 3), code_per_sample=code_per_sample).to(torch.float32)
    by_threads = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        by_threads.append(results(KF.effective_weight, call))
    for other in by_threads[1:]:
        assert all(torch.equal(other[name], by_threads[0][name]) for name in other)


def test_threads_do_not_change_a_bit_of_many_dictionaries(instruction_set: str) -> None:
    weights = [call_of(shape, gated=False).to(torch.float32).tensors["weight"] for shape in ((3, 64, 700), (3, 9, 5))]

    def mixed(code: Tensor, **named: Tensor) -> list[Tensor]:
        return KF.mix_weights(list(named.values()), code)

    call = Call({"first": weights[0], "second": weights[1], "code": torch.tensor([0.2, 0.3, 0.5])})
    by_threads = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        by_threads.append(results(mixed, call))
    assert all(torch.equal(by_threads[0][name], by_threads[1][name]) for name in by_threads[0])


def test_unknown_instruction_set_is_refused(native_backend: None) -> None:
    before = torch.ops.kshot_ext.cpu_isa()
    assert not torch.ops.kshot_ext.force_cpu_isa("mmx")
    assert torch.ops.kshot_ext.cpu_isa() == before


@pytest.mark.parametrize("operator", [KF.effective_weight, reference.effective_weight])
def test_not_a_number_goes_through(operator: Callable[..., Tensor]) -> None:
    weight = torch.tensor([[[1.0, torch.nan, torch.inf]]])
    assert operator(weight, torch.ones(1)).flatten().tolist()[0] == 1.0
    assert operator(weight, torch.ones(1)).isfinite().flatten().tolist() == [True, False, False]
