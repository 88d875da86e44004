"""Images in a folder tree."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from kshot_ext.nas.datasets.decode import MAX_FILE_BYTES, decode_image
from kshot_ext.nas.datasets.layout import arrange
from kshot_ext.nas.datasets.source import DataError, ImageSource


def open_folder(path: Path) -> ImageSource:
    """Return the images below ``path``, one folder per class (see `layout` for the forms).

    Raises:
        DataError: if the tree has no known layout or cannot be read.
    """
    files, folders = [], []
    for parent, folder_names, file_names in os.walk(path, followlinks=False):
        relative = PurePosixPath(Path(parent).relative_to(path).as_posix())
        files += [relative / name for name in file_names]
        folders += [relative / name for name in folder_names]
    layout = arrange(files, folders, str(path))

    def read(index: int) -> Tensor:
        file = path / layout.files[index]
        return decode_image(_read_file(file), str(file))

    return ImageSource(
        name=path.resolve().name,
        class_names=layout.class_names,
        labels=torch.tensor(layout.labels),
        parts=layout.parts,
        read=read,
        describe=lambda index: str(path / layout.files[index]),
    )


def _read_file(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(f"{file}: expected an ordinary file")
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{file}: expected at most {MAX_FILE_BYTES} bytes, got {size}")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
