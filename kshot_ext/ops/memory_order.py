"""In which order a batch of images lies in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def has_channels_innermost(image: Tensor) -> bool:
    """Whether the channels of `[N, C, ...]` lie closest together, as in channels_last or in some channels of it.

    `is_contiguous(memory_format=torch.channels_last)` says no of slices and strided views; as torch's own convolutions
    do, what works on channels_last images takes them as such all the same. Tensors that a function transform has
    wrapped answer by their strides alone.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(image):
        return _by_strides(image)
    if image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last):
        return True
    if image.dim() == 5 and image.is_contiguous(memory_format=torch.channels_last_3d):
        return True
    return _by_strides(image)


def _by_strides(image: Tensor) -> bool:
    others = [stride for dim, (size, stride) in enumerate(zip(image.shape, image.stride())) if dim != 1 and size > 1]
    return image.shape[1] > 1 and bool(others) and 0 < image.stride(1) < min(others)
