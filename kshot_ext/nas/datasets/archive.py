"""Images in a zip file, read in place: nothing is extracted to disk."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from kshot_ext.nas.datasets.decode import MAX_FILE_BYTES, decode_image
from kshot_ext.nas.datasets.layout import arrange
from kshot_ext.nas.datasets.source import DataError, ImageSource

MAX_ARCHIVE_BYTES = 64 * 2**30

_ENCRYPTED_FLAG = 1
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, ValueError)


def open_archive(path: Path) -> ImageSource:
    """Return the images of a zip of an image folder (see `layout` for the forms).

    Raises:
        DataError: if the file is no zip, is encrypted, would unpack to too much, or has no known layout.
    """
    archive = open_zip(path, max_member_bytes=MAX_FILE_BYTES)
    members = {PurePosixPath(info.filename): info for info in archive.infolist()}
    files = [name for name, info in members.items() if not info.is_dir()]
    layout = arrange(files, [name for name, info in members.items() if info.is_dir()], str(path))

    def read(index: int) -> Tensor:
        name = f"{path}/{layout.files[index]}"
        try:
            data = archive.read(members[layout.files[index]])
        except _DAMAGE as error:
            raise DataError(f"{name}: damaged file in the archive ({error})") from error
        return decode_image(data, name)

    return ImageSource(
        name=path.stem,
        class_names=layout.class_names,
        labels=torch.tensor(layout.labels),
        parts=layout.parts,
        read=read,
        describe=lambda index: f"{path}/{layout.files[index]}",
    )


def open_zip(path: Path, *, max_member_bytes: int) -> zipfile.ZipFile:
    """Open a zip file whose declared sizes are harmless (zipfile never unpacks more than declared).

    Raises:
        DataError: if it is no zip, has an encrypted member, or unpacks to more than the limits.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable zip file ({error})") from error
    total = 0
    for info in archive.infolist():
        if info.flag_bits & _ENCRYPTED_FLAG:
            raise DataError(f"{path}/{info.filename}: encrypted; expected an archive without password")
        if info.file_size > max_member_bytes:
            limit = f"expected at most {max_member_bytes} bytes unpacked"
            raise DataError(f"{path}/{info.filename}: {limit}, got {info.file_size}")
        total += info.file_size
    if total > MAX_ARCHIVE_BYTES:
        raise DataError(f"{path}: expected at most {MAX_ARCHIVE_BYTES} bytes unpacked, got {total}")
    return archive
