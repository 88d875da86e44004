"""Operators as functions of positional tensors, for tests of function transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_ext import functional as KF

Function = Callable[..., Tensor]
SHAPES = {
    "kshot_conv1d": {"input": (2, 3, 5), "weight": (2, 4, 3, 3), "code": (2,), "bias": (2, 4), "gate": (4,)},
    "kshot_conv2d": {"input": (2, 2, 3, 4), "weight": (2, 3, 2, 2, 3), "code": (2,), "bias": (3,)},
    "kshot_conv2d_depthwise": {"input": (2, 3, 3, 3), "weight": (2, 4, 1, 3, 3), "code": (2,), "gate": (3,)},
    "kshot_conv2d_per_sample": {"input": (2, 2, 3, 2), "weight": (2, 3, 3, 2, 2), "code": (2, 2), "gate": (2, 3)},
    "kshot_conv2d_groups_per_sample": {"input": (2, 4, 3, 3), "weight": (2, 4, 2, 2, 2), "code": (2, 2), "bias": (4,)},
    "kshot_conv2d_by_place": {"input": (2, 2, 3, 2), "weight": (2, 3, 2, 2, 2), "code": (2, 2, 2, 2), "bias": (3,)},
    "kshot_conv3d": {"input": (2, 2, 2, 2, 3), "weight": (2, 2, 2, 2, 1, 2), "code": (2,)},
    "gated_conv2d": {"input": (2, 2, 3, 2), "weight": (3, 2, 2, 2), "bias": (3,), "gate": (3,)},
    "kshot_linear": {"input": (2, 2, 3), "weight": (2, 4, 4), "code": (2,), "bias": (2, 4), "gate": (4,)},
    "kshot_linear_per_sample": {"input": (2, 3), "weight": (2, 4, 3), "code": (2, 2), "bias": (2, 4), "gate": (2, 4)},
    "dynamic_group_conv2d": {"input": (2, 4, 3, 2), "weight": (2, 4, 4, 2, 2), "code": (2,), "group_gates": (2,)},
    "dynamic_group_conv2d_per_sample": {
        "input": (2, 2, 3, 2),
        "weight": (2, 4, 2, 2, 2),
        "code": (2, 2),
        "group_gates": (1,),
        "bias": (2, 4),
    },
    "dynamic_group_weight": {"weight": (2, 4, 4, 2), "code": (2,), "group_gates": (2,)},
    "effective_weight": {"weight": (2, 3, 3, 2), "code": (2,), "gate": (2, 3)},
    "kernel_window": {"weight": (2, 2, 5, 5), "transform": (9, 9)},
    "regrouped_weight": {"weight": (4, 4, 2, 1)},
    "mix_weights": {"first": (2, 3, 2), "second": (2, 2), "code": (2,)},
    "dtw_align": {"predictions": (2, 4, 2), "targets": (2, 3, 2)},
    "avg_pool2d": {"input": (2, 3, 5, 4)},
    "batch_norm_act": {"input": (3, 3, 2, 2), "weight": (3,), "bias": (3,), "residual": (3, 3, 2, 2)},
    "batch_norm_act_dictionaries": {"input": (3, 3, 2, 2), "weight": (2, 4), "bias": (2, 4), "code": (3, 2)},
    "batch_norm_act_evaluation": {"input": (3, 3, 2, 2), "weight": (3,), "bias": (3,)},
    "chained_conv2d": {"input": (2, 3, 3, 2), "weight": (2, 2, 3, 2, 2), "code": (2,), "scale": (3,), "shift": (2, 3)},
    "folded_conv2d": {"input": (2, 3, 3, 2), "weight": (2, 3, 3, 2, 2), "code": (2,), "scale": (3,), "shift": (2, 3)},
    "chained_norm_act": {"input": (3, 3, 2, 2), "weight": (3,), "bias": (3, 3), "residual": (3, 3, 2, 2)},
}
MEAN, VARIANCE = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([0.5, 1.5, 2.0]).double()


def mixed_in_one_row(first: Tensor, second: Tensor, code: Tensor) -> Tensor:
    return torch.cat([mixed.flatten() for mixed in KF.mix_weights([first, second], code)])


def normalised(statistics: tuple[Tensor, Tensor] | None = None, **options: object) -> Function:
    def function(input: Tensor, weight: Tensor, bias: Tensor, **others: Tensor) -> Tensor:
        mean, variance = statistics or (None, None)
        training = statistics is None
        return KF.batch_norm_act(input, weight, bias, mean, variance, training=training, **others, **options)

    return function


def chained(input: Tensor, weight: Tensor, code: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A link, whose moments the next norm uses."""
    before = KF.ChannelNorm(MEAN, VARIANCE, scale, shift, activation="silu")
    raw, mean, variance = KF.chained_conv2d(input, weight, code, padding=1, norm=before)
    return KF.chained_norm_act(raw, KF.ChannelNorm(mean, variance, activation="silu"))


