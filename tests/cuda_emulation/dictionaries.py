"""Random weight dictionaries as kernels get them: values rounded to a dtype, memory layout, geometry.

Everything that a reference needs is a float64 tensor in logical order, [..., C_out, C_in, KH, KW].
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FLAT_ROW = 4096  # kFlatRow in csrc/common/mix_geometry.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # DType in csrc/common/dtype.h


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which kernels add elements up."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory(values: Tensor, dtype: torch.dtype, channels_last: bool = False) -> np.ndarray:
    """Elements in the order in which they lie in memory."""
    laid_out = values.movedim(-3, -1) if channels_last else values
    stored = laid_out.to(dtype).contiguous().flatten()
    return stored.view(torch.uint16).numpy() if dtype == torch.bfloat16 else stored.numpy()


def logical(array: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool = False) -> Tensor:
    """The tensor of `shape` whose elements `memory` laid out."""
    stored = torch.from_numpy(np.ascontiguousarray(array)).flatten()
    values = (stored.view(torch.bfloat16) if dtype == torch.bfloat16 else stored).double()
    if not channels_last:
        return values.reshape(shape)
    return values.reshape(*shape[:-3], *shape[-2:], shape[-3]).movedim(-1, -3)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values that the dtype has, in float64."""
    return values.to(dtype).double()


@dataclass
class Dictionary:
    """A dictionary [K, C_out, C_in, KH, KW] and the part of it that is in use."""

    weight: Tensor
    dtype: torch.dtype
    channels_last: bool
    out_channels: int
    in_channels: int

    @classmethod
    def random(cls, rng: np.random.Generator, dtype: torch.dtype, shots: int) -> "Dictionary":
        """Odd and even sizes, in every layout, often with fewer channels in use than there are."""
        out_channels, in_channels = (int(rng.choice([1, 2, 3, 5, 7, 8, 12, 16, 24])) for _ in range(2))
        kernel = int(rng.choice([1, 1, 2, 3, 3, 5]))
        if rng.random() < 0.1:
            out_channels, in_channels, kernel = 16, 40, 3  # several tiles, and rows that flat geometry cuts
        weight = torch.from_numpy(rng.standard_normal((shots, out_channels, in_channels, kernel, kernel)))
        whole = rng.random() < 0.4
        return cls(
            weight=rounded(weight, dtype),
            dtype=dtype,
            channels_last=bool(rng.random() < 0.5) and kernel > 1,
            out_channels=out_channels if whole else int(rng.integers(1, out_channels + 1)),
            in_channels=in_channels if whole or rng.random() < 0.5 else int(rng.integers(1, in_channels + 1)),
        )

    @property
    def shots(self) -> int:
        return self.weight.shape[0]

    @property
    def active(self) -> Tensor:
        return self.weight[:, : self.out_channels, : self.in_channels]

    @property
    def whole(self) -> bool:
        return self.active.shape == self.weight.shape

    def stored(self, values: Tensor) -> np.ndarray:
        """A tensor of this dictionary's dtype and layout."""
        return memory(values, self.dtype, self.channels_last)

    def loaded(self, array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        """The inverse of `stored`."""
        return logical(array, self.dtype, shape, self.channels_last)

    def geometry(self, samples: int, out_channels: int, in_channels: int, whole_rows: bool) -> list[int]:
        """The fields of a MixGeometry, as Dictionary::geometry of csrc/ops/dictionary.h has them."""
        _, all_out, all_in, height, width = self.weight.shape
        taps = height * width
        copy, size = all_out * all_in * taps, out_channels * in_channels * taps
        if not whole_rows and (out_channels, in_channels) == (all_out, all_in):
            rows = -(-copy // FLAT_ROW)
            last = copy - (rows - 1) * FLAT_ROW
            return [self.shots, samples, rows, 1, FLAT_ROW, last, copy, FLAT_ROW, 0, size]
        row = all_in * taps
        runs = taps if self.channels_last else 1
        run_length = in_channels if self.channels_last else in_channels * taps
        stride = all_in if self.channels_last else row
        return [self.shots, samples, out_channels, runs, run_length, run_length, copy, row, stride, size]


def assert_close(actual: Tensor, expected: Tensor, magnitude: Tensor, dtype: torch.dtype, terms: int) -> None:
    """Whether `actual`, stored in `dtype`, is `expected` but for rounding.

    The sum of `terms` products whose absolute values add up to `magnitude` was taken in the dtype of sums. Rounding
    errors of sums that are taken in parts grow far more slowly than the number of terms.
    """
    assert actual.shape == expected.shape
    sums = torch.finfo(sum_dtype(dtype)).eps
    stored = torch.finfo(dtype).eps
    tolerance = stored * expected.abs() + (8 + terms**0.25) * sums * magnitude + torch.finfo(dtype).tiny
    error = (actual - expected).abs()
    wrong = ~(error <= tolerance)  # also where not a number
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} elements are wrong, the first at {wrong.nonzero()[0].tolist()}: "
        f"{actual[wrong][0]} in place of {expected[wrong][0]} +- {tolerance[wrong][0]}"
    )
