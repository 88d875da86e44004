"""What `torch.utils.flop_counter` counts of our operators: by its own rules, plus the mixing of copies.

    convolution:  2 * N * positions * |w|                 |w|: numbers of an effective weight
    mixing:       2 * K * |w|, with codes per sample N times that: a product of code [1, K] and dictionary [K, |w|]

A multiplication with its addition counts as two; norms, activations, pooling, alignments and optimisers as none, as in
torch's formulas. A kernel that gets a result in another way (all copies applied to the batch) counts like the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from kshot_ext import backend

Shape = list[int]


def _mixing(weight: Shape, code: Shape, *mixed: Shape) -> int:
    """Of effective weights whose shapes, without a dimension of samples, are `mixed`."""
    samples = code[0] if len(code) > 1 else 1
    return 2 * weight[0] * samples * sum(map(math.prod, mixed))


def _effective(weight: Shape, in_channels: int, out_channels: int, depthwise: bool) -> list[int]:
    return [out_channels, 1 if depthwise else in_channels, *weight[3:]]


def _rows(code: Shape, gate: Shape | None) -> Shape:
    """The code's shape, or that of a code for each row of the gate."""
    return code if gate is None or len(gate) == 1 or len(code) > 1 else [gate[0], *code]


def _effective_weight(
    weight: Shape, code: Shape, gate: Shape | None, out_channels: int, in_channels: int, *, out_shape: Shape
) -> int:
    return 2 * weight[0] * math.prod(out_shape)


def _effective_weight_backward(
    grad: Shape, weight: Shape, code: Shape, gate: Shape | None, need_weight: bool, need_code: bool, need_gate: bool, *,
    out_shape: Any,
) -> int:  # fmt: skip
    return 2 * weight[0] * math.prod(grad) * (need_weight + need_code + need_gate)


def _mix_weights(weights: Sequence[Shape], code: Shape, *, out_shape: Sequence[Shape]) -> int:
    return 2 * code[-1] * sum(map(math.prod, out_shape))


def _mix_weights_backward(
    grads: Sequence[Shape],
    weights: Sequence[Shape],
    code: Shape,
    need_weights: Sequence[bool],
    need_code: bool,
    *,
    out_shape: Any,
) -> int:
    return sum(2 * code[-1] * math.prod(grad) * (bool(need) + need_code) for grad, need in zip(grads, need_weights))


def _dynamic_group_weight(weight: Shape, code: Shape, group_gates: Shape, *, out_shape: Shape) -> int:
    return 2 * weight[0] * math.prod(out_shape)


def _fused_conv2d(
    input: Shape, weight: Shape, code: Shape, gate: Shape | None, bias: Shape | None, out_channels: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], depthwise: bool, *_others: Any,
    out_shape: Shape,
) -> int:  # fmt: skip
    effective = _effective(weight, input[1], out_channels, depthwise)
    return flop_counter.conv_flop_count(input, effective, out_shape) + _mixing(weight, _rows(code, gate), effective)


def _gradients(
    grad: Shape, input: Shape, weight: Shape, code: Shape, gate: Shape | None, depthwise: bool, need_input: bool,
    need_effective: bool, need_weight: bool, *others: bool,
) -> int:  # fmt: skip
    """One convolution each for the gradients of input and effective weight, a mixing for that weight and each of its
    parts."""
    effective = _effective(weight, input[1], grad[1], depthwise)
    convolutions = need_input + bool(need_effective or need_weight or any(others))
    mixings = 1 + need_weight + sum(others)
    convolution = flop_counter.conv_flop_count(input, effective, grad)
    return convolutions * convolution + mixings * _mixing(weight, _rows(code, gate), effective)


def _fused_conv2d_backward(
    grad: Shape, input: Shape, weight: Shape, code: Shape, gate: Shape | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], depthwise: bool, allow_tf32: bool, *needs: bool, out_shape: Any,
) -> int:  # fmt: skip
    return _gradients(grad, input, weight, code, gate, depthwise, *needs)


def _chained_conv2d(
    input: Shape, mean: Shape | None, variance: Shape | None, norm_weight: Shape | None, norm_bias: Shape | None,
    eps: float, activation: int, weight: Shape, code: Shape, gate: Shape | None, out_channels: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], depthwise: bool, *_others: Any,
    out_shape: Sequence[Shape],
) -> int:  # fmt: skip
    image = out_shape[0]
    return _fused_conv2d(
        input, weight, code, gate, None, out_channels, stride, padding, dilation, depthwise, out_shape=image
    )


