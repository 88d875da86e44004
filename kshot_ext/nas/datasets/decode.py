"""Image files into tensors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.nas.datasets.memory import check_memory
from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE_BYTES = 64 * 2**20

# None of them runs other programs, and each is known by its first bytes.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000", "ICO", "QOI")
_MAX_PIXELS = 64 * 2**20
_FEW_PIXELS = 2**20
_BYTES_PER_PIXEL = 24  # while decoding: the image, it turned, with alpha, on its background, as an array, as a tensor
LONGEST_SIDES = 4
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_LIGHT = 0.75
_WHITE_16_BITS = 2**16 - 1
_DARK_16_BITS = 2**12
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
_PNG_DEPTH = 24  # where a PNG file says how many bits a channel has


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the files that `decode_image` reads."""
    formats = require("PIL.Image").registered_extensions().items()
    return frozenset(suffix for suffix, name in formats if name in (*_FORMATS, "MPO"))  # MPO: JPEG with more images


def is_image(file: IO[bytes]) -> bool:
    """Whether a file begins as an image does, whatever it is called."""
    image_module = require("PIL.Image")
    try:
        with _quietly(), image_module.open(file, formats=_known_formats()):
            return True
    except image_module.DecompressionBombError:
        return True  # which `decode_image` then refuses by name
    except Exception:  # Anything may come of bytes that are no image.
        return False


def decode_image(data: bytes, name: str) -> Tensor:
    """Decode one image file, as viewers show it: turned as its EXIF orientation says, on an opaque background.

    The background is white; it is black where white would hide the content, namely if the visible pixels are light
    (weighed by their opacity, their mean luminance is above 3/4 of white). Of several frames the first counts. 16 bits
    of grey are rounded to 8.

    Args:
        data: the file's bytes.
        name: the file's name, for messages.

    Returns:
        uint8 ``[1, H, W]`` for a grey image, else ``[3, H, W]``.

    Raises:
        DataError: if the file is damaged or too large, or its numbers do not reach from black to white.
    """
    return pixels_of(decode_picture(data, name))


def decode_picture(data: bytes, name: str) -> Image:
    """As `decode_image`, but as a PIL image, of mode L or RGB."""
    image_module = require("PIL.Image")
    try:
        with _quietly(), image_module.open(io.BytesIO(data), formats=_known_formats()) as image:
            _check_size(image.size, name)
            image.load()
            _scale_transparency(image, data)
            return plain_picture(image, name)
    except DataError:
        raise
    except Exception as error:  # Damaged files make the decoders raise nearly anything.
        reason = "not an image file" if isinstance(error, image_module.UnidentifiedImageError) else error
        raise DataError(f"{name}: damaged image ({reason})") from error


def plain_picture(image: Image, name: str) -> Image:
    """A PIL image of any mode as `decode_image` has it: upright, opaque, of mode L or RGB; perhaps the image itself.

    Args:
        image: left unchanged.
        name: of it, for messages.

    Raises:
        DataError: if its numbers do not reach from black to white.
    """
    upright = _upright(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return require("PIL.Image").fromarray(_from_16_bits(upright, image.format or "", name))
    wanted = "L" if upright.mode in _GREY_MODES else "RGB"
    if upright.has_transparency_data:
        upright = _on_background(upright)
    return upright if upright.mode == wanted else upright.convert(wanted)


def pixels_of(picture: Image) -> Tensor:
    """The pixels of an image of mode L or RGB, uint8 ``[C, H, W]``."""
    # Channels stay last in memory: to move them would take as long as to scale the image.
    return torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1)


