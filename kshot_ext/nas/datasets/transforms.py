"""A user's transforms of single images, in front of whatever reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kshot_ext.nas.datasets.pictures import image_tensor, to_picture
from kshot_ext.nas.datasets.source import DataError, ImageSource

Transform = Callable[[Any], Any]


def with_transforms(source: ImageSource, training: Transform | None, evaluation: Transform | None) -> ImageSource:
    """The same images, each passed through a transform when it is read.

    Args:
        source: of the images; a transform gets them as PIL images, or as tensors where they are of floating point.
        training: for images that weights are trained on; None to leave them.
        evaluation: for images that networks are scored on; None for ``training``.
    """
    last = evaluation if evaluation is not None else training
    if last is None:
        return source
    return replace(
        source,
        read=_Transformed(source, last),
        read_training=source.read if training is None else _Transformed(source, training),
        picture=None,
        varies=True,
    )


@dataclass(frozen=True)
class _Transformed:
    source: ImageSource
    transform: Transform

    def __call__(self, index: int) -> Tensor:
        source, name = self.source, self.source.describe(index)
        picture = to_picture(source.read(index)) if source.picture is None else source.picture(index)
        try:
            changed = self.transform(picture)
        except Exception as error:  # The transform is the user's.
            raise DataError(f"{name}: its transform failed ({type(error).__name__}: {error})") from error
        return image_tensor(changed, name)
