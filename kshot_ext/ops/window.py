"""The window of a convolution: kernel size, stride, padding and dilation, spelt out for every dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST = 2**31 - 1  # of stride, padding and dilation: kernels compute with positions in 32 bits
_LONG_STRIDE = 32  # oneDNN dies of some longer than a thousand, the sooner the more channels there are
_CHANNELS_LAST = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


class Window(NamedTuple):
    """One entry per spatial dimension; `padding` has two, before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # (top, bottom, left, right) for two dimensions
    dilation: tuple[int, ...]

    @classmethod
    def of_lists(
        cls, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ) -> Window:
        """From arguments of the native operators."""
        return cls(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))

    @classmethod
    def of_arguments(
        cls,
        kernel: Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        dilation: int | Sequence[int],
    ) -> Window:
        """From arguments as `torch.nn.functional.conv2d` takes them.

        Raises:
            ValueError: if one of them is not what torch would take, saying what was expected.
        """
        dims = len(kernel)
        stride = spelt_out("stride", stride, dims, 1)
        dilation = spelt_out("dilation", dilation, dims, 1)
        if padding == "same":
            if any(step != 1 for step in stride):
                raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
            total = [step * (size - 1) for step, size in zip(dilation, kernel)]
            sides = [side for t in total for side in (t // 2, t - t // 2)]  # the odd one goes to the end, as in torch
        elif isinstance(padding, str) and padding != "valid":
            raise ValueError(f"padding must be ints, 'same' or 'valid', got {padding!r}")
        else:
            each = spelt_out("padding", 0 if padding == "valid" else padding, dims, 0)
            sides = [side for p in each for side in (p, p)]
        return cls(tuple(kernel), stride, tuple(sides), dilation)

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the output.

        Raises:
            ValueError: if a dimension of the input is empty, or if the kernel, with its dilation, is larger than the
                padded input.
        """
        sizes = []
        _, stride, padding, _ = self
        for a, size in enumerate(input_size):
            if size < 1:
                raise ValueError(f"input must have at least one position in dimension {a + 2}, got {list(input_size)}")
            padded = size + padding[2 * a] + padding[2 * a + 1]
            reach = self.reach(a)
            if reach > padded:
                raise ValueError(
                    f"the kernel must fit into the padded input: it reaches over {reach} positions of dimension "
                    f"{a + 2}, the padded input {list(input_size)} has {padded}"
                )
            sizes.append((padded - reach) // stride[a] + 1)
        return tuple(sizes)

    def cut_to(self, input_size: Sequence[int]) -> Window:
        """The same window over an input of this size, without strides that lead far out of it.

        Where a dimension has a single output, any stride longer than what is left of the padded input does the same.
        oneDNN dies of long ones.

        Raises:
            ValueError: as `output_size`, or if there are windows in the padding alone, and the padded input is more
                than kernels can address.
        """
        output_size = self.output_size(input_size)
        if self._sees_padding_alone() and math.prod(self._padded(input_size)) > _MOST:
            raise ValueError(
                f"padding must leave at most {_MOST} positions, got {self._padded(input_size)} "
                f"for padding {self.padding}"
            )
        if all(step == 1 or size > 1 for step, size in zip(self.stride, output_size)):
            return self
        left = [size - self.reach(a) for a, size in enumerate(self._padded(input_size))]
        return self._replace(stride=tuple(min(step, room + 1) for step, room in zip(self.stride, left)))

    def _padded(self, input_size: Sequence[int]) -> list[int]:
        return [size + sum(self.padding[2 * a : 2 * a + 2]) for a, size in enumerate(input_size)]

    def _sees_padding_alone(self) -> bool:
        """Whether the padding is so wide that a window may lie in it."""
        return any(max(self.padding[2 * a : 2 * a + 2]) >= self.reach(a) for a in range(len(self.kernel)))

    def reach(self, a: int) -> int:
        """Positions of dimension `a` from the first tap to the last."""
        return self.dilation[a] * (self.kernel[a] - 1) + 1

    def without_pitfalls(self, input: Tensor) -> tuple[Tensor, Window]:
        """Another input and window with the same outputs, where torch's convolution would end the process.

        As torch 2.13 calls it, oneDNN may die of windows that see padding alone, and of long strides. So such padding
        becomes a part of the input, and of an axis with a long stride only the positions are kept that a tap reads.

        For torch's convolution only: zeros of the input meet an infinite weight, where our kernels leave padding out.
        """
        axes = range(len(self.kernel))
        long = [a for a in axes if self.stride[a] > _LONG_STRIDE]
        if not long and not self._sees_padding_alone():
            return input, self
        outputs = self.output_size(input.shape[2:])
        input = F.pad(input, [side for a in reversed(axes) for side in self.padding[2 * a : 2 * a + 2]])
        stride, dilation = list(self.stride), list(self.dilation)
        for a in long:
            first = torch.arange(outputs[a], device=input.device) * stride[a]
            taps = torch.arange(self.kernel[a], device=input.device) * dilation[a]
            picked = input.index_select(2 + a, (first[:, None] + taps).flatten())
            input = picked if input.is_contiguous() else picked.contiguous(memory_format=_CHANNELS_LAST[len(axes)])
            stride[a], dilation[a] = self.kernel[a], 1
        return input, Window(self.kernel, tuple(stride), (0,) * len(self.padding), tuple(dilation))

    def torch_arguments(self) -> tuple[tuple[int, ...], tuple[int, ...] | str, tuple[int, ...]]:
        """Stride, padding and dilation as `torch.nn.functional.conv2d` takes them."""
        before, after = self.padding[::2], self.padding[1::2]
        return self.stride, before if before == after else "same", self.dilation

    def as_lists(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Arguments of the native operators."""
        return list(self.kernel), list(self.stride), list(self.padding), list(self.dilation)


def spelt_out(name: str, sizes: object, dims: int, least: int) -> tuple[int, ...]:
    """`sizes`, an int or one for each of `dims` dimensions, as one for each."""
    if type(sizes) is int and least <= sizes <= _MOST:  # by far the most frequent
        return (sizes,) * dims
    values = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
    legal = len(values) in (1, dims)
    for v in values:  # no generator: this runs in every call
        legal = legal and not (isinstance(v, (bool, float, str)) or v is None or not least <= v <= _MOST)
    if not legal:
        raise ValueError(f"{name} must be an int >= {least} or {dims} of them, got {sizes!r} (the largest is {_MOST})")
    return values * dims if len(values) == 1 else values
