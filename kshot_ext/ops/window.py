"""The window of a convolution: kernel size, stride, padding and dilation, spelt out for every dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


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
            ValueError: if the kernel, with its dilation, is larger than the padded input.
        """
        sizes = []
        kernel, stride, padding, dilation = self
        for a, size in enumerate(input_size):
            padded = size + padding[2 * a] + padding[2 * a + 1]
            reach = dilation[a] * (kernel[a] - 1) + 1
            if reach > padded:
                raise ValueError(
                    f"the kernel must fit into the padded input: it reaches over {reach} positions of dimension "
                    f"{a + 2}, the padded input {list(input_size)} has {padded}"
                )
            sizes.append((padded - reach) // stride[a] + 1)
        return tuple(sizes)

    def as_lists(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Arguments of the native operators."""
        return list(self.kernel), list(self.stride), list(self.padding), list(self.dilation)


def _spelt_out(name: str, sizes: object, dims: int, least: int) -> tuple[int, ...]:
    if type(sizes) is int and sizes >= least:  # by far the most frequent
        return (sizes,) * dims
    values = tuple(sizes) if isinstance(sizes, (tuple, list)) else (sizes,)
    legal = len(values) in (1, dims)
    for v in values:  # no generator: this runs in every call
        legal = legal and not (isinstance(v, (bool, float, str)) or v is None or v < least)
    if not legal:
        raise ValueError(f"{name} must be an int >= {least} or {dims} of them, got {sizes!r}")
    return values * dims if len(values) == 1 else values