def folded(input: Tensor, weight: Tensor, code: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    norm = KF.ChannelNorm(MEAN, VARIANCE, scale, shift, activation="silu")
    return KF.folded_conv2d(input, weight, code, norm, padding=1)


def end_of_chain(input: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return KF.chained_norm_act(input, KF.ChannelNorm(MEAN, VARIANCE, weight, bias, activation="silu"), residual)


FUNCTIONS: dict[str, Function] = {
    "kshot_conv1d": lambda **t: KF.kshot_conv1d(**t, stride=2, padding=1),
    "kshot_conv2d": lambda **t: KF.kshot_conv2d(**t, padding="same", dilation=(2, 1)),
    "kshot_conv2d_depthwise": lambda **t: KF.kshot_conv2d(**t, padding=1, groups=4),
    "kshot_conv2d_per_sample": lambda **t: KF.kshot_conv2d(**t, out_channels=2),
    "kshot_conv2d_groups_per_sample": lambda **t: KF.kshot_conv2d(**t, groups=2),
    "kshot_conv2d_by_place": KF.kshot_conv2d,
    "kshot_conv3d": KF.kshot_conv3d,
    "gated_conv2d": KF.gated_conv2d,
    "kshot_linear": lambda **t: KF.kshot_linear(**t, out_features=3),
    "kshot_linear_per_sample": KF.kshot_linear,
    "dynamic_group_conv2d": lambda **t: KF.dynamic_group_conv2d(**t, padding=1),
    "dynamic_group_conv2d_per_sample": KF.dynamic_group_conv2d,
    "dynamic_group_weight": KF.dynamic_group_weight,
    "effective_weight": lambda **t: KF.effective_weight(**t, out_channels=2, in_channels=2),
    "kernel_window": lambda weight, transform: KF.kernel_window(weight, 3, [transform]),
    "regrouped_weight": lambda weight: KF.regrouped_weight(weight, 1, 2),
    "mix_weights": mixed_in_one_row,
    "dtw_align": lambda predictions, targets: KF.dtw_align(predictions, targets, band=1, norm=2).cost,
    "avg_pool2d": lambda input: KF.avg_pool2d(input, 3, 2, 1),
    "batch_norm_act": normalised(activation="silu"),
    "batch_norm_act_dictionaries": normalised(activation="hardswish"),
    "batch_norm_act_evaluation": normalised((MEAN, VARIANCE), activation="identity"),
    "chained_conv2d": chained,
    "chained_norm_act": end_of_chain,
    "folded_conv2d": folded,
}


def operator(name: str) -> tuple[Function, tuple[Tensor, ...]]:
    """A function of positional arguments, and such arguments; images are channels_last, for which we have kernels."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES[name].values()]

    def function(*tensors: Tensor) -> Tensor:
        return FUNCTIONS[name](**dict(zip(SHAPES[name], tensors)))

    images = name.startswith(("avg_pool", "batch_norm")) or "depthwise" in name
    last = torch.channels_last
    return function, tuple(t.contiguous(memory_format=last) if images and t.dim() == 4 else t for t in draws)


def directions(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in tensors)


def squared(function: Function) -> Function:
    """A loss whose second derivative is not zero."""
    return lambda *tensors: function(*tensors).square().sum()


def each(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(tensors)))
