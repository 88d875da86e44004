"""Clipping of gradients by their norm, compact ones in their compact form.

For one use of a dictionary the gradient is an outer product, whose p-norm is the product of its factors':

    |code x (gate * g)|_p = |code|_p * |gate * g|_p

and for several uses u, v the Euclidean norm is a sum over pairs of them,

    |sum_u code_u x (gate_u * g_u)|^2 = sum_{u, v} <code_u, code_v> * <gate_u * g_u, gate_v * g_v>,

the last product over the channels that both uses cover. Up to K uses are kept, so this reads less than the dense form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot, with_grads


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` that keeps gradients compact where `KShotSGD` keeps them so.

        grad = grad * min(max_norm / (total_norm + 1e-6), 1),   total_norm = |all gradients as one vector|_p

    The same result within rounding, without the dense gradients of dictionaries. If a dictionary was used several
    times since the last step, that holds for the Euclidean norm; for others its gradient becomes dense.

    Args:
        parameters: those whose gradients count and are scaled; or one of them.
        max_norm: largest norm allowed.
        norm_type: p; `inf` for the largest absolute value.
        error_if_nonfinite: whether a norm that is not finite is an error, rather than scaling by it.
        foreach: as in torch: whether to use fewer, larger kernels; None for where that works.

    Returns:
        The total norm before clipping, a tensor with one value.

    Raises:
        RuntimeError: if the norm is not finite and `error_if_nonfinite`.

    Example:
        >>> import kshot_ext
        >>> layer = kshot_ext.nn.KShotLinear(8, 2, num_shots=4)
        >>> optimizer = kshot_ext.optim.KShotSGD(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 8), torch.full((4,), 1 / 4)).sum().backward()
        >>> clip_grad_norm_(layer.weight, max_norm=0.5)
        tensor(2.)
        >>> layer.weight.grad.norm()
        tensor(0.5000)

    Paper: Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    norm_type = float(norm_type)
    forms = [_in_form_for(parameter, norm_type) for parameter in parameters]
    gradients = [gradient for gradient in forms if gradient is not None]
    norms = _norms([gradient for gradient in gradients if isinstance(gradient, SumOfUses)], norm_type)
    seen = [next(norms) if isinstance(gradient, SumOfUses) else gradient for gradient in gradients]
    total_norm = get_total_norm(seen, norm_type, error_if_nonfinite, foreach)
    scaled = [
        tensor
        for gradient in gradients
        for tensor in ([use.code for use in gradient.uses] if isinstance(gradient, SumOfUses) else [gradient])
    ]
    clip_grads_with_norm_(with_grads(scaled), max_norm, total_norm, foreach)
    return total_norm


def _in_form_for(parameter: Tensor, norm_type: float) -> Tensor | SumOfUses | None:
    """The gradient, compact if that form tells its norm. A narrow use leaves zeros, which count for p <= 0."""
    gradient = gradient_in_slot(parameter)
    if isinstance(gradient, SumOfUses) and (norm_type == 2 or (norm_type > 0 and len(gradient.uses) == 1)):
        return gradient
    return parameter.grad


def _norms(gradients: list[SumOfUses], norm_type: float) -> Iterator[Tensor]:
    """Norms of compact gradients; few calls for all of them instead of some for each."""
    factors = [_factors(gradient) for gradient in gradients]
    flat = [factor for of_one in factors for factor in of_one]
    norms = iter(torch._foreach_norm(flat, norm_type) if flat else ())
    products = (reduce(torch.mul, islice(norms, len(of_one))) for of_one in factors)
    return (product.to(gradient.dtype) for product, gradient in zip(products, gradients))


def _factors(gradient: SumOfUses) -> list[Tensor]:
    """Tensors whose norms multiply to that of the gradient."""
    if len(gradient.uses) == 1:
        return [gradient.uses[0].gated(), gradient.uses[0].code]
    return [_euclidean_norm(gradient)]


def _euclidean_norm(gradient: SumOfUses) -> Tensor:
    sum_dtype = torch.promote_types(gradient.dtype, torch.float32)
    codes = [use.code.to(sum_dtype) for use in gradient.uses]
    grads = [use.gated().to(sum_dtype) for use in gradient.uses]
    square = torch.zeros((), dtype=sum_dtype, device=gradient.device)
    for u, (code, grad) in enumerate(zip(codes, grads)):
        square += (torch.linalg.vector_norm(code) * torch.linalg.vector_norm(grad)).square()
        for other_code, other in zip(codes[:u], grads[:u]):
            shared = tuple(slice(min(sizes)) for sizes in zip(grad.shape[:2], other.shape[:2]))
            square += 2 * (code * other_code).sum() * (grad[shared] * other[shared]).sum()
    # Uses that cancel out leave a rounding error, which may be below zero.
    return square.clamp(min=0).sqrt()
