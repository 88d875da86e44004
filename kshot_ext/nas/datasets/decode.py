"""Image files into tensors."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.extras import require

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_FILE_BYTES = 64 * 2**20

_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MAX_PIXELS = 64 * 2**20
_GREY_MODES = frozenset({"1", "L", "LA"})
_DEEP_MODES = frozenset({"F", "I", "I;16", "I;16B", "I;16L"})


def decode_image(data: bytes, name: str) -> Tensor:
    """Decode one image file.

    Args:
        data: the file's bytes.
        name: the file's name, for messages.

    Returns:
        uint8 ``[1, H, W]`` for a grey image, else ``[3, H, W]``; transparency is dropped.

    Raises:
        DataError: if the file is damaged, too large, or has more than 8 bits per channel.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image.size, image.mode, name)
            pixels = np.array(image.convert("L" if image.mode in _GREY_MODES else "RGB"))
    except DataError:
        raise
    except Exception as error:  # Damaged files make the decoders raise nearly anything.
        reason = "not an image file" if isinstance(error, image_module.UnidentifiedImageError) else error
        raise DataError(f"{name}: damaged image ({reason})") from error
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def _check_header(size: tuple[int, int], mode: str, name: str) -> None:
    if size[0] * size[1] > _MAX_PIXELS:
        raise DataError(f"{name}: expected at most {_MAX_PIXELS} pixels, got {size[0]}x{size[1]}")
    if mode in _DEEP_MODES:
        raise DataError(f"{name}: expected 8 bits per channel, got an image of mode {mode!r}")


def fit_square(image: Tensor, size: int) -> Tensor:
    """Scale an image until its shorter side is ``size``, and keep the square in its middle.

    Args:
        image: uint8 ``[C, H, W]``.
        size: side of the result in pixels.

    Returns:
        uint8 ``[C, size, size]``.
    """
    height, width = image.shape[1:]
    shorter = min(height, width)
    scaled_shape = (round(height * size / shorter), round(width * size / shorter))
    scaled = F.interpolate(image[None], scaled_shape, mode="bilinear", antialias=True)[0]
    top, left = (scaled_shape[0] - size) // 2, (scaled_shape[1] - size) // 2
    return scaled[:, top : top + size, left : left + size]
