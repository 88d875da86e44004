"""The end of a chain: norm with given moments, residual and activation."""

from __future__ import annotations

import pytest
import torch
from calls import DTYPES, Call, assert_compiles, assert_gradients_check, assert_matches_reference, assert_rejects, draw
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.reference.batch_norm_act import ACTIVATIONS


def end_call(size=(3, 5, 4, 7), *, per_sample=False, affine=True, residual=True, activation="silu") -> Call:
    generator = torch.Generator().manual_seed(0)
    n, channels = size[:2]
    tensors = {"input": draw(generator, *size), "mean": draw(generator, channels)}
    tensors["variance"] = draw(generator, channels) ** 2 + 1
    if affine:
        tensors["norm_weight"] = draw(generator, *([n] if per_sample else []), channels)
        tensors["norm_bias"] = draw(generator, channels)
    if residual:
        tensors["residual"] = draw(generator, *size)
    return Call(tensors, {"activation": activation})


def end(function, input, activation, mean, variance, norm_weight=None, norm_bias=None, residual=None) -> Tensor:
    return function(input, KF.ChannelNorm(mean, variance, norm_weight, norm_bias, 1e-3, activation), residual)


def ours(**arguments) -> Tensor:
    return end(KF.chained_norm_act, **arguments)


def twin(**arguments) -> Tensor:
    return end(reference.chained_norm_act, **arguments)


CALLS = {
    "residual": end_call(),
    "no_residual": end_call(residual=False, activation="relu"),
    "no_affine": end_call(affine=False),
    "per_sample": end_call(per_sample=True, activation="hardswish"),
    "many_pieces": end_call((2, 33, 60, 61), activation="identity"),
    "empty_batch": end_call((0, 5, 4, 7)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_matches_reference(name: str, dtype: torch.dtype) -> None:
    assert_matches_reference(ours, twin, CALLS[name].to(dtype), 16.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_instruction_set_matches_reference(instruction_set: str, activation: str) -> None:
    assert_matches_reference(ours, twin, end_call((2, 35, 3, 9), activation=activation).to(torch.float32), 16.0)


def test_gradients_equal_finite_differences() -> None:
    assert_gradients_check(ours, end_call((2, 3, 2, 2), per_sample=True))


def test_compiles() -> None:
    assert_compiles(ours, [CALLS["residual"].to(torch.float32)])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_a_residual_of_another_dtype_is_not_rounded(half: torch.dtype) -> None:
    tensors = {name: tensor.float() for name, tensor in end_call(activation="identity").tensors.items()}
    tensors["input"] = tensors["input"].to(half)
    exact = twin(**{name: tensor.double() for name, tensor in tensors.items()}, activation="identity")
    actual = ours(**tensors, activation="identity")
    assert actual.dtype == half
    assert (actual == exact.to(half)).double().mean() > 0.98  # rounded once; rounding twice is off for every third


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual": torch.zeros(3, 5, 4, 6)}, r"residual must have shape \[3, 5, 4, 7\]"),
        ({"variance": torch.zeros(6)}, "norm.variance must be"),
        ({"activation": "tanh"}, "norm.activation must be one of"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    call = end_call().to(torch.float32)
    assert_rejects(ours, {**call.tensors, **call.options, **change}, ValueError, message)
