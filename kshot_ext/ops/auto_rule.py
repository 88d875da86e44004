"""The rule of `algorithm="auto"`: whether a convolution that a kernel of ours could serve is given to it."""

from __future__ import annotations

import math

import torch

from kshot_ext import backend
from kshot_ext.ops.conv_forms import HALF_TYPES, ConvCall, is_linear_map
from kshot_ext.ops.memory_order import has_channels_innermost

_USUAL = 2**20
"""Positions and numbers for which the form of an exported graph is chosen: its own would bind it to a range of them."""


def prefers_fused(call: ConvCall) -> bool:
    """The rule of "auto" where we have a kernel, as `benchmarks/NOTES.md` measures it.

    Depthwise convolutions are ours, and per-sample ones but for dense ones of very few input channels, as of a colour
    image, and for some of contiguous images: see `_pays_for_layout`. With one weight for the batch, dense ones are ours
    at so few positions that calls take longer than products, and 1x1 convolutions of channels_last images, of many
    positions if both sides have at least 16 channels, a vector of AVX-512; but not large weights at 16 positions or
    fewer, where torch's product was measured faster.

    On CUDA depthwise convolutions are ours, and per-sample ones of larger kernels, which the vendor's library would
    take as N small groups. The vendor's product is taken wherever one serves a call: cuDNN with one code for the batch,
    `torch.bmm` for 1x1 convolutions with a code per sample. This rule is not measured yet, on no GPU; it rests on
    counted instructions, of which our dense kernels take more.
    """
    on_cuda = backend.kernels_for(call.input.device) == "cuda"
    channels_last = has_channels_innermost(call.input)
    if call.per_sample and not on_cuda and not channels_last and not _pays_for_layout(call):
        return False
    if call.depthwise:
        return True
    if on_cuda:
        return call.per_sample and not is_linear_map(call)
    if call.per_sample:
        return call.widths.in_channels >= 8
    positions = call.input.shape[0] * math.prod(call.window.output_size(call.input.shape[2:]))
    positions = _USUAL if torch.compiler.is_exporting() else positions
    inputs, outputs = call.widths.in_channels, call.widths.out_channels
    taps = math.prod(call.weight.shape[3:])
    if taps > 1:
        few = positions <= (1024 if channels_last else 512)
        return few and positions * taps * inputs * outputs <= 5_000_000
    if positions <= 16 and outputs > inputs and inputs * outputs > 2**17:
        return False
    return channels_last and (min(inputs, outputs) >= 16 or positions <= 16384)


def _pays_for_layout(call: ConvCall) -> bool:
    """Whether our per-sample kernels of the CPU gain more on contiguous images than the change to channels_last costs.

    That is four images moved in both directions, which small ones do not notice. 1x1 convolutions gain in proportion to
    their products, and products per moved number are the harmonic mean of the channels. Depthwise 3x3 convolutions,
    which move what they are bound by, lose; but not in half types, which PyTorch has no fast path for, nor where its
    grouped form becomes slow. Larger depthwise kernels, whose weight gradient PyTorch makes slowly, gain. Dense 3x3
    ones do not, unless their codes differ from place to place, by which our kernels mix at no cost.
    """
    numbers, taps = call.input.numel(), math.prod(call.weight.shape[3:])
    numbers = _USUAL if torch.compiler.is_exporting() else numbers
    if numbers <= 2**16:
        return True
    if call.depthwise:
        return taps > 9 or call.input.dtype in HALF_TYPES or numbers > 2**23
    inputs, outputs = call.widths.in_channels, call.widths.out_channels
    return call.by_place if taps > 1 else inputs * outputs >= 24 * (inputs + outputs)
