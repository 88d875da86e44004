"""Effective weight: the K copies of a dictionary mixed by a code, gated and sliced, in one pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import (
    below_autograd,
    differentiable,
    formula_of,
    not_differentiable,
    recorded_function,
)
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.recomputed import require_same_code


def effective_weight(
    weight: Tensor,
    code: Tensor,
    *,
    gate: Tensor | None = None,
    out_channels: int | None = None,
    in_channels: int | None = None,
) -> Tensor:
    """Mix the K copies of a weight dictionary into the weight that one path (or one sample) uses.

        effective[o, i, ...] = gate[o] * sum_k code[k] * weight[k, o, i, ...]

    over the leading `out_channels` and `in_channels`. The code may be any real numbers; that it lies on the
    simplex is the caller's business. One pass over the active part of the dictionary, forward and backward.

    Args:
        weight: dictionary `[K, C_out, C_in/groups, *kernel]` (or `[K, C_out]`); float32, float64, bfloat16
            or float16. Sums are taken in float32 (float64 for float64).
        code: `[K]`, or `[N, K]` for one row per sample; any of these dtypes.
        gate: `[C_out]` or `[N, C_out]`, or just the active part of it; default: no gate.
        out_channels: output width C_out'; default: C_out.
        in_channels: width of the weight's third dimension, C_in'/groups; default: all of it.

    Returns:
        `[C_out', C_in'/groups, *kernel]`, with a leading N if the code or the gate has one; the weight's dtype
        and memory layout (copies kept in channels_last give a channels_last result).

    Gradients:
        To `weight`, `code` and `gate`; deterministic. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the argument.

    Example:
        >>> weight = torch.stack([torch.zeros(4, 3, 1, 1), torch.ones(4, 3, 1, 1)])
        >>> effective_weight(weight, torch.tensor([0.25, 0.75]), out_channels=2).flatten()
        tensor([0.7500, 0.7500, 0.7500, 0.7500, 0.7500, 0.7500])

    Paper: K-shot NAS, arXiv 2106.06442: a path's weight is a convex combination of dictionary entries.
    """
    checks.check_dictionary(weight, "[K, C_out, C_in/groups, *kernel]", (2, 3, 4, 5, 6))
    checks.check_code(code, weight)
    out_channels = _check_width("out_channels", out_channels, weight, 1)
    if weight.dim() > 2:
        in_channels = _check_width("in_channels", in_channels, weight, 2)
    elif in_channels is not None:
        raise ValueError(f"in_channels needs a weight with input channels, got weight {list(weight.shape)}")
    if gate is not None:
        batch = code.shape[0] if code.dim() == 2 else None
        checks.check_gate(gate, weight, weight.shape[1], out_channels, batch)
    return mix(weight, code, gate, out_channels, in_channels)


def mix(weight: Tensor, code: Tensor, gate: Tensor | None, out_channels: int, in_channels: int | None) -> Tensor:
    """`effective_weight` on checked arguments: what the other operations call."""
    if backend.kernels_for(weight.device) is None:
        return reference.effective_weight(weight, code, gate=gate, out_channels=out_channels, in_channels=in_channels)
    if code.dim() > 2:
        return mix_by_place(weight, code, gate, out_channels, in_channels)
    operands, widths = mixing_arguments(weight, code, gate, out_channels, in_channels)
    mixed: Tensor = mixing.call(*operands, *widths)
    return mixed


def mix_by_place(
    weight: Tensor, code: Tensor, gate: Tensor | None, out_channels: int, in_channels: int | None
) -> Tensor:
    """`mix` with a code `[N, K, *kernel]`, by torch's product of matrices for each place; sums are not rounded."""
    (weight, code, gate), _ = mixing_arguments(weight, code, gate, out_channels, in_channels)
    active = weight[:, :out_channels, :in_channels].flatten(3)
    with torch.autocast(weight.device.type, enabled=False):
        mixed = torch.einsum("nkp,koip->noip", code.flatten(2), active.to(code.dtype))
    if gate is not None:
        mixed = gate[..., None, None] * mixed
    effective: Tensor = mixed.unflatten(3, weight.shape[3:]).to(weight.dtype)
    return effective


def mixing_arguments(
    weight: Tensor, code: Tensor, gate: Tensor | None, out_channels: int, in_channels: int | None
) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[int, int]]:
    """Operands and widths as the operator takes them."""
    sum_dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    if code.dtype != sum_dtype:
        code = code.to(sum_dtype)
    if gate is not None:
        gate = leading(gate, out_channels).to(sum_dtype)
        if gate.dim() == 2 and code.dim() == 1:
            code = code.expand(gate.shape[0], -1)
    return (weight, code, gate), (out_channels, in_channels if in_channels is not None else 1)


def effective_bias(bias: Tensor | None, code: Tensor, gate: Tensor | None, out_channels: int) -> Tensor | None:
    """Bias of the active channels, `[C_out']` or `[N, C_out']`: mixed if it is a dictionary, and gated."""
    if bias is None:
        return None
    if bias.dim() == 2:
        return mix(bias, code, gate, out_channels, None)
    if gate is not None:
        return mix(bias[None], code.new_ones(1), gate, out_channels, None)
    return leading(bias, out_channels)


def leading(tensor: Tensor, count: int) -> Tensor:
    """The first `count` entries of the last dimension; all of them without a view, which autograd would record."""
    return tensor if tensor.shape[-1] == count else tensor[..., :count]


