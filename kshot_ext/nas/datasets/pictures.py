"""Images as Python programs hold them (PIL, numpy, torch) as tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kshot_ext.nas.datasets.decode import pixels_of, plain_picture
from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

_EXPECTED = "expected a PIL image, a uint8 array, or a tensor [C, H, W] of uint8 or floating point"


def image_tensor(value: Any, name: str) -> Tensor:
    """An image as a tensor.

    Args:
        value: a PIL image; a numpy array, uint8 ``[H, W]`` or ``[H, W, C]``; or a tensor, uint8 or floating point
            ``[C, H, W]`` or ``[H, W]``.
        name: of the image, for messages.

    Returns:
        ``[C, H, W]``: uint8, or float32 of what was floating point.

    Raises:
        DataError: if it is something else, is empty, or has values that are no numbers.

    Example:
        >>> image_tensor(np.zeros((4, 5, 3), np.uint8), "image 0").shape
        torch.Size([3, 4, 5])
    """
    # A subclass, such as torchvision has for images, would pass each step here through its own Python.
    value = value.as_subclass(Tensor) if isinstance(value, Tensor) else _from_other(value, name)
    value = value.unsqueeze(0) if value.dim() == 2 else value
    shape = list(value.shape)
    if value.dim() != 3 or 0 in shape:
        raise DataError(f"{name}: {_EXPECTED}, got one of shape {shape}")
    if shape[2] in (1, 3) and shape[0] not in (1, 3):
        raise DataError(f"{name}: expected channels first, [C, H, W], got a tensor of shape {shape}")
    if value.dtype == torch.uint8:
        return value
    if not value.is_floating_point():
        raise DataError(f"{name}: {_EXPECTED}, got {value.dtype}")
    value = value.detach().to(torch.float32)
    if not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
        bad = int((~value.isfinite()).sum())
        raise DataError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite; look at its transform")
    return value


def picture_of(value: Any, name: str) -> Image | Tensor:
    """An image, see `image_tensor`, as a transform gets it: as a PIL image, but for tensors of floating point, or with
    other than 1 or 3 channels.

    Raises:
        DataError: as of `image_tensor`.
    """
    return plain_picture(value, name) if _is_picture(value) else to_picture(image_tensor(value, name))


def to_picture(image: Tensor) -> Image | Tensor:
    """A PIL image of uint8 with 1 or 3 channels, else the tensor itself."""
    if image.dtype != torch.uint8 or len(image) not in (1, 3):
        return image
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return require("PIL.Image").fromarray(pixels[:, :, 0] if len(image) == 1 else pixels)


def _from_other(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise DataError(f"{name}: {_EXPECTED}, got an array {value.dtype} {list(value.shape)}")
        return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(value).transpose(2, 0, 1)))
    if _is_picture(value):
        return pixels_of(plain_picture(value, name))
    raise DataError(f"{name}: {_EXPECTED}, got {type(value).__name__}")


def _is_picture(value: Any) -> bool:
    """Whether a value has what PIL's images have, whatever class it is of."""
    return hasattr(value, "getbands") and hasattr(value, "convert")
