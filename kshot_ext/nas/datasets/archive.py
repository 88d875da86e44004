"""Images in a zip file, read in place: nothing is extracted to disk."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from kshot_ext.nas.datasets.decode import MAX_FILE_BYTES, decode_picture, image_suffixes, is_image, pixels_of
from kshot_ext.nas.datasets.layout import arrange
from kshot_ext.nas.datasets.source import DataError, ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ARCHIVE_BYTES = 64 * 2**30

_ENCRYPTED_FLAG = 1


def open_archive(path: Path) -> ImageSource:
    """Return the images of a zip of an image folder (see `layout` for the forms).

    Raises:
        DataError: if the file is no zip, is encrypted, would unpack to too much, or has no known layout.
    """
    archive = open_zip(path, max_member_bytes=MAX_FILE_BYTES)
    members = {PurePosixPath(info.filename): info for info in archive.infolist()}
    files = [name for name, info in members.items() if not info.is_dir()]

    def holds_image(name: PurePosixPath) -> bool:
        if name.suffix.lower() in image_suffixes():
            return True
        try:
            with archive.open(members[name]) as content:
                return is_image(content)
        except Exception as error:  # Damaged archives make the unpackers raise nearly anything.
            raise DataError(f"{path}/{name}: damaged file in the archive ({error})") from error

    layout = arrange(files, [name for name, info in members.items() if info.is_dir()], str(path), holds_image)

    opened = {os.getpid(): archive}

    def picture(index: int) -> Image:
        name = f"{path}/{layout.files[index]}"
        try:
            if os.getpid() not in opened:  # a worker: a place in the file would be shared with its parent
                opened[os.getpid()] = zipfile.ZipFile(path)
            data = opened[os.getpid()].read(members[layout.files[index]])
        except Exception as error:
            raise DataError(f"{name}: damaged file in the archive ({error})") from error
        return decode_picture(data, name)

    return ImageSource(
        name=path.stem,
        class_names=layout.class_names,
        labels=torch.tensor(layout.labels),
        parts=layout.parts,
        read=lambda index: pixels_of(picture(index)),
        picture=picture,
        describe=lambda index: f"{path}/{layout.files[index]}",
        notes=layout.notes,
    )


def open_zip(path: Path, *, max_member_bytes: int) -> zipfile.ZipFile:
    """Open a zip file whose declared sizes are harmless (zipfile never unpacks more than declared).

    Raises:
        DataError: if it is no zip, has an encrypted member, or unpacks to more than the limits.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise DataError(f"{path}: not a readable zip file ({error})") from error
    total = 0
    for info in archive.infolist():
        if not info.filename:
            raise DataError(f"{path}: not a readable zip file (a file in it has no name)")
        if info.flag_bits & _ENCRYPTED_FLAG:
            raise DataError(f"{path}/{info.filename}: encrypted; expected an archive without password")
        if info.file_size > max_member_bytes:
            limit = f"expected at most {max_member_bytes} bytes unpacked"
            raise DataError(f"{path}/{info.filename}: {limit}, got {info.file_size}")
        total += info.file_size
    if total > MAX_ARCHIVE_BYTES:
        raise DataError(f"{path}: expected at most {MAX_ARCHIVE_BYTES} bytes unpacked, got {total}")
    return archive
