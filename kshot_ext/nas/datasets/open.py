"""The source that a path stands for."""

from __future__ import annotations

import warnings
from pathlib import Path

from kshot_ext.nas.datasets.archive import open_archive
from kshot_ext.nas.datasets.arrays import open_arrays
from kshot_ext.nas.datasets.digits import open_digits
from kshot_ext.nas.datasets.folder import open_folder
from kshot_ext.nas.datasets.source import DataError, DataWarning, ImageSource

_OPENERS = {".zip": open_archive, ".npz": open_arrays}


def open_source(path: Path | None) -> ImageSource:
    """Find out what ``path`` is and list its images without decoding them.

    Of what is left out, and of names that could be understood in two ways, a `DataWarning` tells; the result's
    ``notes`` say the same.

    Args:
        path: an image folder, a ``.zip`` of one, or an ``.npz``; None for scikit-learn's digits.

    Raises:
        DataError: if there is no such file, its suffix is unknown, or its content is not as expected.
    """
    source = _open(path)
    for note in source.notes:
        warnings.warn(f"{path}: {note}", DataWarning, stacklevel=2)
    return source


def _open(path: Path | None) -> ImageSource:
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
