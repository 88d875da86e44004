"""Compact gradient of a weight dictionary.

The gradient of a dictionary is an outer product: with g = dL/d(effective weight),

    dL/d(weight)[k, o, i, ...] = code[k] * gate[o] * g[o, i, ...]     (summed over the uses of the dictionary)

so a list of (code, gate, g) says all that the K times larger dense tensor says. `CompactGradient` is such a
list in the clothes of a tensor: it lives in `parameter.grad`, adds up, scales and is dropped like any gradient,
and turns into the dense tensor for code that knows nothing of it.
"""

from __future__ import annotations

import weakref
from functools import reduce
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


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

    def scaled(self, factor: Tensor | float) -> Use:
        return self._replace(code=self.code * factor)

    def gated(self) -> Tensor:
        """`gate[o] * grad[o, ...]`."""
        return self.grad if self.gate is None else self.gate.reshape(-1, *(1,) * (self.grad.dim() - 1)) * self.grad


def want_compact_gradient(parameter: Tensor, owner: object) -> None:
    """Ask for compact gradients of `parameter` for as long as `owner` (an optimiser) lives."""
    parameter.compact_gradient_owner = weakref.ref(owner)


def wants_compact_gradient(parameter: Tensor) -> bool:
    owner = getattr(parameter, "compact_gradient_owner", None)
    return owner is not None and owner() is not None and parameter.is_leaf


class CompactGradient(Tensor):
    """Gradient of a dictionary as the list of its uses; see the file's head."""

    uses: tuple[Use, ...]

    @staticmethod
    def __new__(cls, like: Tensor, uses: tuple[Use, ...]) -> CompactGradient:
        gradient = Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        gradient.uses = uses
        return gradient

    def __repr__(self) -> str:  # the default would materialise
        return f"CompactGradient(shape={list(self.shape)}, dtype={self.dtype}, uses={len(self.uses)})"

    def dense(self) -> Tensor:
        """The ordinary gradient tensor."""
        total = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device=self.device).zero_()
        for use in self.uses:
            active = (slice(None), *(slice(width) for width in use.grad.shape[:2]))
            total[active] += (use.code.reshape(-1, *(1,) * use.grad.dim()) * use.gated()).to(self.dtype)
        return total

    def norm(self) -> Tensor:
        """Euclidean norm of the dense tensor: its square is a sum over pairs of uses,

            |dense|^2 = sum_{u, v} <code_u, code_v> * <gate_u g_u, gate_v g_v>,

        the last product over the channels that both uses cover. Up to K uses are kept, so this reads less than `dense`.
        """
        sum_dtype = torch.promote_types(self.dtype, torch.float32)
        codes = [use.code.to(sum_dtype) for use in self.uses]
        grads = [use.gated().to(sum_dtype) for use in self.uses]
        square = torch.zeros((), dtype=sum_dtype, device=self.device)
        for u, (code, grad) in enumerate(zip(codes, grads)):
            square += (torch.linalg.vector_norm(code) * torch.linalg.vector_norm(grad)).square()
            for other_code, other in zip(codes[:u], grads[:u]):
                shared = tuple(slice(min(sizes)) for sizes in zip(grad.shape[:2], other.shape[:2]))
                square += 2 * (code * other_code).sum() * (grad[shared] * other[shared]).sum()
        # Uses that cancel out leave a rounding error, which may be below zero.
        return square.clamp(min=0).sqrt().to(self.dtype)

    def become(self, dense: Tensor) -> None:
        """Take the values of a dense gradient: one use of each copy alone."""
        sum_dtype = torch.promote_types(dense.dtype, torch.float32)
        one_hots = torch.eye(len(dense), dtype=sum_dtype, device=dense.device)
        self.uses = tuple(Use(one_hot, None, grad) for one_hot, grad in zip(one_hots, dense))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        handler = _HANDLERS.get(function)
        if handler is not None:
            result = handler(*args, **kwargs)
            if result is not NotImplemented:
                return result

        dense_of: dict[int, tuple[CompactGradient, Tensor]] = {}

        def to_dense(gradient: CompactGradient) -> Tensor:
            return dense_of.setdefault(id(gradient), (gradient, gradient.dense()))[1]

        dense_args, dense_kwargs = tree_map_only(CompactGradient, to_dense, (args, kwargs))
        result = function(*dense_args, **dense_kwargs)
        written = [value for value, schema in zip(args, function._schema.arguments) if schema.is_write]
        for gradient in tree_leaves(written):
            if isinstance(gradient, CompactGradient):
                gradient.become(to_dense(gradient))
                result = gradient if result is to_dense(gradient) else result
        return result


