"""Where operands live and in which precision they are multiplied: every work runs in any place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Precision:
    """How numbers are kept and multiplied.

    Args:
        dtype: of operands.
        tf32: whether a GPU may cut the factors of float32 products to TF32, in our kernels and in the peers' alike.
        tolerance: largest difference of two forms, relative to the largest magnitude.
    """

    dtype: torch.dtype
    tf32: bool
    tolerance: float


PRECISIONS = {
    "float32": Precision(torch.float32, False, 1e-3),
    "tf32": Precision(torch.float32, True, 5e-3),
    "bfloat16": Precision(torch.bfloat16, False, 3e-2),
    "float16": Precision(torch.float16, False, 1e-2),
}


@dataclass(frozen=True)
class Place:
    """A device and a precision, by names that can be written down and sent to another process."""

    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"expected device cpu or cuda, got {self.device!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"expected precision {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.device == "cpu" and self.precision == "tf32":
            raise ValueError("precision tf32 needs device cuda: CPUs multiply float32 as it is")

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision].dtype

    @property
    def tolerance(self) -> float:
        return PRECISIONS[self.precision].tolerance

    @property
    def in_float32(self) -> Place:
        """The same device, in float32: for what is not rounded with the operands."""
        return Place(self.device)

    def put(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device, in the precision's dtype."""
        return tensor.to(self.device, self.dtype)

    def normal(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Normal values; drawn on the CPU, so that they are the same on every device."""
        return self.put(torch.randn(shape, generator=generator))

    @contextmanager
    def settings(self) -> Iterator[None]:
        """torch's settings for measuring here: TF32 as the precision says, cuDNN picks its algorithms by trying."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
        cudnn.allow_tf32 = matmul.allow_tf32 = PRECISIONS[self.precision].tf32
        cudnn.benchmark = True
        try:
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


CPU = Place()
