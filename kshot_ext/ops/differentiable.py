"""Native operators as functions whose gradient costs little, and which can be differentiated once.

`torch.library.register_autograd` makes an operator differentiable wherever it is called from, but by Python code
that the dispatcher runs, forward and backward; on small tensors this takes longer than the kernels. The functions
made here pass it by in ordinary eager calls: an autograd function applies the same formula, and the kernels are
called below autograd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from kshot_ext import backend
from kshot_ext.ops.transforms import register_rules

# torch.library itself uses this guard, but it is no public name. Without it calls are as right, only slower.
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)


def differentiable(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """The operator `kshot_ext::NAME`, with its autograd formula, as a function of positional arguments.

    Args:
        name: name of the operator.
        setup_context, backward: the formula, as `torch.library.register_autograd` takes it.
    """

    @backend.on_load
    def register() -> None:
        register_rules(name, backward, setup_context)

    def forward(ctx, *inputs):
        with _below_autograd():
            output = getattr(torch.ops.kshot_ext, name)(*inputs)
        setup_context(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    formula = type(f"kshot_ext_{name}", (torch.autograd.Function,), methods)

    def call(*inputs):
        if _must_be_seen(inputs):
            return getattr(torch.ops.kshot_ext, name)(*inputs)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return formula.apply(*inputs)
        with _below_autograd():
            return getattr(torch.ops.kshot_ext, name)(*inputs)

    return call


def not_differentiable(name: str) -> Callable[..., Any]:
    """The backward operator `kshot_ext::NAME` as a function; its derivative is an error, not a silent zero."""

    def refuse(ctx, *grads):
        raise RuntimeError(
            f"kshot_ext::{name} has no derivative: the native kernels of kshot_ext differentiate once. "
            "For second derivatives run under `with kshot_ext.backend.use_reference():` "
            "or set KSHOT_EXT_BACKEND=reference."
        )

    @backend.on_load
    def register() -> None:
        register_rules(name, refuse)

    def call(*inputs):
        # With create_graph gradients are enabled, and the registered formula refuses.
        if torch.is_grad_enabled() or _must_be_seen(inputs):
            return getattr(torch.ops.kshot_ext, name)(*inputs)
        with _below_autograd():
            return getattr(torch.ops.kshot_ext, name)(*inputs)

    return call


def _must_be_seen(inputs: tuple[Any, ...]) -> bool:
    """Whether a compiler, function transform, tracer or overriding tensor must be shown the operator itself."""
    return (
        torch.compiler.is_compiling()
        or backend.under_transform()
        or torch.jit.is_tracing()
        or has_torch_function(inputs)
    )
