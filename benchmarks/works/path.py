"""A path of NAS-Bench-Macro, MB6 5x5 and MB3 3x3 in turn, as a network over any kind of operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.layers import ConvLayer
from benchmarks.networks import (
    NAS_BENCH_MACRO_HEAD,
    NAS_BENCH_MACRO_STEM,
    inverted_residual,
    nas_bench_macro_positions,
)
from benchmarks.place import CPU, Place

CLASSES = 10


@dataclass(frozen=True)
class PathOperators:
    """How a path computes.

    Args:
        conv: `(input, weight, layer)`, where a weight may be what the form likes: plain, or a dictionary.
        norm: `(input, weight, bias, activation, residual)`, in training.
        linear: `(input, weight)`.
    """

    conv: Callable[[Tensor, Tensor, ConvLayer], Tensor]
    norm: Callable[[Tensor, Tensor, Tensor, str, Tensor | None], Tensor]
    linear: Callable[[Tensor, Tensor], Tensor]


def path_blocks() -> list[list[ConvLayer]]:
    """The convolutions of each block: stem, eight inverted residuals, head."""
    blocks = [[NAS_BENCH_MACRO_STEM]]
    for index, (name, channels, size, stride) in enumerate(nas_bench_macro_positions()):
        expansion, kernel_size = (6, 5) if index % 2 == 0 else (3, 3)
        blocks.append(inverted_residual(name, channels, expansion, kernel_size, size, stride))
    return [*blocks, [NAS_BENCH_MACRO_HEAD]]


def path_layers() -> list[ConvLayer]:
    return [layer for block in path_blocks() for layer in block]


def path_dictionaries(num_shots: int, place: Place = CPU) -> list[Tensor]:
    """A dictionary per convolution and, last, the linear layer's, `[K, 10, 1280]`; He initialisation."""
    shapes = [layer.weight_shape for layer in path_layers()]
    shapes.append((CLASSES, NAS_BENCH_MACRO_HEAD.out_channels))
    generator = torch.Generator().manual_seed(0)
    fans_in = [torch.Size(shape[1:]).numel() for shape in shapes]
    return [place.normal(generator, num_shots, *shape) * (2 / fan_in) ** 0.5 for shape, fan_in in zip(shapes, fans_in)]


def run_path(
    operators: PathOperators,
    weights: Sequence[Tensor],
    norms: Sequence[tuple[Tensor, Tensor]],
    images: Tensor,
) -> Tensor:
    """Logits `[N, 10]`.

    Args:
        weights: one per convolution, and the linear layer's.
        norms: weight and bias of the batch norm after each convolution.
    """
    features = images
    index = 0
    for block in path_blocks():
        block_input = features
        for layer in block:
            residual = None
            if not layer.activation and block_input.shape[1] == layer.out_channels and len(block) > 1:
                residual = block_input
            activation = "relu" if layer.activation else "identity"
            features = operators.conv(features, weights[index], layer)
            features = operators.norm(features, *norms[index], activation, residual)
            index += 1
    return operators.linear(F.adaptive_avg_pool2d(features, 1).flatten(1), weights[-1])