def _chained_conv2d_backward(
    grad: Shape, grad_mean: Shape | None, grad_variance: Shape | None, input: Shape, mean: Shape | None,
    variance: Shape | None, norm_weight: Shape | None, norm_bias: Shape | None, eps: float, activation: int,
    weight: Shape, code: Shape, gate: Shape | None, output: Shape, out_mean: Shape, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], depthwise: bool, need_input: bool, need_effective: bool,
    need_weight: bool, need_code: bool, need_gate: bool, *_others: Any, out_shape: Any,
) -> int:  # fmt: skip
    needs = need_input, need_effective, need_weight, need_code, need_gate
    return _gradients(grad, input, weight, code, gate, depthwise, *needs)


def _folded_conv2d(
    input: Shape, weight: Shape, code: Shape, mean: Shape | None, variance: Shape | None, norm_weight: Shape | None,
    norm_bias: Shape | None, eps: float, activation: int, out_channels: int, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], depthwise: bool, *, out_shape: Shape,
) -> int:  # fmt: skip
    return _fused_conv2d(
        input, weight, code, None, None, out_channels, stride, padding, dilation, depthwise, out_shape=out_shape
    )


def _batch_norm_act(
    input: Shape, weight: Shape | None, bias: Shape | None, code: Shape, *_others: Any, out_shape: Any
) -> int:
    dictionaries = [each for each in (weight, bias) if each is not None and len(each) == 2]
    return sum(_mixing(each, code, [input[1]]) for each in dictionaries)


def _batch_norm_act_backward(
    grad: Shape, input: Shape, weight: Shape | None, bias: Shape | None, code: Shape, residual: Shape | None,
    mean: Shape | None, variance: Shape | None, eps: float, activation: int, training: bool, need_weight: bool,
    compact_weight: bool, need_bias: bool, compact_bias: bool, need_code: bool, need_residual: bool, *, out_shape: Any,
) -> int:  # fmt: skip
    total = 0
    for each, need, compact in ((weight, need_weight, compact_weight), (bias, need_bias, compact_bias)):
        if each is not None and len(each) == 2:
            total += (1 + (need and not compact) + need_code) * _mixing(each, code, [input[1]])
    return total


def _none(*_operands: Any, **_options: Any) -> int:
    return 0


FORMULAS: dict[str, Callable[..., int]] = {
    "adamw_update": _none,
    "avg_pool2d": _none,
    "avg_pool2d_backward": _none,
    "batch_norm_act": _batch_norm_act,
    "batch_norm_act_backward": _batch_norm_act_backward,
    "chained_conv2d": _chained_conv2d,
    "chained_conv2d_backward": _chained_conv2d_backward,
    "chained_norm_act": _none,
    "chained_norm_act_backward": _none,
    "dtw_align": _none,
    "dtw_align_backward": _none,
    "dynamic_group_weight": _dynamic_group_weight,
    "dynamic_group_weight_backward": _effective_weight_backward,
    "effective_weight": _effective_weight,
    "effective_weight_backward": _effective_weight_backward,
    "even_and_odd_channels": _none,
    "even_and_odd_channels_backward": _none,
    "folded_conv2d": _folded_conv2d,
    "fused_conv2d": _fused_conv2d,
    "fused_conv2d_backward": _fused_conv2d_backward,
    "mix_weights": _mix_weights,
    "mix_weights_backward": _mix_weights_backward,
    "sgd_update": _none,
}
"""Of each operator; arguments are those of the operator with shapes in place of tensors."""


def register() -> None:
    """Let torch's counters know the formulas, those at work too."""
    ours = {getattr(torch.ops.kshot_ext, name): formula for name, formula in FORMULAS.items()}
    for operator, formula in ours.items():
        flop_counter.register_flop_formula(operator)(formula)
    # A counter copies the table when it is made, and the library may be loaded by the first call that it counts.
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(counter := getattr(mode, "counter", None), flop_counter.FlopCounterMode):
            counter.flop_registry.update((operator, flop_counter.flop_registry[operator]) for operator in ours)


backend.on_load(register)
