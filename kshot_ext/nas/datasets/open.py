"""The source that a path stands for."""

from __future__ import annotations

from pathlib import Path

from kshot_ext.nas.datasets.archive import open_archive
from kshot_ext.nas.datasets.arrays import open_arrays
from kshot_ext.nas.datasets.digits import open_digits
from kshot_ext.nas.datasets.folder import open_folder
from kshot_ext.nas.datasets.source import DataError, ImageSource

_OPENERS = {".zip": open_archive, ".npz": open_arrays}


def open_source(path: Path | None) -> ImageSource:
    """Find out what ``path`` is and list its images without decoding them.

    Args:
        path: an image folder, a ``.zip`` of one, or an ``.npz``; None for scikit-learn's digits.

    Raises:
        DataError: if there is no such file, its suffix is unknown, or its content is not as expected.
    """
    if path is None:
        return open_digits()
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(f"{path}: expected a folder, a .zip or an .npz, got suffix {path.suffix!r}")
    return opener(path)
