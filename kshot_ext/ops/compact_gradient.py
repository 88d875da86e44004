"""Compact gradient of a weight dictionary.

The gradient of a dictionary is an outer product: with g = dL/d(effective weight),

    dL/d(weight)[k, o, i, ...] = code[k] * gate[o] * g[o, i, ...]     (summed over the uses of the dictionary)

so a list of (code, gate, g) says all that the K times larger dense tensor says. `CompactGradient` carries such a
list through autograd into a parameter's gradient slot (`ops/gradient_slot.py`). It is no gradient that code is meant
to hold: whatever does more with it than add two of them, or copy its values elsewhere, makes it dense for good, so that
no edit of it can be lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Use(NamedTuple):
    """One use of a dictionary, with a code shared by the batch, in a forward pass."""

    code: Tensor  # [K]
    gate: Tensor | None  # [C_out']
    grad: Tensor  # dL/d(effective weight): [C_out', C_in', *kernel]

    @classmethod
    def of(cls, code: Tensor, gate: Tensor | None, grad: Tensor) -> Use:
        """A use with values of its own: an optimiser may update a code or gate before the dictionary, and autograd
        may give the same gradient to another parameter, for which it is then scaled in place."""
        return cls(code.detach().clone(), None if gate is None else gate.detach().clone(), grad.detach().clone())

    def gated(self) -> Tensor:
        """`gate[o] * grad[o, ...]`."""
        return self.grad if self.gate is None else self.gate.reshape(-1, *(1,) * (self.grad.dim() - 1)) * self.grad


class SumOfUses:
    """The gradient of a dictionary as the list of its uses, until someone asks for the dense tensor.

    Args:
        like: the dictionary, of which shape, strides, dtype and device are kept.
        uses: whose gradients are summed.
    """

    def __init__(self, like: Tensor, uses: tuple[Use, ...]) -> None:
        self.shape, self.stride = like.shape, like.stride()
        self.dtype, self.device = like.dtype, like.device
        self.uses = uses
        self._dense: Tensor | None = None

    @property
    def is_dense(self) -> bool:
        """Whether `dense` was called: then the uses are gone."""
        return self._dense is not None

    @torch.inference_mode(False)  # to whose tensors a later backward pass could not add
    @torch.no_grad()
    def dense(self) -> Tensor:
        """The ordinary tensor that the gradient is from now on: the same one in every call."""
        if self._dense is None:
            self._dense, self.uses = self.total(), ()
        return self._dense

    def total(self) -> Tensor:
        """The sum over the uses, as a new tensor."""
        total = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).zero_()
        for use in self.uses:
            active = (slice(None), *(slice(width) for width in use.grad.shape[:2]))
            total[active] += (use.code.reshape(-1, *(1,) * use.grad.dim()) * use.gated()).to(self.dtype)
        return total


class CompactGradient(Tensor):
    """What carries a `SumOfUses` through autograd; see the file's head.

    Autograd may alias it, add others to it and copy it. Everything else works on the dense tensor, which all aliases
    become.
    """

    content: SumOfUses

    @staticmethod
    def __new__(cls, content: SumOfUses) -> CompactGradient:
        gradient = Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride, dtype=content.dtype, device=content.device
        )
        gradient.content = content
        return gradient

    @classmethod
    def of_use(cls, weight: Tensor, code: Tensor, gate: Tensor | None, grad: Tensor) -> CompactGradient:
        """The gradient of a dictionary `weight` from one use of it."""
        return cls(SumOfUses(weight, (Use.of(code, gate, grad),)))

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes an argument of its own use
        return repr(self.content.dense())

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What Python code calls: it meets the dense tensor, with all that needs memory: `numpy`, pickling, ..."""
        return function(*_dense(args), **_dense(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch.Tensor has it as a plain function, to be replaced
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What C++ code calls: autograd, and whatever else reads gradients there."""
        handler = _HANDLERS.get(function)
        result = NotImplemented if handler is None else handler(*args, **(kwargs or {}))
        return function(*_dense(args), **_dense(kwargs or {})) if result is NotImplemented else result


def _dense(arguments: Any) -> Any:
    return tree_map_only(CompactGradient, lambda gradient: gradient.content.dense(), arguments)


def _alias(gradient: CompactGradient) -> CompactGradient:
    return CompactGradient(gradient.content)


def _joined(left: Tensor, right: Tensor, alpha: float) -> tuple[Use, ...] | None:
    """The uses of a sum; None where it has to be dense. As many uses as copies take as much memory as that."""
    if alpha != 1 or not (isinstance(left, CompactGradient) and isinstance(right, CompactGradient)):
        return None
    sides = left.content, right.content
    uses = sides[0].uses + sides[1].uses
    return None if any(side.is_dense for side in sides) or len(uses) > sides[0].shape[0] else uses


def _add(left: CompactGradient, right: Tensor, *, alpha: float = 1) -> Any:
    uses = _joined(left, right, alpha)
    if uses is None:
        return NotImplemented
    total = copy.copy(left.content)
    total.uses = uses
    return CompactGradient(total)


def _add_in_place(left: CompactGradient, right: Tensor, *, alpha: float = 1) -> Any:
    uses = _joined(left, right, alpha)
    if uses is None:
        return NotImplemented
    left.content.uses = uses
    return left


def _copy_in_place(target: Tensor, source: CompactGradient, non_blocking: bool = False) -> Any:
    """Its values into memory of others, such as a bucket of `DistributedDataParallel`: the source stays as it is."""
    if isinstance(target, CompactGradient) or source.content.is_dense:
        return NotImplemented
    return target.copy_(source.content.total(), non_blocking)


_aten = torch.ops.aten
_HANDLERS: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _alias,
    _aten.alias.default: _alias,
    _aten.add.Tensor: _add,
    _aten.add_.Tensor: _add_in_place,
    _aten.copy_.default: _copy_in_place,
}
