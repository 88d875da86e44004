"""Every operator under every function transform; right values come from ordinary calls of the native kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad
from transforms import FUNCTIONS, MEAN, VARIANCE, Function, directions, each, operator, squared

from kshot_ext import functional as KF

STEP = 1e-5  # of central differences: their error is about its square

# Right values: ordinary calls, loops over them, and differences of them.


def gradients(loss: Function, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(loss(*leaves), leaves)


def difference(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Derivative along `directions`."""
    ahead, behind = (
        function(*(x + sign * STEP * direction for x, direction in zip(tensors, directions(tensors))))
        for sign in (1, -1)
    )
    pairs = [(ahead, behind)] if isinstance(ahead, Tensor) else zip(ahead, behind)
    return tuple((a - b) / (2 * STEP) for a, b in pairs)


def rows_of_jacobian(function: Function, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    rows = [torch.autograd.grad(value, leaves, retain_graph=True) for value in output.flatten()]
    return tuple(torch.stack(column).reshape(*output.shape, *x.shape) for column, x in zip(zip(*rows), tensors))


def entries(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return [tuple(factor * tensor for tensor in tensors) for factor in (1.0, 2.0, -0.5)]


def stacked(tensors: tuple[Tensor, ...], dim: int = 0) -> list[Tensor]:
    return [torch.stack(values, dim) for values in zip(*entries(tensors))]


# Pairs: a transform of a function at tensors, and what it must give.


def vmap_over_each_argument(function: Function, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    batches = stacked(tensors)
    return [
        func.vmap(function, tuple(0 if j == i else None for j in each(tensors)))(*tensors[:i], batch, *tensors[i + 1 :])
        for i, batch in enumerate(batches)
    ]


def loop_over_each_argument(function: Function, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [
        torch.stack([function(*tensors[:i], entry[i], *tensors[i + 1 :]) for entry in entries(tensors)])
        for i in each(tensors)
    ]


def tangent_in_a_dual_level(function: Function, tensors: tuple[Tensor, ...]) -> Tensor | None:
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, tensors, directions(tensors))
        return forward_ad.unpack_dual(function(*duals)).tangent


def batched_backward(function: Function, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    units = torch.eye(output.numel(), dtype=torch.float64).reshape(-1, *output.shape)
    found = torch.autograd.grad(output, leaves, units, is_grads_batched=True)
    return tuple(gradient.reshape(*output.shape, *x.shape) for gradient, x in zip(found, tensors))


def backward_under_vmap(function: Function, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    units = torch.eye(output.numel(), dtype=torch.float64).reshape(-1, *output.shape)
    found = func.vmap(lambda unit: torch.autograd.grad(output, leaves, unit))(units)
    return tuple(gradient.reshape(*output.shape, *x.shape) for gradient, x in zip(found, tensors))


TRANSFORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "jvp": (lambda f, x: func.jvp(f, x, directions(x))[1], difference),
    "linearize": (lambda f, x: func.linearize(f, *x)[1](*directions(x)), difference),
    "dual level": (tangent_in_a_dual_level, difference),
    "jacfwd": (lambda f, x: func.jacfwd(f, each(x))(*x), rows_of_jacobian),
    "jacrev": (lambda f, x: func.jacrev(f, each(x))(*x), rows_of_jacobian),
    "functional.jacobian forward": (
        lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
        rows_of_jacobian,
    ),
    "functional.jacobian batched": (
        lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
        rows_of_jacobian,
    ),
    "is_grads_batched": (batched_backward, rows_of_jacobian),
    "vmap of a backward pass": (backward_under_vmap, rows_of_jacobian),
    "grad": (lambda f, x: func.grad(squared(f), each(x))(*x), lambda f, x: gradients(squared(f), x)),
    "vjp": (
        lambda f, x: func.vjp(squared(f), *x)[1](torch.tensor(1.0).double()),
        lambda f, x: gradients(squared(f), x),
    ),
    "vmap": (vmap_over_each_argument, loop_over_each_argument),
    "vmap of vmap, innermost dimension": (
        lambda f, x: func.vmap(func.vmap(f, -1))(*[torch.stack([3 * batch, batch]) for batch in stacked(x, -1)]),
        lambda f, x: torch.stack(
            [torch.stack([f(*(factor * t for t in entry)) for entry in entries(x)]) for factor in (3, 1)]
        ),
    ),
    "vmap of grad": (
        lambda f, x: func.vmap(func.grad(squared(f), each(x)))(*stacked(x)),
        lambda f, x: [torch.stack(parts) for parts in zip(*(gradients(squared(f), entry) for entry in entries(x)))],
    ),
    "grad of vmap": (
        lambda f, x: func.grad(lambda *batch: func.vmap(squared(f))(*batch).sum(), each(x))(*stacked(x)),
        lambda f, x: [torch.stack(parts) for parts in zip(*(gradients(squared(f), entry) for entry in entries(x)))],
    ),
    "vmap of jvp": (
        lambda f, x: func.vmap(lambda *tangents: func.jvp(f, x, tangents)[1])(*stacked(directions(x))),
        lambda f, x: torch.stack([factor * difference(f, x)[0] for factor in (1.0, 2.0, -0.5)]),
    ),
    "jvp of grad": (
        lambda f, x: func.jvp(func.grad(squared(f), each(x)), x, directions(x))[1],
        lambda f, x: difference(lambda *at: gradients(squared(f), at), x),
    ),
    "hessian": (
        lambda f, x: [
            sum(torch.tensordot(block, along, along.dim()) for block, along in zip(row, directions(x)))
            for row in func.hessian(squared(f), each(x))(*x)
        ],
        lambda f, x: difference(lambda *at: gradients(squared(f), at), x),
    ),
    "gradient of a tangent": (
        lambda f, x: func.grad(lambda *at: func.jvp(squared(f), at, directions(x))[1], each(x))(*x),
        lambda f, x: difference(lambda *at: gradients(squared(f), at), x),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_right(name: str, transform: str) -> None:
    (function, tensors), (transformed, right) = operator(name), TRANSFORMS[transform]
    found, expected = transformed(function, tensors), right(function, tensors)
    found = [found] if isinstance(found, Tensor) else found
    expected = [expected] if isinstance(expected, Tensor) else expected
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck_in_both_modes_one_by_one_and_batched(name: str) -> None:
    """Undefined gradients of the output included."""
    function, tensors = operator(name)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, **batched)


def test_all_operators_are_here() -> None:
    types = {name for name in KF.__all__ if isinstance(getattr(KF, name), type)}
    assert set(KF.__all__) - types <= FUNCTIONS.keys()


COMPILED: dict[str, tuple[Callable[[Function, Tensor], Any], Callable[[Function, Tensor], Any]]] = {
    "grad": (lambda f, x: func.grad(squared(f))(x), lambda f, x: gradients(squared(f), (x,))[0]),
    "vmap": (lambda f, x: func.vmap(f)(torch.stack([x, 2 * x])), lambda f, x: torch.stack([f(x), f(2 * x)])),
    "jvp": (lambda f, x: func.jvp(f, (x,), (x,))[1], lambda f, x: f(x)),  # of a function that is linear
}


@pytest.mark.parametrize("transform", COMPILED)
def test_is_right_inside_of_compiled_code(transform: str) -> None:
    """A compilation takes a second or two."""
    function, (input, weight, code, gate) = operator("kshot_conv2d_depthwise")
    transformed, right = COMPILED[transform]

    def of_code(code: Tensor) -> Tensor:
        return function(input, weight, code, gate)

    torch.compiler.reset()
    compiled = torch.compile(lambda code: transformed(of_code, code), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(code), right(of_code, code))


def test_running_statistics_move_under_grad_and_jvp_as_in_an_ordinary_call() -> None:
    _, (input, *_) = operator("batch_norm_act")

    def loss(input: Tensor, statistics: list[Tensor]) -> Tensor:
        return KF.batch_norm_act(input, None, None, *statistics).square().sum()

    ordinary, under_grad, under_jvp = ([MEAN.clone(), VARIANCE.clone()] for _ in range(3))
    loss(input, ordinary)
    func.grad(loss)(input, under_grad)
    func.jvp(lambda input: loss(input, under_jvp), (input,), (input,))
    for statistics in (under_grad, under_jvp):
        torch.testing.assert_close(statistics, ordinary)


def test_running_statistics_of_a_batched_input_must_be_batched() -> None:
    """As for torch's own batch norm."""
    _, (input, *_) = operator("batch_norm_act")

    def function(input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return KF.batch_norm_act(input, None, None, mean, variance)

    inputs, statistics = torch.stack([input, 2 * input]), (MEAN.clone(), VARIANCE.clone())
    with pytest.raises(RuntimeError, match="running_mean or running_var, which will be updated in place, were not"):
        func.vmap(function, (0, None, None))(inputs, *statistics)
    batched = [tensor.repeat(2, 1) for tensor in statistics]
    func.vmap(function)(inputs, *batched)
    function(inputs[1], *statistics)
    torch.testing.assert_close([tensor[1] for tensor in batched], [*statistics])
