"""What one would write in plain PyTorch. Peers take `(input, dictionary, code, layer)`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.layers import ConvLayer


def mix_by_matmul(dictionary: Tensor, code: Tensor) -> Tensor:
    """`code @ dictionary`, flattened in the order of memory, so that no layout costs a copy."""
    order = sorted(range(1, dictionary.dim()), key=dictionary.stride, reverse=True)
    in_memory_order = dictionary.permute(0, *order)
    mixed = code @ in_memory_order.reshape(len(dictionary), -1)
    leading = code.dim() - 1
    mixed = mixed.unflatten(-1, in_memory_order.shape[1:])
    back = [leading + order.index(dim) for dim in range(1, dictionary.dim())]
    return mixed.permute(*range(leading), *back)


def mix_by_einsum(dictionary: Tensor, code: Tensor) -> Tensor:
    return torch.einsum("...k,koihw->...oihw", code, dictionary)


def convolve(input: Tensor, weight: Tensor, layer: ConvLayer) -> Tensor:
    """One plain weight."""
    return F.conv2d(input, weight, None, layer.stride, layer.padding, groups=layer.groups)


def matmul_then_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    return convolve(input, mix_by_matmul(dictionary, code), layer)


def einsum_then_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    return convolve(input, mix_by_einsum(dictionary, code), layer)


def weighted_sum_of_convs(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    """K convolutions; serves codes `[K]` and `[N, K]`."""
    outputs = (convolve(input, weight, layer) for weight in dictionary)
    shares = (share.reshape(-1, 1, 1, 1) for share in code.unbind(-1))
    return sum(share * output for share, output in zip(shares, outputs))


def matmul_then_grouped_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    return _grouped_conv(input, mix_by_matmul(dictionary, code), layer)


def einsum_then_grouped_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    return _grouped_conv(input, mix_by_einsum(dictionary, code), layer)


def _grouped_conv(input: Tensor, weights: Tensor, layer: ConvLayer) -> Tensor:
    """One weight per sample as the groups of one convolution, as CondConv layers of public libraries do."""
    batch = len(input)
    output = F.conv2d(
        input.reshape(1, -1, *input.shape[2:]),
        weights.flatten(0, 1),
        None,
        layer.stride,
        layer.padding,
        groups=batch * layer.groups,
    )
    return output.reshape(batch, -1, *output.shape[2:])


def slice_then_conv(input: Tensor, weight: Tensor, layer: ConvLayer) -> Tensor:
    """`layer`, of reduced width, cut out of the weight of the full width."""
    out_channels, in_channels = layer.weight_shape[:2]
    return convolve(input, weight[:out_channels, :in_channels].contiguous(), layer)


def batch_norm_relu(input: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    return F.relu(F.batch_norm(input, running_mean, running_var, weight, bias, training=True))


SHARED_CODE = {
    "matmul, conv": matmul_then_conv,
    "einsum, conv": einsum_then_conv,
    "K convs": weighted_sum_of_convs,
}
PER_SAMPLE_CODE = {
    "matmul, grouped conv": matmul_then_grouped_conv,
    "einsum, grouped conv": einsum_then_grouped_conv,
    "K convs": weighted_sum_of_convs,
}
