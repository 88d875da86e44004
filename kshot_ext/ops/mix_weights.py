"""Mix many dictionaries with one code in one launch: all layers of a path at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import not_differentiable
from kshot_ext.ops.effective_weight import effective_weight_gradients, fake_effective_weight
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.recomputed import require_same_code
from kshot_ext.ops.transforms import register_rules


def mix_weights(weights: Sequence[Tensor], code: Tensor) -> list[Tensor]:
    """Mix each of many weight dictionaries with the same code.

        mixed[l][o, i, ...] = sum_k code[k] * weights[l][k, o, i, ...]

    The same values as `effective_weight(weights[l], code)` for each l, in one parallel pass over all of them.

    Args:
        weights: dictionaries, each `[K, C_out, ...]` with the same K, dtype and device.
        code: `[K]`, or `[N, K]` for one row per sample.

    Returns:
        List of `[C_out, ...]` or `[N, C_out, ...]`, in the dtype and memory layout of the dictionaries.

    Gradients:
        To every dictionary and to `code`; deterministic. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the dictionary.

    Example:
        >>> first, second = mix_weights([torch.ones(2, 3), torch.ones(2, 5)], torch.tensor([0.5, 0.25]))
        >>> first, second
        (tensor([0.7500, 0.7500, 0.7500]), tensor([0.7500, 0.7500, 0.7500, 0.7500, 0.7500]))

    Paper: K-shot NAS, arXiv 2106.06442.
    """
    weights = list(weights)
    for index, weight in enumerate(weights):
        name = f"weights[{index}]"
        checks.check_dictionary(weight, "[K, C_out, C_in/groups, *kernel]", (2, 3, 4, 5, 6), name)
        checks.check_code(code, weight)
        checks.check_companion(name, weight, "weights[0]", weights[0])
        if weight.dtype != weights[0].dtype:
            raise TypeError(f"{name} must be {weights[0].dtype} like weights[0], got {weight.dtype}")
    if not weights:
        return []
    if backend.kernels_for(weights[0].device) is None:
        return reference.mix_weights(weights, code)
    sum_dtype = torch.promote_types(weights[0].dtype, torch.float32)
    mixed: list[Tensor] = torch.ops.kshot_ext.mix_weights(weights, code.to(sum_dtype))
    return mixed


def _fake(weights: list[Tensor], code: Tensor) -> list[Tensor]:
    widths = [(weight.shape[1], weight.shape[2] if weight.dim() > 2 else 1) for weight in weights]
    return [fake_effective_weight(weight, code, None, *width) for weight, width in zip(weights, widths)]


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], Tensor], output: list[Tensor]) -> None:
    weights, code = inputs
    ctx.owned = [weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None for weight in weights]
    ctx.code = code
    ctx.save_for_backward(code, *weights)


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    code, *weights = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    need_weights, need_code = ctx.needs_input_grad[:2]
    compacts = [need and takes_compact_gradient(weight, ctx) for need, weight in zip(need_weights, ctx.owned)]
    need_dense = [need and not compact for need, compact in zip(need_weights, compacts)]
    dense, grad_code = _backward_operator(grads, weights, code, need_dense, need_code)
    grad_weights = [
        CompactGradient.of_use(weight, code, None, grad) if compact else tensor
        for weight, grad, tensor, compact in zip(weights, grads, dense, compacts)
    ]
    return (
        [grad if need else None for grad, need in zip(grad_weights, need_weights)],
        grad_code if need_code else None,
    )


def _fake_backward(
    grads: list[Tensor], weights: list[Tensor], code: Tensor, need_weights: list[bool], need_code: bool
) -> tuple[list[Tensor], Tensor]:
    grad_weights = [
        torch.empty_like(weight) if need else weight.new_empty(0) for weight, need in zip(weights, need_weights)
    ]
    return grad_weights, code.new_empty(code.shape if need_code else 0)


def _batched_backward(
    grads: list[Tensor], weights: list[Tensor], code: Tensor, need_weights: list[bool], need_code: bool
) -> tuple[list[Tensor], Tensor]:
    """Each dictionary by itself: torch batches no operator that takes lists, but one of tensors it does."""
    parts = [
        effective_weight_gradients(grad, weight, code, None, bool(need), need_code, False)
        for grad, weight, need in zip(grads, weights, need_weights)
    ]
    return [grad_weight for grad_weight, _, _ in parts], sum(grad_code for _, grad_code, _ in parts)


_backward_operator = not_differentiable("mix_weights_backward")


@backend.on_load
def _register() -> None:
    register_fake("mix_weights", _fake)
    register_rules("mix_weights", _backward, _setup_context)
    register_fake("mix_weights_backward", _fake_backward)
    torch.library.impl("kshot_ext::mix_weights_backward", "Batched", _batched_backward)
