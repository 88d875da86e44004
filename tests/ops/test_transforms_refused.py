"""Derivatives that the native kernels do not have are errors, which name the way out; never zero, never None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad, functional
from transforms import directions, operator, squared

from kshot_ext import backend

NATIVE = ("kshot_conv2d_depthwise", "effective_weight", "mix_weights", "batch_norm_act_dictionaries")
WAY_OUT = r"`with kshot_ext.backend.use_reference\(\):`"
SECOND_DERIVATIVES: dict[str, Callable[..., Any]] = {
    "jvp": lambda f, x: functional.jvp(f, x, directions(x)),
    "hvp": lambda f, x: functional.hvp(squared(f), x, directions(x)),
    "hessian": lambda f, x: functional.hessian(squared(f), x),
    "hessian batched": lambda f, x: functional.hessian(squared(f), x, vectorize=True),
}


@pytest.mark.parametrize("derivative", SECOND_DERIVATIVES)
@pytest.mark.parametrize("name", NATIVE)
def test_second_derivatives_in_reverse_mode_need_the_reference(name: str, derivative: str) -> None:
    function, tensors = operator(name)
    with pytest.raises(RuntimeError, match="has no derivative.*" + WAY_OUT):
        SECOND_DERIVATIVES[derivative](function, tensors)
    with backend.use_reference():
        SECOND_DERIVATIVES[derivative](function, tensors)


def backward_in_a_dual_level(output: Tensor, leaves: list[Tensor]) -> None:
    one = torch.ones_like(output)
    with forward_ad.dual_level():
        torch.autograd.grad(output, leaves, forward_ad.make_dual(one, one))


def backward_under_jvp(output: Tensor, leaves: list[Tensor]) -> None:
    one = torch.ones_like(output)
    func.jvp(lambda cotangent: torch.autograd.grad(output, leaves, cotangent), (one,), (one,))


@pytest.mark.parametrize("backward", [backward_in_a_dual_level, backward_under_jvp])
@pytest.mark.parametrize("name", NATIVE)
def test_forward_mode_over_a_native_backward_pass(name: str, backward: Callable[..., None]) -> None:
    function, tensors = operator(name)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    with pytest.raises(RuntimeError, match="_backward, a native kernel.*no forward-mode derivative.*" + WAY_OUT):
        backward(function(*leaves), leaves)


RAW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "effective_weight": lambda weight, code: torch.ops.kshot_ext.effective_weight(weight, code, None, 3, 1),
    "mix_weights": lambda weight, code: torch.ops.kshot_ext.mix_weights([weight], code)[0],
    "fused_conv2d": lambda weight, code: torch.ops.kshot_ext.fused_conv2d(
        weight[:, :, 0], weight, code, None, None, 3, [1, 1], [1, 1, 1, 1], [1, 1], True, False
    ),
    "batch_norm_act": lambda weight, code: torch.ops.kshot_ext.batch_norm_act(
        weight[:, :, 0], code.sum().expand(3), None, None, None, None, None, 1e-5, 1
    )[0],
}


def raw_operator(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """`torch.ops.kshot_ext.NAME` as a function of a code, and a code."""
    generator = torch.Generator().manual_seed(0)
    weight, code = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 3, 1, 3, 3), (2,)))
    return lambda code: RAW[name](weight, code), code


@pytest.mark.parametrize("name", RAW)
def test_a_raw_operator_has_no_forward_mode(name: str) -> None:
    raw, code = raw_operator(name)
    message = f"kshot_ext::{name}, a native kernel.*no forward-mode derivative.*{WAY_OUT}"
    with pytest.raises(RuntimeError, match=message):
        func.jvp(raw, (code,), (code,))
    with pytest.raises(RuntimeError, match=message), forward_ad.dual_level():
        raw(forward_ad.make_dual(code, code))


@pytest.mark.parametrize("name", RAW)
def test_a_raw_operator_has_no_gradient_under_torch_func(name: str) -> None:
    raw, code = raw_operator(name)
    with pytest.raises(RuntimeError, match=f"kshot_ext::{name}, a native kernel.*no gradient under torch.func"):
        func.grad(lambda code: raw(code).sum())(code)
    code.requires_grad_()
    with forward_ad.dual_level():  # the ordinary one it has, also beside tangents of others
        torch.autograd.grad(raw(code).sum(), code)


@pytest.mark.parametrize("name", RAW)
def test_a_raw_operator_is_batched_entry_by_entry(name: str) -> None:
    raw, code = raw_operator(name)
    codes = torch.stack([code, 2 * code], -1)
    torch.testing.assert_close(func.vmap(raw, -1)(codes), torch.stack([raw(code) for code in codes.T]))
    with pytest.raises(ValueError, match="no result for a batch of no entries: expected at least one to vmap over"):
        func.vmap(raw)(codes[:0])


def test_code_compiled_before_refuses_tangents() -> None:
    """Its graph holds native operators. Under a transform of torch.func, though, torch runs the code itself."""
    function, (input, weight, code, gate) = operator("kshot_conv2d_depthwise")
    torch.compiler.reset()
    compiled = torch.compile(lambda code: function(input, weight, code, gate), backend="eager")
    expected = compiled(code)  # linear in the code
    with pytest.raises(RuntimeError, match="no forward-mode derivative"), forward_ad.dual_level():
        compiled(forward_ad.make_dual(code, code))
    torch.testing.assert_close(func.jvp(compiled, (code,), (code,))[1], expected)
