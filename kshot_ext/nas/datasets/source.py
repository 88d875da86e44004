"""What every source of images offers, before any image is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from kshot_ext.nas.task import CLASSIFICATION, Task


class DataError(ValueError):
    """The data cannot be used; the message names the file (and value) and what was expected."""


class DataWarning(UserWarning):
    """Some of the data is left out, or names were open to two readings; the message says which, and how many."""


class Part(Enum):
    """Role of an image in a search."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class ImageSource:
    """Labelled images that are read one by one.

    Args:
        name: short name for titles, e.g. ``"digits"``.
        class_names: name of each class index; none where targets are no classes.
        labels: targets: int64 ``[N]``, class indices; or float32 ``[N, T]`` where the task has no classes.
        parts: role of each of the N images; all ``TRAIN`` when the source is not divided.
        read: gives image i as uint8 or float32 ``[C, H, W]``; raises `DataError`.
        describe: names image i in messages.
        notes: what a user should know of the choice of images: what is left out, how names were understood.
        varies: whether reading an image again may give another one, since a transform draws random numbers (of torch,
            numpy or Python; whoever reads seeds them).
        read_training: gives image i as training is to see it; None for ``read``.
        picture: gives image i as a transform is to get it, such as a PIL image; None to make it of what ``read`` gives.
        task: what targets mean.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Tensor
    parts: tuple[Part, ...]
    read: Callable[[int], Tensor]
    describe: Callable[[int], str]
    notes: tuple[str, ...] = ()
    varies: bool = False
    read_training: Callable[[int], Tensor] | None = None
    picture: Callable[[int], Any] | None = None
    task: Task = CLASSIFICATION

    def __len__(self) -> int:
        return len(self.parts)