def _same(gradient: CompactGradient, **_) -> CompactGradient:
    return CompactGradient(gradient, gradient.uses)


def _add(left, right, *, alpha: float = 1):
    if not (isinstance(left, CompactGradient) and isinstance(right, CompactGradient)):
        return NotImplemented
    uses = left.uses + tuple(use.scaled(alpha) for use in right.uses)
    if len(uses) > left.shape[0]:  # as many uses as copies take as much memory as the dense gradient
        return NotImplemented
    return CompactGradient(left, uses)


def _is_scalar(factor: object) -> bool:
    return not isinstance(factor, Tensor) or (factor.dim() == 0 and not isinstance(factor, CompactGradient))


def _multiply(gradient, factor):
    if not isinstance(gradient, CompactGradient) or not _is_scalar(factor):
        return NotImplemented
    return CompactGradient(gradient, tuple(use.scaled(factor) for use in gradient.uses))


def _multiply_in_place(gradient, factor):
    product = _multiply(gradient, factor)
    if product is NotImplemented:
        return NotImplemented
    gradient.uses = product.uses
    return gradient


def _norm(gradient, ord: float = 2, dim=None, keepdim: bool = False, *, dtype=None):
    if not isinstance(gradient, CompactGradient) or ord != 2 or dim is not None or keepdim or dtype is not None:
        return NotImplemented
    return gradient.norm()


def _foreach_norm(gradients, ord: float = 2, *, dtype=None):
    """Clipping asks for the norms of a whole network: few calls instead of some for each parameter."""
    if ord != 2 or dtype is not None:
        return NotImplemented
    factors = [_norm_factors(gradient) for gradient in gradients]
    norms = iter(torch._foreach_norm([factor for product in factors for factor in product]))
    products = (reduce(torch.mul, islice(norms, len(product))) for product in factors)
    return [product.to(gradient.dtype) for product, gradient in zip(products, gradients)]


def _norm_factors(gradient: Tensor) -> list[Tensor]:
    """Tensors whose norms multiply to that of the gradient."""
    if not isinstance(gradient, CompactGradient):
        return [gradient]
    if len(gradient.uses) == 1:
        return [gradient.uses[0].gated(), gradient.uses[0].code]
    return [gradient.norm()]


def _foreach_multiply_in_place(gradients, factor):
    if not _is_scalar(factor):
        return NotImplemented
    compact = [gradient for gradient in gradients if isinstance(gradient, CompactGradient)]
    dense = [gradient for gradient in gradients if not isinstance(gradient, CompactGradient)]
    if dense:
        torch._foreach_mul_(dense, factor)
    codes = [use.code for gradient in compact for use in gradient.uses]
    scaled = iter(torch._foreach_mul(codes, factor) if codes else ())
    for gradient in compact:
        gradient.uses = tuple(use._replace(code=next(scaled)) for use in gradient.uses)
    return None


def _unscale(gradients, found_inf: Tensor, inverse_scale: Tensor) -> None:
    """What a gradient scaler does before a step: divide by the scale, and note what is not finite.

    Each use's own gradient is divided, in float32 at least: in half precision small values would be lost.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        if isinstance(gradient, CompactGradient):
            sum_dtype = torch.promote_types(gradient.dtype, torch.float32)
            gradient.uses = tuple(use._replace(grad=use.grad.to(sum_dtype, copy=True)) for use in gradient.uses)
            by_dtype.setdefault(sum_dtype, []).extend(use.grad for use in gradient.uses)
        else:
            by_dtype.setdefault(gradient.dtype, []).append(gradient)
    for tensors in by_dtype.values():
        _aten._amp_foreach_non_finite_check_and_unscale_(tensors, found_inf, inverse_scale)


def _zero_in_place(gradient: CompactGradient) -> CompactGradient:
    gradient.uses = ()
    return gradient


_aten = torch.ops.aten
_HANDLERS = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _same,
    _aten.add.Tensor: _add,
    _aten.mul.Tensor: _multiply,
    _aten.mul_.Tensor: _multiply_in_place,
    _aten.zero_.default: _zero_in_place,
    _aten.linalg_vector_norm.default: _norm,
    _aten._foreach_norm.Scalar: _foreach_norm,
    _aten._foreach_mul_.Scalar: _foreach_multiply_in_place,
    _aten._foreach_mul_.Tensor: _foreach_multiply_in_place,
    _aten._amp_foreach_non_finite_check_and_unscale_.default: _unscale,
}
