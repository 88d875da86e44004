"""Images in an ``.npz`` file of two arrays: ``images`` and ``labels``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kshot_ext.nas.datasets.archive import MAX_ARCHIVE_BYTES, open_zip
from kshot_ext.nas.datasets.layout import examples
from kshot_ext.nas.datasets.memory import check_memory
from kshot_ext.nas.datasets.source import DataError, ImageSource, Part
from kshot_ext.nas.datasets.targets import as_targets, prepared
from kshot_ext.nas.task import CLASSIFICATION, Task


def open_arrays(path: Path, task: Task = CLASSIFICATION) -> ImageSource:
    """Return the images of an ``.npz`` file.

    ``images`` is uint8 ``[N, H, W]`` or ``[N, H, W, C]`` with C of 1 or 3; ``labels`` is ``[N]`` of any
    integer type. Each distinct label is a class. For a task without classes ``labels`` are numbers, ``[N]`` or
    ``[N, T]``. Pickled objects are never loaded. Other arrays are left out, which the source's notes say.

    Raises:
        DataError: if the file or an array is not as described, or there is one class only.
    """
    (images, labels), others = _load(path, "images", "labels")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        expected = "expected non-empty uint8 [N, H, W] or [N, H, W, C]"
        raise DataError(f"{path}: images: {expected}, got {images.dtype} {list(images.shape)}")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        raise DataError(f"{path}: images: expected 1 or 3 channels last, got {images.shape[3]}")
    targets, class_names = _targets(path, labels, len(images), task)
    pixels = torch.from_numpy(images.reshape(*images.shape[:3], -1)).permute(0, 3, 1, 2)
    return ImageSource(
        name=path.stem,
        class_names=class_names,
        labels=targets,
        parts=(Part.TRAIN,) * len(pixels),
        read=pixels.__getitem__,
        describe=lambda index: f"{path}: image {index}",
        notes=(f"left out {len(others)} arrays beside 'images' and 'labels': {examples(others)}",) if others else (),
        task=task,
    )


def _targets(path: Path, labels: np.ndarray, count: int, task: Task) -> tuple[Tensor, tuple[str, ...]]:
    """Targets as the task has them, and the names of the classes, if it has classes."""
    fits = labels.dtype.kind in "iu" and labels.ndim == 1 if task.has_classes else labels.dtype.kind in "biuf"
    if not fits or labels.shape[:1] != (count,):
        kind = f"integers [{count}]" if task.has_classes else f"numbers [{count}] or [{count}, T] for {task.name}"
        raise DataError(f"{path}: labels: expected {kind}, got {labels.dtype} {list(labels.shape)}")
    if not task.has_classes:
        return prepared(as_targets(labels, str(path)), task, str(path)), ()
    values, indices = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"{path}: labels: expected at least 2 classes, got only {values[0]}")
    return torch.from_numpy(indices).long(), tuple(str(value) for value in values)


def _load(path: Path, *names: str) -> tuple[list[np.ndarray], list[str]]:
    """The arrays of these names, and the names of the others."""
    with open_zip(path, max_member_bytes=MAX_ARCHIVE_BYTES) as archive:
        check_memory(str(path), 2 * sum(info.file_size for info in archive.infolist()))  # read, then divided
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in names:
                if name not in file:
                    found = ", ".join(file.files) or "none"
                    raise DataError(f"{path}: expected the arrays 'images' and 'labels', got {found}")
            arrays = [file[name] for name in names]
            others = sorted(set(file.files).difference(names))
    except DataError:
        raise
    except Exception as error:  # Damaged arrays make numpy raise nearly anything.
        raise DataError(f"{path}: damaged or unsupported array file ({error})") from error
    for name, array in zip(names, arrays):
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of a file that does not begin as an array does
            raise DataError(f"{path}: {name}: damaged or unsupported array file (it holds no array)")
    return arrays, others
