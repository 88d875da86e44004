"""Images in a folder tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from kshot_ext.nas.datasets.decode import MAX_FILE_BYTES, decode_picture, image_suffixes, is_image, pixels_of
from kshot_ext.nas.datasets.layout import arrange, examples
from kshot_ext.nas.datasets.source import DataError, ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image


def open_folder(path: Path) -> ImageSource:
    """Return the images below ``path``, one folder per class (see `layout` for the forms).

    Raises:
        DataError: if the tree has no known layout or cannot be read.
    """
    files: list[PurePosixPath] = []
    folders: list[PurePosixPath] = []
    links: list[PurePosixPath] = []
    for parent, folder_names, file_names in os.walk(path, followlinks=False, onerror=_refuse):
        relative = PurePosixPath(Path(parent).relative_to(path).as_posix())
        files += [relative / name for name in file_names]
        for name in folder_names:
            (links if os.path.islink(os.path.join(parent, name)) else folders).append(relative / name)
    notes = [f"links to folders are not followed: {examples(sorted(links))}"] if links else []
    try:
        layout = arrange(files, folders, str(path), lambda file: _is_image(path / file))
    except DataError as error:
        if not links:
            raise
        raise DataError(f"{error} ({notes[0]})") from error

    root = str(path)

    def name_of(index: int) -> str:
        return os.path.join(root, str(layout.files[index]))

    def picture(index: int) -> Image:
        file = name_of(index)
        return decode_picture(_read_file(file), file)

    return ImageSource(
        name=path.resolve().name,
        class_names=layout.class_names,
        labels=torch.tensor(layout.labels),
        parts=layout.parts,
        read=lambda index: pixels_of(picture(index)),
        picture=picture,
        describe=name_of,
        notes=(*layout.notes, *notes),
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _is_image(file: Path) -> bool:
    if file.suffix.lower() in image_suffixes():
        return True
    try:
        if not file.is_file():  # to open a pipe would wait for its writer
            return False
        if file.stat().st_size > MAX_FILE_BYTES:  # some decoders read all of a file at once
            return False
        with file.open("rb") as content:
            return is_image(content)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def _read_file(file: str) -> bytes:
    try:
        status = os.stat(file)  # to open a pipe would wait for its writer
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{file}: expected an ordinary file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{file}: expected at most {MAX_FILE_BYTES} bytes, got {status.st_size}")
        with open(file, "rb") as content:
            return content.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