def _check_width(name: str, width: int | None, weight: Tensor, dim: int) -> int:
    total = weight.shape[dim]
    if width is None:
        return total
    if not 1 <= width <= total:
        raise ValueError(f"{name} must be 1 to {total} for weight {list(weight.shape)}, got {width}")
    return width


def fake_effective_weight(
    weight: Tensor, code: Tensor, gate: Tensor | None, out_channels: int, in_channels: int
) -> Tensor:
    shape = [*code.shape[:-1], out_channels, *([in_channels] if weight.dim() > 2 else []), *weight.shape[3:]]
    if not copies_are_channels_last(weight):
        return weight.new_empty(shape)
    order = [*range(len(shape) - weight.dim() + 2), *range(len(shape) - weight.dim() + 3, len(shape))]
    order.append(len(shape) - weight.dim() + 2)
    permuted = weight.new_empty([shape[d] for d in order])
    return permuted.permute([order.index(d) for d in range(len(shape))])


def copies_are_channels_last(weight: Tensor) -> bool:
    """Whether each copy is kept with its input channels innermost (mirrored by `csrc/ops/mix_geometry.h`)."""
    return weight.dim() > 3 and not weight.is_contiguous() and weight.movedim(2, -1).is_contiguous()


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.effective_weight(*inputs)
    weight, code, gate, ctx.out_channels, ctx.in_channels = inputs
    ctx.code = code
    ctx.owned = weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None
    ctx.save_for_backward(weight, code, gate)
    return output


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, code, gate = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    return *dictionary_gradients(grad, weight, code, gate, ctx.owned, ctx, *ctx.needs_input_grad[:3]), None, None


def dictionary_gradients(
    grad: Tensor,
    weight: Tensor,
    code: Tensor,
    gate: Tensor | None,
    owned: OwnedParameter | None,
    node: torch.autograd.graph.Node,
    need_weight: bool,
    need_code: bool,
    need_gate: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of dictionary, code and gate from that of the effective weight; None for those not asked for.

    Args:
        owned: `weight`, if its gradient may be compact.
        node: the autograd function that runs; see `takes_compact_gradient`.
    """
    compact = need_weight and takes_compact_gradient(owned, node)
    grad_weight = grad_code = grad_gate = None
    if need_code or need_gate or (need_weight and not compact):
        grad_weight, grad_code, grad_gate = effective_weight_gradients(
            grad, weight, code, gate, need_weight and not compact, need_code, need_gate
        )
    if compact:
        grad_weight = CompactGradient.of_use(weight, code, gate, grad)
    return grad_weight if need_weight else None, grad_code if need_code else None, grad_gate if need_gate else None


def fake_mixing_gradients(
    grad: Tensor, weight: Tensor, code: Tensor, gate: Tensor | None, need_weight: bool, need_code: bool, need_gate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    none = code.new_empty(0)
    return (
        torch.empty_like(weight) if need_weight else weight.new_empty(0),
        torch.empty_like(code, memory_format=torch.contiguous_format) if need_code else none,
        torch.empty_like(gate, memory_format=torch.contiguous_format)
        if gate is not None and need_gate
        else code.new_empty(0),
    )


def _pair_forward(
    ctx: Any, first: Tensor, second: Tensor, code: Tensor, gate: Tensor | None, out_channels: int, in_channels: int
) -> tuple[Tensor, Tensor]:
    """Two dictionaries, the second `[K, C_out]`, with one code and gate; without a `ctx` nothing is kept."""
    with below_autograd():
        mixed = torch.ops.kshot_ext.effective_weight(first, code, gate, out_channels, in_channels)
        beside = torch.ops.kshot_ext.effective_weight(second, code, gate, out_channels, 1)
    if ctx is None:
        return mixed, beside
    shared = code.dim() == 1
    ctx.owned = (
        first if shared and isinstance(first, OwnedParameter) else None,
        second if shared and isinstance(second, OwnedParameter) else None,
    )
    ctx.code = code
    ctx.save_for_backward(first, second, code, gate)
    ctx.set_materialize_grads(False)
    return mixed, beside


def _pair_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    first, second, code, gate = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    *need_weights, need_code, need_gate = ctx.needs_input_grad[:4]
    weights: list[Tensor | None] = [None, None]
    of_code: list[Any] = []
    of_gate: list[Any] = []
    for side, (grad, weight) in enumerate(zip(grads, (first, second))):
        if grad is not None:
            weights[side], *others = dictionary_gradients(
                grad, weight, code, gate, ctx.owned[side], ctx, need_weights[side], need_code, need_gate
            )
            of_code.append(others[0])
            of_gate.append(others[1])
    code_grad = sum(of_code[1:], of_code[0]) if need_code and of_code else None
    gate_grad = sum(of_gate[1:], of_gate[0]) if need_gate and of_gate else None
    return *weights, code_grad, gate_grad, None, None


# A weight and what lies beside it, a bias or an offset, as one step of the graph: as autograd records it, and not.
recorded_pair = recorded_function(formula_of("mix_pair", _pair_forward, _pair_backward))
unrecorded_pair = partial(_pair_forward, None)
mixing = differentiable("effective_weight", _forward, _backward)
# Gradients of dictionary, code and gate from that of the effective weight; those not asked for are empty.
effective_weight_gradients = not_differentiable("effective_weight_backward")


@backend.on_load
def _register() -> None:
    register_fake("effective_weight", fake_effective_weight)
    register_fake("effective_weight_backward", fake_mixing_gradients)
