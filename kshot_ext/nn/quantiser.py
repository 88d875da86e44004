"""Values rounded to the few that so many bits can tell apart, with the gradient of no rounding.

    q(x) = step * round(clip(x, low, high) / step),    dq/dx = 1 where low <= x <= high, else 0

The gradient passes straight through the rounding (Bengio et al., "Estimating or Propagating Gradients Through
Stochastic Neurons", 2013). Levels lie evenly about zero, which is one of them, so that padding stays exact. A step is a
multiple of the root mean square: the one that loses least, in the mean of squares, of normally distributed values.

All of it is plain torch, so that graphs of it run, compile and export where this package is not installed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FEWEST_BITS, MOST_BITS = 2, 8
_CLIPPED_AT = {2: 1.2240, 3: 1.9523, 4: 2.4739, 5: 2.8987, 6: 3.2701, 7: 3.6075, 8: 3.9205, 9: 4.2147}
"""By bits b: where a normal distribution of deviation 1 is clipped, so that its mean squared distance to the nearest of
2^b - 1 even levels is least."""
_SMALLEST_STEP = 2.0**-24  # of values that are all zero; float16 can hold it


def check_bits(name: str, bits: Any) -> int:
    """The bits, checked to be a whole number from 2 to 8.

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{name}: expected a whole number of bits from {FEWEST_BITS} to {MOST_BITS}, got {bits!r}")
    return bits


def quantise_weight(weight: Tensor, bits: int, inner_dims: int = 3) -> Tensor:
    """A weight with at most ``2^bits - 1`` different values in each output channel:

        step[o] = c(bits) * rms(weight[o]) / (2^(bits-1) - 1),    levels -(2^(bits-1) - 1) .. 2^(bits-1) - 1

    Args:
        weight: ``[C_out, ...]`` of any floating dtype.
        bits: 2 to 8; c(bits) is 1.22 for 2, 2.47 for 4, 3.92 for 8.
        inner_dims: how many dimensions follow the first: 3 for images, 1 for rows of features.

    Returns:
        The same shape and dtype.

    Gradients:
        To ``weight``: as it comes where ``|weight| <= c(bits) * rms``, else zero. The steps count as constants.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[1.0, -1.0, 0.5, -0.5]])  # rms 0.79, so the levels are -0.97, 0 and 0.97
        >>> quantise_weight(weight, bits=2, inner_dims=1)
        tensor([[ 0.9677, -0.9677,  0.9677, -0.9677]])
    """
    most = 2 ** (check_bits("bits", bits) - 1) - 1
    step = _rms(weight, inner_dims) * (_CLIPPED_AT[bits] / most)
    step = step.clamp(min=_SMALLEST_STEP).to(weight.dtype)
    return _rounded(weight, step, -most * step, most * step)


def quantise_activation(input: Tensor, bits: int, inner_dims: int = 3) -> Tensor:
    """Activations with at most ``2^bits`` different values in each sample.

    A sample without negative values, such as what a ReLU puts out, has the levels 0 .. 2^bits - 1; another one those of
    :func:`quantise_weight`. Steps are made anew for each sample, from its own values alone: so they fit every path of a
    supernet, no image looks at those around it, and there is nothing to learn or to measure beforehand.

        signed:       step = c(bits) * rms / (2^(bits-1) - 1)
        not negative: step = c(bits + 1) * sqrt(2) * rms / (2^bits - 1)

    The latter takes the values for the upper half of a normal distribution, whose lower half a ReLU has made zero.

    Args:
        input: ``[N, ...]`` of any floating dtype.
        bits: 2 to 8.
        inner_dims: how many dimensions, the last ones, one step covers: 3 for images, 1 for rows of features.

    Returns:
        The same shape and dtype.

    Gradients:
        To ``input``: as it comes within the outermost levels, else zero. The steps count as constants.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, 1.0, -1.0]])
        >>> quantise_activation(inputs, bits=2, inner_dims=1)
        tensor([[ 0.0000,  1.7218,  1.7218,  3.4435],
                [-1.2240,  1.2240,  1.2240, -1.2240]])
    """
    most_signed, most = 2 ** (check_bits("bits", bits) - 1) - 1, 2**bits - 1
    per_rms = _CLIPPED_AT[bits] / most_signed, _CLIPPED_AT[bits + 1] * math.sqrt(2) / most
    signed = input.detach().amin(tuple(range(-inner_dims, 0)), keepdim=True) < 0
    step = _rms(input, inner_dims) * torch.where(signed, *per_rms)
    step = step.clamp(min=_SMALLEST_STEP).to(input.dtype)
    return _rounded(
        input, step, step * torch.where(signed, -most_signed, 0), step * torch.where(signed, most_signed, most)
    )


def _rms(values: Tensor, inner_dims: int) -> Tensor:
    """Root mean square over the last dimensions, which stay, of size 1; in float32, where no square is too large."""
    dims = tuple(range(-inner_dims, 0))
    return values.detach().float().square().mean(dims, keepdim=True).sqrt()


def _rounded(values: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = values.clamp(low, high)
    constant = clipped.detach()
    # Exact, by Sterbenz: a level that is not zero, and what is rounded to it, are within a factor of two.
    return clipped + ((constant / step).round() * step - constant)
