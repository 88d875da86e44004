"""Eager calls pass the dispatcher's autograd by, and nothing that looks on can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kshot_ext import functional as KF

OPERATOR = "kshot_ext::effective_weight"


def dictionary_and_code() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 2, 1, 1, requires_grad=True), torch.randn(3, requires_grad=True)


def registered(weight: Tensor, code: Tensor) -> Tensor:
    return torch.ops.kshot_ext.effective_weight(weight, code, None, *weight.shape[1:3])


def gradients(function: Callable[[Tensor, Tensor], Tensor], weight: Tensor, code: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(weight, code).square().sum(), (weight, code))


def test_eager_call_has_an_autograd_function_of_its_own() -> None:
    arguments = dictionary_and_code()
    assert KF.effective_weight(*arguments).grad_fn.name() == "kshot_ext_effective_weightBackward"
    assert registered(*arguments).grad_fn.name() != "kshot_ext_effective_weightBackward"
    torch.testing.assert_close(
        gradients(KF.effective_weight, *arguments), gradients(registered, *arguments), rtol=0, atol=0
    )


def test_no_graph_where_no_gradient_is_needed() -> None:
    weight, code = dictionary_and_code()
    assert not KF.effective_weight(weight.detach(), code.detach()).requires_grad
    with torch.no_grad():
        assert not KF.effective_weight(weight, code).requires_grad


def test_first_derivative_with_create_graph() -> None:
    """Its own derivative is refused, see test_second_derivative.py; here with the operators called directly."""
    weight, code = dictionary_and_code()
    expected = gradients(KF.effective_weight, weight, code)
    for function in (KF.effective_weight, registered):
        found = torch.autograd.grad(function(weight, code).square().sum(), (weight, code), create_graph=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="kshot_ext::effective_weight_backward has no derivative"):
            found[0].sum().backward()


def test_recomputation_inside_of_the_backward_pass_has_gradients() -> None:
    """Hooks of saved tensors run while the formula does, and may be differentiated themselves."""
    weight, code = dictionary_and_code()

    def twice(weight: Tensor, code: Tensor) -> Tensor:
        return KF.effective_weight(weight, KF.effective_weight(weight, code).flatten()[:3].sin())

    mixed, recomputed = twice(weight, code), checkpoint(twice, weight, code, use_reentrant=False)
    direction = torch.ones_like(mixed)  # no operation behind ours, whose formula so starts the recomputation
    expected = torch.autograd.grad(mixed, (weight, code), direction)
    torch.testing.assert_close(torch.autograd.grad(recomputed, (weight, code), direction), expected, rtol=0, atol=0)


def test_vmap_sees_the_operator() -> None:
    weight, code = dictionary_and_code()
    codes = torch.stack([code, 2 * code])
    batched = torch.func.vmap(lambda code: KF.effective_weight(weight, code))(codes)
    torch.testing.assert_close(batched, KF.effective_weight(weight, codes))


def test_vmap_of_the_backward_pass() -> None:
    weight, code = dictionary_and_code()
    mixed = KF.effective_weight(weight, code)
    directions = torch.randn(2, *mixed.shape)
    batched = torch.autograd.grad(mixed, code, directions, is_grads_batched=True, retain_graph=True)[0]
    single = [torch.autograd.grad(mixed, code, direction, retain_graph=True)[0] for direction in directions]
    torch.testing.assert_close(batched, torch.stack(single))


def test_gradient_flows_through_a_tensor_that_left_a_function_transform() -> None:
    weight, code = dictionary_and_code()
    left: list[Tensor] = []

    def function(code: Tensor) -> Tensor:
        left.append(2 * code)
        return code.sum()

    torch.func.grad(function)(code)
    found = torch.autograd.grad(KF.effective_weight(weight, left[0]).sum(), code)
    torch.testing.assert_close(found, torch.autograd.grad(registered(weight, 2 * code).sum(), code))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracer_sees_the_operator() -> None:
    traced = torch.jit.trace(KF.effective_weight, dictionary_and_code(), check_trace=False)
    assert OPERATOR in [node.kind() for node in traced.graph.nodes()]


def test_overriding_tensor_sees_the_operator() -> None:
    seen = []

    class Overriding(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append((str(function), torch.is_grad_enabled()))
            return super().__torch_function__(function, types, args, kwargs)

    weight, code = dictionary_and_code()
    mixed = KF.effective_weight(weight.as_subclass(Overriding), code)
    assert isinstance(mixed, Overriding)
    assert [grad_enabled for name, grad_enabled in seen if "effective_weight" in name] == [True]
