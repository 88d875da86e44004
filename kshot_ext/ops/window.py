"""The window of a convolution: kernel size, stride, padding and dilation, spelt out for every dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

_MOST = 2**31 - 1  # of stride, padding and dilation: kernels compute with positions in 32 bits


class Window(NamedTuple):
    """One entry per spatial dimension; `padding` has two, before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # (top, bottom, left, right) for two dimensions
    dilation: tuple[int, ...]

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
        stride = _spelt_out("stride", stride, dims, 1)
        dilation = _spelt_out("dilation", dilation, dims, 1)
        if padding == "same":
            if any(step != 1 for step in stride):
                raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
            total = [step * (size - 1) for step, size in zip(dilation, kernel)]
            sides = [side for t in total for side in (t // 2, t - t // 2)]  # the odd one goes to the end, as in torch
        elif isinstance(padding, str) and padding != "valid":
            raise ValueError(f"padding must be ints, 'same' or 'valid', got {padding!r}")
        else:
            each = _spelt_out("padding", 0 if padding == "valid" else padding, dims, 0)
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
            ValueError: as `output_size`.
        """
        output_size = self.output_size(input_size)
        if all(step == 1 or size > 1 for step, size in zip(self.stride, output_size)):
            return self
        left = [
            size + self.padding[2 * a] + self.padding[2 * a + 1] - self.reach(a) for a, size in enumerate(input_size)
        ]
        return self._replace(stride=tuple(min(step, room + 1) for step, room in zip(self.stride, left)))

    def reach(self, a: int) -> int:
        """Positions of dimension `a` from the first tap to the last."""
        return self.dilation[a] * (self.kernel[a] - 1) + 1

    def sees_padding_alone(self) -> bool:
        """Whether there is an output that no position of the input feeds."""
        return any(max(self.padding[2 * a : 2 * a + 2]) >= self.reach(a) for a in range(len(self.kernel)))

    def padded(self, input: Tensor) -> Tensor:
        """The input with the padding around it: what a window without padding then sees is the same.

        Raises:
            ValueError: if that is more than kernels can address.
        """
        size = [length + sum(self.padding[2 * a : 2 * a + 2]) for a, length in enumerate(input.shape[2:])]
        if math.prod(size) > _MOST:
            raise ValueError(f"padding must leave at most {_MOST} positions, got {size} for padding {self.padding}")
        return F.pad(input, [side for a in reversed(range(len(size))) for side in self.padding[2 * a : 2 * a + 2]])

    def torch_arguments(self) -> tuple[tuple[int, ...], tuple[int, ...] | str, tuple[int, ...]]:
        """Stride, padding and dilation as `torch.nn.functional.conv2d` takes them."""
        before, after = self.padding[::2], self.padding[1::2]
        return self.stride, before if before == after else "same", self.dilation

    def as_lists(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Arguments of the native operators."""
        return list(self.kernel), list(self.stride), list(self.padding), list(self.dilation)


def _spelt_out(name: str, sizes: object, dims: int, least: int) -> tuple[int, ...]:
    if type(sizes) is int and least <= sizes <= _MOST:  # by far the most frequent
        return (sizes,) * dims
    values = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
    legal = len(values) in (1, dims)
    for v in values:  # no generator: this runs in every call
        legal = legal and not (isinstance(v, (bool, float, str)) or v is None or not least <= v <= _MOST)
    if not legal:
        raise ValueError(f"{name} must be an int >= {least} or {dims} of them, got {sizes!r} (the largest is {_MOST})")
    return values * dims if len(values) == 1 else values
