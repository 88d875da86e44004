"""Which class and part each file of a folder tree belongs to.

Known layouts, below any number of single wrapping folders::

    CLASS/.../image          PART/CLASS/.../image, PART being train, val or test
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from kshot_ext.nas.datasets.decode import IMAGE_SUFFIXES
from kshot_ext.nas.datasets.source import DataError, Part

_PART_FOLDERS = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "val": Part.VALIDATION,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "test": Part.TEST,
}


@dataclass(frozen=True)
class Layout:
    """Files of a tree with their roles: ``class_names``, and per file its path, label and part."""

    class_names: tuple[str, ...]
    files: tuple[PurePosixPath, ...]
    labels: tuple[int, ...]
    parts: tuple[Part, ...]


def arrange(files: Iterable[PurePosixPath], folders: Iterable[PurePosixPath], origin: str) -> Layout:
    """Work out the layout of a tree.

    Args:
        files, folders: relative paths; hidden ones and those of other suffixes than images' are ignored.
        origin: name of the whole tree, for messages.

    Raises:
        DataError: if no layout fits, a class is empty, there is one class only, or the parts' classes differ.
    """
    images = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and _is_visible(file))
    if not images:
        raise DataError(f"{origin}: no images found (suffixes {', '.join(sorted(IMAGE_SUFFIXES))})")
    visible = {folder for folder in folders if _is_visible(folder)}
    visible.update(parent for image in images for parent in image.parents)
    root = _unwrap(visible)
    part_roots = _part_roots(root, visible)
    class_names = _class_names(part_roots, visible, origin)
    labels = {name: label for label, name in enumerate(class_names)}
    rows = []
    for folder, part in part_roots.items():
        inside = [image for image in images if image.is_relative_to(folder)]
        named = [(image, image.relative_to(folder).parts) for image in inside]
        rows += [(image, labels[parts[0]], part) for image, parts in named if len(parts) > 1]
        _check_no_class_empty(folder, class_names, {parts[0] for _, parts in named}, origin)
    return Layout(class_names, *(tuple(column) for column in zip(*rows)))


def _is_visible(path: PurePosixPath) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _subfolders(folder: PurePosixPath, folders: set[PurePosixPath]) -> list[PurePosixPath]:
    return sorted(path for path in folders if path != folder and path.parent == folder)


def _unwrap(folders: set[PurePosixPath]) -> PurePosixPath:
    root = PurePosixPath()
    while len(inner := _subfolders(root, folders)) == 1:
        if inner[0].name.lower() in _PART_FOLDERS or not _subfolders(inner[0], folders):
            break
        root = inner[0]
    return root


def _part_roots(root: PurePosixPath, folders: set[PurePosixPath]) -> dict[PurePosixPath, Part]:
    parts = {folder: _PART_FOLDERS.get(folder.name.lower()) for folder in _subfolders(root, folders)}
    named = {folder: part for folder, part in parts.items() if part is not None}
    return named if named and len(named) == len(parts) else {root: Part.TRAIN}


def _class_names(part_roots: dict[PurePosixPath, Part], folders: set[PurePosixPath], origin: str) -> tuple[str, ...]:
    if Part.TRAIN not in part_roots.values():
        found = ", ".join(folder.name for folder in part_roots)
        raise DataError(f"{origin}: expected a folder 'train' among the parts, got {found}")
    names = {root: tuple(path.name for path in _subfolders(root, folders)) for root in part_roots}
    expected = next(names[root] for root, part in part_roots.items() if part is Part.TRAIN)
    if len(expected) < 2:
        found = f"only {expected[0]!r}" if expected else "none"
        raise DataError(f"{origin}: expected one folder of images per class, at least 2 classes, got {found}")
    for root, present in names.items():
        if differing := sorted(set(present) ^ set(expected)):
            raise DataError(f"{origin}/{root}: class {differing[0]!r} is not in every part of the data")
    return expected


def _check_no_class_empty(folder: PurePosixPath, class_names: tuple[str, ...], present: set[str], origin: str) -> None:
    for name in class_names:
        if name not in present:
            raise DataError(f"{PurePosixPath(origin) / folder / name}: this class has no images")
