"""What the native operators do under function transforms and forward-mode differentiation.

There the public functions run the reference (`backend.under_transform`), so that an operator meets a transform in two
cases only: the backward pass of an ordinary call is batched (`is_grads_batched=True`), or a program calls
`torch.ops.kshot_ext` itself. Then batching makes one call for each entry, and derivatives other than the operator's own
formula are an error: torch would take its results for constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves, tree_map

from kshot_ext import backend


def register_rules(name: str, backward: Callable[..., Any], setup_context: Callable[..., None] | None = None) -> None:
    """Register the autograd formula of `kshot_ext::NAME`, and its rule for `torch.func.vmap`.

    Args:
        name: name of the operator.
        backward, setup_context: the formula, as `torch.library.register_autograd` takes it.
    """
    operator = f"kshot_ext::{name}"
    torch.library.register_autograd(operator, backward, setup_context=setup_context, lib=_library)
    torch.library.register_vmap(operator, _one_by_one(getattr(torch.ops.kshot_ext, name)), lib=_library)


class _RefusingLibrary(torch.library.Library):
    """Lets the kernels that `torch.library` makes of these rules refuse what they would pass over or trip over."""

    def impl(self, op_name: Any, fn: Callable[..., Any], dispatch_key: str = "", **options: Any) -> None:
        if dispatch_key == "Autograd":
            fn = _refusing_derivatives(op_name, fn)
        elif dispatch_key == "FuncTorchBatched":
            fn = _refusing_ended_vmaps(op_name, fn)
        torch.library.Library.impl(self, op_name, fn, dispatch_key, **options)


_library = _RefusingLibrary("kshot_ext", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own __init__


def _refusing_derivatives(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(keyset: Any, *args: Any) -> Any:
        if backend.under_transform():
            tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
                raise RuntimeError(_explanation(name, "forward-mode derivative"))
            functorch = torch._C._are_functorch_transforms_active()
            if functorch and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
                raise RuntimeError(_explanation(name, "gradient under torch.func"))
        return kernel(keyset, *args)

    return call


def _refusing_ended_vmaps(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(keyset: Any, *args: Any) -> Any:
        if not backend.under_transform():
            raise RuntimeError(
                f"kshot_ext::{name} got a tensor of a torch.func.vmap that has ended, such as a code that was set "
                "inside of it: give it another one (kshot_ext.set_code)"
            )
        return kernel(keyset, *args)

    return call


def _explanation(name: str, wanted: str) -> str:
    return (
        f"kshot_ext::{name}, a native kernel of kshot_ext, has no {wanted}. Make the whole computation inside of the "
        "transform, by the functions of kshot_ext.functional, which run the reference there; or run all of it under "
        "`with kshot_ext.backend.use_reference():`."
    )


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Rule of `torch.library.register_vmap`: one call for each entry of the batch, their results stacked."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        if info.batch_size == 0:
            raise ValueError(f"{operator} has no result for a batch of no entries: expected at least one to vmap over")

        def entry(index: int) -> Any:
            def pick(arg: Any, dim: int | None) -> Any:
                return arg if dim is None else arg.select(dim, index)

            return operator(*tree_map(pick, args, in_dims))

        results = [entry(index) for index in range(info.batch_size)]
        stacked = tree_map(lambda *parts: torch.stack(parts), *results)
        return stacked, tree_map(lambda _: 0, stacked)

    return rule
