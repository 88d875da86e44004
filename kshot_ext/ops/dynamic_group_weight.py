"""Effective weight under a dynamic grouping: the K copies of a dictionary mixed by a code and masked, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.effective_weight import fake_effective_weight, fake_mixing_gradients
from kshot_ext.ops.fakes import register_fake
from kshot_ext.ops.gradient_slot import OwnedParameter, takes_compact_gradient
from kshot_ext.ops.recomputed import require_same_code


def dynamic_group_weight(weight: Tensor, code: Tensor, group_gates: Tensor) -> Tensor:
    """Mix the K copies of a weight dictionary, and leave out the connections that the gates do not open.

        effective[o, i] = relation[o, i] * sum_k code[k] * weight[k, o, i]
        relation = U_1 x ... x U_n x ones(C_out / 2^n, C_in / 2^n),    U_j = I + gate_j (ones(2, 2) - I)

    where x is the Kronecker product. Output and input channels fall into 2^n blocks each; blocks are connected if the
    gates of all bits in which their numbers differ are one (the first gate owns the highest bit). With gates of 0 and 1
    what remains are `2^(n - sum of gates)` groups of equal size: all ones connect everything, all zeros leave 2^n
    groups, which is a depthwise convolution if C_out = C_in = 2^n. C_out and C_in may differ.

    Gates may be any real numbers; the relation is then their product over these bits, and linear in each. A connection
    whose relation is zero is zero whatever its weights are, and is not read.

    Args:
        weight: dictionary `[K, C_out, C_in, *kernel]`; float32, float64, bfloat16 or float16. Sums are taken in float32
            (float64 for float64).
        code: `[K]`, or `[N, K]` for one row per sample; any real numbers.
        group_gates: `[n]`, n >= 0, where 2^n divides C_out and C_in.

    Returns:
        `[C_out, C_in, *kernel]`, with a leading N if the code has one; the weight's dtype and memory layout.

    Gradients:
        To `weight`, `code` and `group_gates`; deterministic. The gradient to a gate of zero is what the connections
        that it leaves out would change, so that straight-through estimation can open it. A second derivative needs the
        reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size or device, naming the argument.

    Example:
        >>> weight = torch.ones(1, 4, 4, 1, 1)
        >>> dynamic_group_weight(weight, torch.ones(1), torch.tensor([0.0, 1.0])).flatten(1)
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.]])

    Paper: Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks, arXiv 1908.05867. The
    factor of ones, for any other channel counts than C_out = C_in = 2^n, and the code are ours.
    """
    checks.check_dictionary(weight, "[K, C_out, C_in, *kernel]", (3, 4, 5, 6))
    checks.check_code(code, weight)
    check_group_gates(group_gates, weight)
    return mix_groups(weight, code, group_gates)


def check_group_gates(group_gates: Tensor, weight: Tensor) -> None:
    """`group_gates` is `[n]`, and 2^n blocks divide the channels of the dictionary `weight`."""
    checks.check_tensor("group_gates", group_gates, "[n]", (1,))
    checks.check_companion("group_gates", group_gates, "weight", weight)
    out_channels, in_channels = weight.shape[1:3]
    count = group_gates.shape[0]
    most = most_group_gates(out_channels, in_channels)
    if count > most:
        raise ValueError(
            f"group_gates must have at most n = {most} entries for weight {list(weight.shape)}, since 2^n must divide "
            f"C_out = {out_channels} and C_in = {in_channels}; got {count}"
        )


def most_group_gates(out_channels: int, in_channels: int) -> int:
    """The largest n for which 2^n divides both channel counts."""
    either = out_channels | in_channels
    return (either & -either).bit_length() - 1


def mix_groups(weight: Tensor, code: Tensor, group_gates: Tensor) -> Tensor:
    """`dynamic_group_weight` on checked arguments: what the convolution calls."""
    if backend.kernels_for(weight.device) is None:
        return reference.dynamic_group_weight(weight, code, group_gates)
    sum_dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    mixed: Tensor = _mixing.call(weight, code.to(sum_dtype), group_gates.to(sum_dtype))
    return mixed


def _forward(ctx: Any, *inputs: Any, output: Any = None) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.dynamic_group_weight(*inputs)
    weight, code, group_gates = inputs
    ctx.owned = weight if isinstance(weight, OwnedParameter) and code.dim() == 1 else None
    ctx.code = code
    ctx.save_for_backward(weight, code, group_gates)
    return output


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, code, group_gates = ctx.saved_tensors
    if code is not ctx.code:
        require_same_code(ctx.code, code)
    need_weight, need_code, need_gates = ctx.needs_input_grad
    compact = need_weight and takes_compact_gradient(ctx.owned, ctx)
    grad_weight = grad_code = grad_gates = None
    if need_code or need_gates or (need_weight and not compact):
        grad_weight, grad_code, grad_gates = _gradients(
            grad, weight, code, group_gates, need_weight and not compact, need_code, need_gates
        )
    if compact:
        # The code scales what the mask leaves of the gradient.
        masked = torch.ops.kshot_ext.dynamic_group_weight(grad[None], code.new_ones(1), group_gates)
        grad_weight = CompactGradient.of_use(weight, code, None, masked)
    return (
        grad_weight if need_weight else None,
        grad_code if need_code else None,
        grad_gates if need_gates else None,
    )


def _fake(weight: Tensor, code: Tensor, group_gates: Tensor) -> Tensor:
    return fake_effective_weight(weight, code, None, weight.shape[1], weight.shape[2])


_mixing = differentiable("dynamic_group_weight", _forward, _backward)
_gradients = not_differentiable("dynamic_group_weight_backward")


@backend.on_load
def _register() -> None:
    register_fake("dynamic_group_weight", _fake)
    register_fake("dynamic_group_weight_backward", fake_mixing_gradients)
