"""Keeps the images of a source: decodes them into memory, or finds out what workers need to stream them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kshot_ext.nas.datasets.decode import bytes_to_scale
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.memory import TooLargeError, check_memory
from kshot_ext.nas.datasets.settings import ImageSettings
from kshot_ext.nas.datasets.source import DataError, ImageSource
from kshot_ext.nas.datasets.streamed import Images, Reader, StreamedImages
from kshot_ext.nas.memory import available_memory
from kshot_ext.nas.randomness import everything_seeded

OnImage = Callable[[int, int], None]

_LOOKED_AT = 512
_SMALL = 8


def keep_images(
    source: ImageSource,
    chosen: Tensor,
    labels: Tensor,
    image_size: int | None,
    settings: ImageSettings,
    on_image: OnImage | None,
) -> tuple[Images, tuple[str, ...]]:
    """Images in memory, or streamed, as the settings say.

    Args:
        source: of the images.
        chosen: int64 ``[N]``, which of them.
        labels: of these.
        image_size: see `load_splits`.
        settings: how they are kept.
        on_image: called after each image with the number done and their total.

    Returns:
        The images, and what is to be said of how they are kept.

    Raises:
        DataError: as of `load_splits`.
    """
    indices = chosen.tolist()
    if settings.keep == "memory":
        if source.read_training is not None:
            raise DataError(
                f"{source.name}: transforms run each time that an image is read, expected images.keep to be stream or "
                "auto, got memory"
            )
        notes = ("each image is read once, so transforms of the data do not vary it anew",) if source.varies else ()
        return ImageSet(_decode(source, indices, image_size, on_image), labels), notes
    reason = "the data passes through a transform" if source.varies else ""
    if settings.keep == "auto" and not source.varies:
        try:
            return ImageSet(_decode(source, indices, image_size, on_image), labels), ()
        except TooLargeError as error:
            reason = str(error).removeprefix(f"{source.name}: ").partition(";")[0]
    reader = _reader(source, indices, image_size, on_image)
    notes = (f"images are read anew whenever they are used: {reason}",) if reason else ()
    return StreamedImages(reader, chosen, labels, settings.worker_count), notes


def _reader(source: ImageSource, indices: list[int], image_size: int | None, on_image: OnImage | None) -> Reader:
    """What reads images in the form of some that are spread over all: in colour if any of them has colour."""
    if image_size is not None:
        check_memory(source.name, bytes_to_scale(image_size))
    some = torch.linspace(0, len(indices) - 1, min(_LOOKED_AT, len(indices))).long().tolist()
    reader, found = Reader(source, image_size), torch.empty(0)
    first = indices[some[0]]
    for number, position in enumerate(some, start=1):
        for training in (False, True) if source.read_training is not None else (False,):
            image = _read(reader, indices[position], training)
            _check_size(source, found, image, first, indices[position])
            found = image if len(image) > len(found) else found
        if on_image is not None:
            on_image(number, len(some))
    return Reader(source, image_size, (len(found), *found.shape[1:]), found.dtype)


def _read(reader: Reader, index: int, training: bool = False) -> Tensor:
    if not reader.source.varies:
        return reader.image(index, training=training)
    with everything_seeded(index % 2**32):
        return reader.image(index, training=training)


def _check_size(source: ImageSource, images: Tensor, image: Tensor, first: int, index: int) -> None:
    """Refuse an image that is larger or smaller than those before, or of another type."""
    if images.numel() == 0:
        return
    names = f"{source.describe(first)} and {source.describe(index)}"
    if image.shape[-2:] != images.shape[-2:]:
        sizes = " and ".join(str(tuple(size)) for size in (images.shape[-2:], image.shape[-2:]))
        raise DataError(f"{names}: expected one size, got (height, width) {sizes}; set an image size")
    if image.dtype != images.dtype:
        raise DataError(f"{names}: expected one type of pixels, got {images.dtype} and {image.dtype}")


def _decode(
    source: ImageSource,
    indices: list[int],
    image_size: int | None,
    on_image: Callable[[int, int], None] | None,
) -> Tensor:
    """The images one by one into one tensor, ``[N, C, H, W]``: grey ones as colour if any has colour."""
    images = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    if image_size is not None:
        check_memory(source.name, 2 * len(indices) * image_size**2 + bytes_to_scale(image_size))
    reader = Reader(source, image_size)
    for position, index in enumerate(indices):
        image = _read(reader, index)
        _check_size(source, images, image, indices[0], index)
        if position == 0:
            images = _room(source.name, len(indices), image)
        elif len(image) > images.shape[1]:
            grey, images = images[:position], _room(source.name, len(indices), image)
            images[:position] = grey
        images[position] = image
        if on_image is not None:
            on_image(position + 1, len(indices))
    return images


def _room(name: str, count: int, image: Tensor) -> Tensor:
    """An empty tensor for so many images like this one."""
    # Once as they are read, once more when they are divided.
    check_memory(name, 2 * count * image.numel() * image.element_size())
    return image.new_empty(count, *image.shape)


def in_memory_if_small(images: Images) -> Images:
    """Images that are used many times, such as those that networks are scored on: in memory, if that leaves most of it.

    Random transforms then draw once; images to be scored always get the same anyway.
    """
    pixels = math.prod(images.image_shape) * torch.float32.itemsize
    return images.in_memory() if _SMALL * len(images) * pixels <= available_memory() else images
