"""Clipping equals torch's on the dense gradients, without making them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot, own
from kshot_ext.optim import clip_grad_norm_

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
INF = float("inf")


class Owner:
    """Stands in for an optimiser."""


OWNER = Owner()


def gradients(uses: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Parameters with gradients: two compact ones, of uses of several widths, a dense one and none."""
    torch.manual_seed(0)
    shapes = (4, 5, 3, 2), (3, 2, 6), (7,), (2, 2)
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    for parameter in parameters[:2]:
        own(parameter, OWNER)
        for use in range(uses):
            code, gate = torch.randn(len(parameter)), torch.randn(2) if use == 1 else None
            weight = KF.effective_weight(parameter, code, gate=gate, out_channels=2 if use else None)
            (weight * torch.randn_like(weight)).sum().backward()
        assert isinstance(gradient_in_slot(parameter), SumOfUses)
    parameters[2].grad = torch.randn(7, dtype=dtype)
    return parameters


def dense_twins(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    twins = copy.deepcopy(parameters)
    for parameter, twin in zip(parameters, twins):
        gradient = gradient_in_slot(parameter)
        if gradient is not None:
            twin.grad = copy.copy(gradient).dense() if isinstance(gradient, SumOfUses) else gradient.clone()
    return twins


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("norm_type", [2, 1, 3.5, INF, "inf", 0.5, 0, -1, -INF])
@pytest.mark.parametrize("uses", [1, 3])
def test_equals_torchs(uses: int, norm_type: float, foreach: bool | None) -> None:
    parameters = gradients(uses)
    twins = dense_twins(parameters)
    expected = torch.nn.utils.clip_grad_norm_(twins, 0.5, norm_type, foreach=foreach)
    norm = clip_grad_norm_(parameters, 0.5, norm_type, foreach=foreach)
    stays = norm_type == 2 or (uses == 1 and float(norm_type) > 0)
    assert [isinstance(gradient_in_slot(p), SumOfUses) for p in parameters[:2]] == [stays] * 2
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close([p.grad for p in parameters[:3]], [p.grad for p in twins[:3]])
    assert parameters[3].grad is None


def test_a_small_gradient_stays_as_it_is() -> None:
    parameters = gradients(1)
    twins = dense_twins(parameters)
    clip_grad_norm_(iter(parameters), 1e6)
    assert torch.equal(parameters[0].grad, twins[0].grad)


def test_one_parameter_and_none() -> None:
    parameter = gradients(1)[0]
    expected = dense_twins([parameter])[0].grad.norm()
    torch.testing.assert_close(clip_grad_norm_(parameter, 1.0), expected)
    assert clip_grad_norm_([], 1.0) == 0
    assert clip_grad_norm_([nn.Parameter(torch.ones(2))], 1.0) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    parameters = gradients(2, dtype)
    twins = dense_twins(parameters)
    norm, expected = clip_grad_norm_(parameters, 0.5), torch.nn.utils.clip_grad_norm_(twins, 0.5)
    assert norm.dtype == expected.dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(norm, expected, rtol=tolerance, atol=0)
    for parameter, twin in zip(parameters[:3], twins):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [INF, float("nan")])
@pytest.mark.parametrize("uses", [1, 2])
def test_a_norm_that_is_not_finite(uses: int, value: float) -> None:
    parameters = gradients(uses)
    gradient_in_slot(parameters[0]).uses[0].grad[0, 0] = value
    with pytest.raises(RuntimeError, match="is non-finite"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[2].grad.isfinite().all()
    assert not clip_grad_norm_(parameters, 1.0).isfinite()


def test_the_norm_of_uses_that_cancel_out_is_a_number() -> None:
    parameter = nn.Parameter(torch.randn(4, 5, 3))
    own(parameter, OWNER)
    code = torch.randn(4)
    for sign in (1, -1):
        (sign * KF.effective_weight(parameter, code).square().sum()).backward()
    assert clip_grad_norm_(parameter, 1.0) == pytest.approx(0, abs=1e-3)


def test_no_dense_gradient_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = gradients(3)
    monkeypatch.setattr(SumOfUses, "dense", lambda gradient: pytest.fail("a dense gradient was made"))
    before = [[use.code.clone() for use in gradient_in_slot(p).uses] for p in parameters[:2]]
    norm = clip_grad_norm_(parameters, 0.5)
    after: list[list[Tensor]] = [[use.code for use in gradient_in_slot(p).uses] for p in parameters[:2]]
    torch.testing.assert_close(after, [[code * (0.5 / norm.float()) for code in codes] for codes in before])
