"""Which class and part each file of a folder tree belongs to.

Known layouts, below any number of single wrapping folders::

    CLASS/.../image          PART/CLASS/.../image

PART is one of the usual names (`part_names`). They are parts if all folders with images at that level have such names,
and one of them holds folders; or if all hold folders, have a word of such names in theirs, as in "01_train", and one is
that of training, which a note says. Where only some have such a word, but all hold the same folders, they are refused,
as it might be a part of any name. A single folder of such a name that holds images, beside classes that are called
otherwise, is a class itself; any other mixture is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from kshot_ext.nas.datasets.decode import image_suffixes
from kshot_ext.nas.datasets.part_names import LEFT_OUT, Role, role_of, roles_in
from kshot_ext.nas.datasets.source import DataError, Part

_CURE = "if they are classes, put all class folders into a folder 'train'; if parts, leave nothing else beside them"


@dataclass(frozen=True)
class Layout:
    """Files of a tree with their roles: ``class_names``, and per file its path, label and part.

    ``notes`` says what is left out, and what was decided where names leave it open.
    """

    class_names: tuple[str, ...]
    files: tuple[PurePosixPath, ...]
    labels: tuple[int, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def arrange(
    files: Iterable[PurePosixPath],
    folders: Iterable[PurePosixPath],
    origin: str,
    is_image: Callable[[PurePosixPath], bool],
) -> Layout:
    """Work out the layout of a tree.

    Args:
        files, folders: relative paths; hidden ones are ignored.
        origin: name of the whole tree, for messages.
        is_image: whether a file is an image.

    Raises:
        DataError: if no layout fits or more than one might, a class is empty, there is one class only, or the parts'
            classes differ.
    """
    files = sorted(files)
    visible_files = [file for file in files if _is_visible(file)]
    images = [file for file in visible_files if is_image(file)]
    others = sorted(set(visible_files).difference(images))
    hidden = [file for file in files if file.suffix.lower() in image_suffixes() and _is_hidden(file)]
    notes = _counted(others, "that Pillow reads no image from") + _counted(hidden, "with hidden names")
    if not images:
        raise DataError(f"{origin}: no images found{_added(notes)}")
    tree = _Tree(images, others, [folder for folder in folders if _is_visible(folder)])
    part_roots, decided = _part_roots(tree, origin)
    class_names = _class_names(part_roots, tree, origin, decided)
    labels = {name: label for label, name in enumerate(class_names)}
    rows = []
    for folder, part in part_roots.items():
        named = [(image, image.relative_to(folder).parts) for image in images if image.is_relative_to(folder)]
        rows += [(image, labels[parts[0]], part) for image, parts in named if len(parts) > 1]
        _check_no_class_empty(folder, class_names, {parts[0] for _, parts in named}, origin, others)
    layout = Layout(class_names, *(tuple(column) for column in zip(*rows)))
    notes += decided + _counted(sorted(set(images).difference(layout.files)), "outside of the folders of classes")
    notes += _inner_parts(layout.files, part_roots)
    return replace(layout, notes=tuple(notes))


def examples(paths: Sequence[PurePosixPath | str]) -> str:
    """The first few paths or names, quoted, with what terminals would not print escaped."""
    return ", ".join([repr(str(path)) for path in paths[:3]] + ["..."] * (len(paths) > 3))


class _Tree:
    """The visible folders of a tree, and which of them hold images."""

    def __init__(
        self, images: Iterable[PurePosixPath], others: Iterable[PurePosixPath], folders: Iterable[PurePosixPath]
    ) -> None:
        self._with_images = {parent for image in images for parent in image.parents}
        # An archive need not list the folders of its files.
        self._folders = self._with_images.union(folders, *(file.parents for file in others))

    def subfolders(self, folder: PurePosixPath) -> list[PurePosixPath]:
        return sorted(path for path in self._folders if path != folder and path.parent == folder)

    def image_folders(self, folder: PurePosixPath) -> list[PurePosixPath]:
        """Subfolders with images in them or below."""
        return [path for path in self.subfolders(folder) if path in self._with_images]

    def unwrapped(self) -> PurePosixPath:
        """The folder where classes or parts begin."""
        root = PurePosixPath()
        while len(inner := self.subfolders(root)) == 1:
            if role_of(inner[0].name) is not None or not self.subfolders(inner[0]):
                break
            root = inner[0]
        return root


def _is_visible(path: PurePosixPath) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _is_hidden(path: PurePosixPath) -> bool:
    """Hidden by its user, who may not mean it, and not by macOS, which puts notes of its own beside images."""
    return not (_is_visible(path) or path.name.startswith("._") or "__MACOSX" in path.parts)


def _counted(files: Sequence[PurePosixPath], which: str) -> list[str]:
    if not files:
        return []
    return [f"left out {len(files)} {'file' if len(files) == 1 else 'files'} {which}: {examples(files)}"]


def _added(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _part_roots(tree: _Tree, origin: str) -> tuple[dict[PurePosixPath, Part], list[str]]:
    """The folders that hold the folders of classes, and what to tell about the choice."""
    root = tree.unwrapped()
    folders = tree.image_folders(root)
    by_words = _roles_by_words(tree, folders, origin)
    if by_words is not None:
        names = ", ".join(repr(folder.name) for folder in folders)
        told = [f"folders {names} are taken for parts; if they are classes, put them into a folder 'train'"]
        return _one_folder_per_part(by_words, origin), told
    roles = {folder: role for folder in folders if (role := role_of(folder.name)) is not None}
    names = ", ".join(repr(folder.name) for folder in roles)
    as_classes = {root: Part.TRAIN}
    if all(role is LEFT_OUT for role in roles.values()) and not any(map(tree.image_folders, roles)):
        if len(folders) > 1 and all(roles_in(folder.name) for folder in folders):
            every = examples([folder.name for folder in folders])
            return as_classes, [f"folders {every} are taken for classes, as not all of them hold folders of classes"]
        return as_classes, [f"folder {folder.name!r} is taken for a class" for folder in roles]
    holds_folders = any(tree.image_folders(folder) for folder in roles)
    if len(roles) < len(folders):
        if len(roles) == 1 and not holds_folders:
            return as_classes, [f"folder {names} is taken for a class, as it has images in it and stands beside others"]
        beside = examples([PurePosixPath(folder.name) for folder in folders if folder not in roles])
        raise DataError(f"{origin}: {names} are named like parts of a data set, {beside} beside them are not; {_CURE}")
    if not holds_folders:
        raise DataError(
            f"{origin}: {names} are named like parts of a data set, but hold no folders of classes; {_CURE}"
        )
    unused = [repr(folder.name) for folder, role in roles.items() if role is LEFT_OUT]
    return _one_folder_per_part(roles, origin), [f"folder {name} is no part that a search uses" for name in unused]


def _roles_by_words(tree: _Tree, folders: Sequence[PurePosixPath], origin: str) -> dict[PurePosixPath, Role] | None:
    """The roles of folders by words in their names; None if these need not be parts, or have the plain names of such.

    Raises:
        DataError: if they hold the same folders, as parts do, but not every name tells its role.
    """
    if len(folders) < 2 or all(role_of(folder.name) is not None for folder in folders):
        return None
    found = {folder: roles_in(folder.name) for folder in folders}
    inner = [{path.name for path in tree.image_folders(folder)} for folder in folders]
    roles = {folder: next(iter(words)) for folder, words in found.items() if len(words) == 1}
    if len(roles) == len(folders) and Part.TRAIN in roles.values() and all(inner):
        return roles
    if any(found.values()) and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        names = ", ".join(repr(folder.name) for folder, words in found.items() if words)
        every = examples([folder.name for folder in folders])
        raise DataError(
            f"{origin}: {every} hold the same folders, as parts of a data set do, and {names} are named like parts; "
            f"{_CURE}; call parts 'train', 'val', 'test'"
        )
    return None


def _one_folder_per_part(roles: dict[PurePosixPath, Role], origin: str) -> dict[PurePosixPath, Part]:
    chosen: dict[Part, PurePosixPath] = {}
    for folder, role in roles.items():
        if isinstance(role, Part):
            other = chosen.setdefault(role, folder)
            if other is not folder:
                both = f"{other.name!r} and {folder.name!r}"
                raise DataError(
                    f"{origin}: {both} both name the {role.value} part; expected one folder for it; {_CURE}"
                )
    return {folder: part for part, folder in chosen.items()}


def _inner_parts(files: Sequence[PurePosixPath], part_roots: dict[PurePosixPath, Part]) -> list[str]:
    """Folders named like parts inside of classes, where they are none."""
    depth = len(next(iter(part_roots)).parts) + 1
    inner = {part.lower() for file in files for part in file.parts[depth:-1] if isinstance(role_of(part), Part)}
    if not inner:
        return []
    names = ", ".join(map(repr, sorted(inner)))
    return [f"folders {names} inside of classes are no parts: their images are divided anew; expected PART/CLASS/image"]


def _class_names(
    part_roots: dict[PurePosixPath, Part], tree: _Tree, origin: str, decided: Sequence[str]
) -> tuple[str, ...]:
    if Part.TRAIN not in part_roots.values():
        found = ", ".join(folder.name for folder in part_roots)
        raise DataError(f"{origin}: expected a folder 'train' among the parts, got {found}")
    names = {root: tuple(path.name for path in tree.subfolders(root)) for root in part_roots}
    expected = next(names[root] for root, part in part_roots.items() if part is Part.TRAIN)
    if len(expected) < 2:
        found = f"only {expected[0]!r}" if expected else "none"
        raise DataError(f"{origin}: expected one folder of images per class, at least 2 classes, got {found}")
    for root, present in names.items():
        if differing := sorted(set(present) ^ set(expected)):
            flat = "" if present else "; this part holds images, but no folders of classes"
            raise DataError(
                f"{origin}/{root}: class {differing[0]!r} is not in every part of the data{flat}{_added(decided)}"
            )
    return expected


def _check_no_class_empty(
    folder: PurePosixPath,
    class_names: tuple[str, ...],
    present: set[str],
    origin: str,
    others: Sequence[PurePosixPath],
) -> None:
    for name in class_names:
        if name not in present:
            path = folder / name
            found = _counted([file for file in others if file.is_relative_to(path)], "that Pillow reads no image from")
            raise DataError(f"{PurePosixPath(origin) / path}: this class has no images{_added(found)}")
