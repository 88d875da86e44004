"""Mixing many dictionaries in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_exact_on_integers,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
    draw,
)
from cases import lay_out
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference

Shapes = Sequence[tuple[int, ...]]

SHAPES: dict[str, Shapes] = {
    "one": [(3, 5, 2, 3, 3)],
    "network": [(3, 7, 3, 3, 3), (3, 7), (3, 11, 7, 1, 1), (3, 13, 11), (3, 5, 2, 3)],
    "one_copy": [(1, 5, 2), (1, 5)],
    "longer_than_a_chunk": [(2, 3, 1031), (2, 4099), (2, 1, 1)],
}
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


def mixing(module: ModuleType) -> Callable[..., list[Tensor]]:
    """`module.mix_weights` with the dictionaries as named arguments."""
    return lambda code, **weights: module.mix_weights(list(weights.values()), code)


def call_of(shapes: Shapes, *, code_per_sample: bool = False, samples: int = 3, seed: int = 0) -> Call:
    generator = torch.Generator().manual_seed(seed)
    weights = {f"weight{index}": draw(generator, *shape) for index, shape in enumerate(shapes)}
    shots = shapes[0][0]
    return Call({**weights, "code": draw(generator, *([samples, shots] if code_per_sample else [shots]))})


@CODES
@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_matches_reference(shapes: Shapes, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = lay_out(call_of(shapes, code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(mixing(KF), mixing(reference), call)


@CODES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", [SHAPES["one"], SHAPES["one_copy"]], ids=["one", "one_copy"])
def test_exact_on_integers(shapes: Shapes, dtype: torch.dtype, code_per_sample: bool) -> None:
    assert_exact_on_integers(mixing(KF), mixing(reference), call_of(shapes, code_per_sample=code_per_sample).to(dtype))


@CODES
def test_gradcheck(code_per_sample: bool) -> None:
    call = call_of([(2, 3, 2), (2, 3), (2, 1, 2, 1, 2)], code_per_sample=code_per_sample)
    assert_gradients_check(lambda **tensors: tuple(mixing(KF)(**tensors)), call)


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    calls = [call_of(shapes, code_per_sample=code_per_sample).to(torch.float32) for shapes in SHAPES.values()]
    assert_compiles(mixing(KF), calls)


@CODES
def test_equals_effective_weight_of_each(code_per_sample: bool) -> None:
    tensors = call_of(SHAPES["network"], code_per_sample=code_per_sample).to(torch.float32).tensors
    code = tensors.pop("code")
    mixed = KF.mix_weights(list(tensors.values()), code)
    for weight, result in zip(tensors.values(), mixed, strict=True):
        assert torch.equal(result, KF.effective_weight(weight, code))


def test_only_the_gradients_asked_for() -> None:
    first, second = torch.ones(2, 3, requires_grad=True), torch.ones(2, 4)
    mixed = KF.mix_weights([first, second], torch.tensor([0.25, 0.75]))
    mixed[0].sum().backward()
    assert second.grad is None
    assert first.grad.tolist() == [[0.25] * 3, [0.75] * 3]


def test_a_result_that_is_not_used_has_a_zero_gradient() -> None:
    weights = [torch.ones(2, 3, requires_grad=True), torch.ones(2, 4, requires_grad=True)]
    code = torch.tensor([0.25, 0.75], requires_grad=True)
    KF.mix_weights(weights, code)[1].sum().backward()
    assert weights[0].grad is None or not weights[0].grad.any()
    assert code.grad.tolist() == [4.0, 4.0]


def test_no_dictionary_gives_no_result() -> None:
    assert KF.mix_weights([], torch.ones(3)) == []


GOOD = torch.zeros(3, 4)
REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "no_tensor": ({"weights": [GOOD, 1.0]}, TypeError, r"weights\[1\] must be a tensor \[K, .*got float"),
    "rank": ({"weights": [GOOD, torch.zeros(3)]}, ValueError, r"weights\[1\] must have shape \[K, .*got \[3\]"),
    "no_copy": ({"weights": [torch.zeros(0, 4)]}, ValueError, r"weights\[0\] must hold at least one copy"),
    "shots": ({"weights": [GOOD, torch.zeros(2, 4)]}, ValueError, r"code must have K = 2 entries.*got shape \[3\]"),
    "dtype": ({"weights": [GOOD, GOOD.double()]}, TypeError, r"weights\[1\] must be torch.float32 like weights\[0\]"),
    "integers": ({"weights": [GOOD.long()]}, TypeError, r"weights\[0\] must be one of .*got torch.int64"),
    "device": ({"weights": [GOOD, GOOD.to("meta")]}, ValueError, "must be on (cpu|meta).*, got (cpu|meta)"),
    "code_rank": ({"code": torch.zeros(1, 1, 3)}, ValueError, r"code must have shape \[K\] or \[N, K\]"),
    "code_device": ({"code": torch.zeros(3, device="meta")}, ValueError, "code must be on cpu like weight, got meta"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.mix_weights, {"weights": [GOOD], "code": torch.zeros(3), **changes}, error, message)