def fit_square(image: Tensor, size: int) -> Tensor:
    """Scale an image until its shorter side is ``size``, and keep the square in its middle.

    Of a very long image only the middle is scaled, so that the work is bounded by the result, not by the shape.

    Args:
        image: uint8 ``[C, H, W]``.
        size: side of the result in pixels.

    Returns:
        uint8 ``[C, size, size]``.
    """
    longest = LONGEST_SIDES * min(image.shape[1:])
    for dim in (1, 2):
        extra = max(image.shape[dim] - longest, 0)
        image = image.narrow(dim, extra // 2, image.shape[dim] - extra)
    height, width = image.shape[1:]
    shorter = min(height, width)
    scaled_shape = (round(height * size / shorter), round(width * size / shorter))
    scaled = F.interpolate(image[None], scaled_shape, mode="bilinear", antialias=True)[0]
    top, left = (scaled_shape[0] - size) // 2, (scaled_shape[1] - size) // 2
    return scaled[:, top : top + size, left : left + size]


def bytes_to_scale(size: int) -> int:
    """Most bytes that `fit_square` makes of one image on the way: of colour, after each of two directions."""
    return 2 * 3 * LONGEST_SIDES * size**2


@cache
def _known_formats() -> tuple[str, ...]:
    known = set(require("PIL.Image").registered_extensions().values())  # older versions of Pillow lack some
    return tuple(name for name in _FORMATS if name in known)


@contextmanager
def _quietly() -> Iterator[None]:
    """What decoders warn of (odd metadata, large images) either does not matter here or is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(size: tuple[int, int], name: str) -> None:
    pixels = size[0] * size[1]
    if pixels > _MAX_PIXELS:
        raise DataError(f"{name}: expected at most {_MAX_PIXELS} pixels, got {size[0]}x{size[1]}")
    if pixels > _FEW_PIXELS:  # so the common image costs no look at the memory
        check_memory(f"{name} ({size[0]}x{size[1]})", _BYTES_PER_PIXEL * pixels)


def _upright(image: Image) -> Image:
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:  # so the common image is not copied
            return image
        return require("PIL.ImageOps").exif_transpose(image)
    except Exception:  # Metadata that nobody can read turns nothing.
        return image


def _from_16_bits(image: Image, file_format: str, name: str) -> np.ndarray:
    # PNG and PPM say that 65535 is white, whatever the mode that Pillow puts it in.
    is_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM"))
    values = np.asarray(image) if is_16_bits else None
    transparent = image.info.get("transparency")
    visible: Any = (
        values != transparent if is_16_bits and isinstance(transparent, int) else np.ones(image.size[::-1], bool)
    )
    brightest = 0 if values is None else int(values.max(initial=0, where=visible))
    if values is None or 0 < brightest < _DARK_16_BITS:
        found = f"mode {image.mode!r}" + (f" with values up to {brightest}" if is_16_bits else "")
        expected = f"expected 8 bits per channel, or 16 bits of grey whose white is {_WHITE_16_BITS}"
        raise DataError(f"{name}: {expected}, got an image of {found}; scale its values to 8 bits")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return grey if visible.all() else np.where(visible, grey, _background(grey, visible.astype(np.uint8) * 255))


def _scale_transparency(image: Image, data: bytes) -> None:
    """Bring the value that a PNG calls transparent to the range that Pillow brings the pixels to, which is 8 bits.

    Of 16 bits of colour Pillow keeps the upper ones; 16 bits of grey it leaves as they are.
    """
    value = image.info.get("transparency")
    depth = data[_PNG_DEPTH] if image.format == "PNG" and len(data) > _PNG_DEPTH else 8
    if image.mode == "RGB" and depth == 16 and isinstance(value, tuple):
        image.info["transparency"] = tuple(entry >> 8 for entry in value)
    elif image.mode == "L" and depth in (2, 4) and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**depth - 1)


def _background(luminance: np.ndarray, opacity: np.ndarray) -> int:
    """White, or black where the visible content is light: uint8 ``[H, W]`` each."""
    visible = np.einsum("ij,ij->", luminance, opacity, dtype=np.float64)
    return 0 if visible > _LIGHT * 255 * opacity.sum(dtype=np.float64) else 255


def _on_background(image: Image) -> Image:
    image_module = require("PIL.Image")
    if image.mode in ("La", "RGBa"):  # colours multiplied by the opacity
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    value = _background(np.asarray(image.convert("L")), np.asarray(image.getchannel("A")))
    canvas = image_module.new("RGBA", image.size, (value, value, value, 255))
    canvas.alpha_composite(image)
    return canvas
