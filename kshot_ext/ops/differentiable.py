"""Native operators as functions whose gradient costs little, and which can be differentiated once.

`torch.library.register_autograd` makes an operator differentiable wherever it is called from, but by Python code
that the dispatcher runs, forward and backward; on small tensors this takes longer than the kernels. The functions
made here pass it by in ordinary eager calls: an autograd function applies the same formula, and the kernels are
called below autograd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from kshot_ext import backend
from kshot_ext.ops.kernel_names import named, profiling
from kshot_ext.ops.transforms import register_rules

# torch.library itself uses this guard, but it is no public name. Without it calls are as right, only slower.
below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


class Operator(NamedTuple):
    """`kshot_ext::NAME` as functions of positional arguments.

    Attributes:
        call: what serves any call.
        recorded: a call that autograd records, where `must_be_seen` is false and no tensor wrapped by a transform.
        unrecorded: one that it does not record.
    """

    call: Callable[..., Any]
    recorded: Callable[..., Any]
    unrecorded: Callable[..., Any]


def differentiable(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Operator:
    """The operator `kshot_ext::NAME` with its autograd formula.

    Args:
        name: name of the operator.
        forward: takes ctx and the operator's arguments; calls it `below_autograd`, unless it is given the `output` by
            that name; keeps in ctx what `backward` needs; returns the output. It is one function, and calls none, as
            on small tensors each takes time that shows.
        backward: as `torch.library.register_autograd` takes it.
    """

    @backend.on_load
    def register() -> None:
        register_rules(name, backward, lambda ctx, inputs, output: forward(ctx, *inputs, output=output))

    formula = formula_of(name, forward, backward)

    def unrecorded(*inputs: Any) -> Any:
        with below_autograd():
            return getattr(named if profiling() else torch.ops.kshot_ext, name)(*inputs)

    def call(*inputs: Any) -> Any:
        if must_be_seen(inputs):
            return getattr(torch.ops.kshot_ext, name)(*inputs)
        if torch.is_grad_enabled():
            for x in inputs:
                if isinstance(x, Tensor) and x.requires_grad:
                    return formula.apply(*inputs)
        return unrecorded(*inputs)

    return Operator(call, recorded_function(formula), unrecorded)


def formula_of(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> type[torch.autograd.Function]:
    """The autograd function of these rules; `recorded_function` calls it."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"kshot_ext_{name}", (torch.autograd.Function,), methods)


def recorded_function(formula: type[torch.autograd.Function]) -> Callable[..., Any]:
    """A call of the autograd function that autograd records, where no transform is at work.

    `Function.apply` looks for function transforms and unwraps what they left, which takes as long as the rest of it.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, formula).apply  # type: ignore[misc]  # of its C++ base
    return apply


def is_recorded(operands: Iterable[Tensor | None]) -> bool:
    """Whether autograd records a call with these operands."""
    return torch.is_grad_enabled() and any(operand is not None and operand.requires_grad for operand in operands)


def not_differentiable(name: str) -> Callable[..., Any]:
    """The backward operator `kshot_ext::NAME` as a function; its derivative is an error, not a silent zero."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"kshot_ext::{name} has no derivative: the native kernels of kshot_ext differentiate once. "
            "For second derivatives run under `with kshot_ext.backend.use_reference():` "
            "or set KSHOT_EXT_BACKEND=reference."
        )

    @backend.on_load
    def register() -> None:
        register_rules(name, refuse)

    def call(*inputs: Any) -> Any:
        # With create_graph gradients are enabled, and the registered formula refuses.
        if torch.is_grad_enabled() or must_be_seen(inputs):
            return getattr(torch.ops.kshot_ext, name)(*inputs)
        with below_autograd():
            return getattr(named if profiling() else torch.ops.kshot_ext, name)(*inputs)

    return call


def must_be_seen(inputs: tuple[Any, ...]) -> bool:
    """Whether a compiler, function transform, tracer or overriding tensor must be shown the operator itself."""
    return (
        torch.compiler.is_compiling()
        or backend.under_transform()
        or torch.jit.is_tracing()
        or has_torch_function(inputs)
    )
