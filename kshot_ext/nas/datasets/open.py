"""The one door to images: the source that a path, or an object of a Python program, stands for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot_ext.nas.datasets.archive import open_archive
from kshot_ext.nas.datasets.arrays import open_arrays
from kshot_ext.nas.datasets.digits import open_digits
from kshot_ext.nas.datasets.folder import open_folder
from kshot_ext.nas.datasets.objects import open_object
from kshot_ext.nas.datasets.source import DataError, DataWarning, ImageSource
from kshot_ext.nas.datasets.transforms import with_transforms
from kshot_ext.nas.task import CLASSIFICATION, Task


def open_source(
    data: Any = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    evaluation_transform: Callable[[Any], Any] | None = None,
    task: Task = CLASSIFICATION,
) -> ImageSource:
    """Find out what ``data`` is and list its images and targets, without decoding more than it must.

    Of what is left out, and of names that could be understood in two ways, a `DataWarning` tells; the result's
    ``notes`` say the same.

    Args:
        data: a path of an image folder, a ``.zip`` of one, or an ``.npz``; a map-style ``torch.utils.data.Dataset``
            of pairs ``(image, target)``; a ``DataLoader``, whose dataset is taken; a ``Dataset`` of Hugging Face's
            ``datasets``; parts of any of these objects, as a mapping (``{"train": ..., "test": ...}``) or as a tuple
            ``(train, validation, test)`` of two or three; or None for scikit-learn's digits.
        transform: what training images pass through, anew each time, in the worker that reads them: of torchvision or
            timm, or any function of a PIL image (of a tensor, where items are tensors of floating point). It may draw
            random numbers; what it gives is an image again, a tensor of floating point included.
        evaluation_transform: the same for images that networks are scored on; None for ``transform``.
        task: what targets mean; default: classes.

    Raises:
        DataError: if there is no such file, its suffix or the object's type is unknown, or its content is not as
            expected.
    """
    source = with_transforms(_open(data, task), transform, evaluation_transform)
    for note in source.notes:
        warnings.warn(f"{data if isinstance(data, (str, Path)) else source.name}: {note}", DataWarning, stacklevel=2)
    return source


def _open(data: Any, task: Task) -> ImageSource:
    if data is not None and not isinstance(data, (str, Path)):
        return open_object(data, task)
    if data is not None and Path(data).suffix.lower() == ".npz" and Path(data).is_file():
        return open_arrays(Path(data), task)
    source = open_digits() if data is None else _open_files(Path(data))
    if not task.has_classes:
        raise DataError(
            f"{source.name}: expected data with targets of numbers for {task.name}, which an .npz or a Dataset may "
            "have, got classes"
        )
    return replace(source, task=task)


def _open_files(path: Path) -> ImageSource:
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{path}: expected a folder, a .zip or an .npz, got suffix {path.suffix!r}")
    return open_archive(path)
