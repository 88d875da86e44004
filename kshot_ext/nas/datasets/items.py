"""One dataset of a Python program, item by item: which part of an item is the image, and which the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from kshot_ext.nas.datasets.pictures import image_tensor, picture_of
from kshot_ext.nas.datasets.source import DataError

_IMAGE_COLUMNS = ("image", "images", "img", "picture", "pixel_values")
_TARGET_COLUMNS = ("label", "labels", "target", "targets", "fine_label", "class")


class Items:
    """The items of a dataset.

    Args:
        dataset: has a length and items by number, each a pair ``(image, target)``, or a mapping of columns, as
            Hugging Face's have.
        place: what to call it in messages.

    Attributes:
        listed: targets that the dataset lists, where these are taken; items are held to them whenever they are read.

    Raises:
        DataError: if an item is of another form, or has another target than the dataset lists.
    """

    def __init__(self, dataset: Any, place: str) -> None:
        self.dataset = dataset
        self.place = place
        self.listed: Tensor | None = None
        self.columns: tuple[str, str] | None = None
        first = self._item(0)
        if isinstance(first, Mapping):
            self.columns = _columns(dataset, first, place)
        elif not isinstance(first, (tuple, list)) or len(first) != 2:
            length = f" of {len(first)}" if isinstance(first, (tuple, list)) else ""
            raise DataError(f"{place}, item 0: expected a pair (image, target), got {type(first).__name__}{length}")

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Tensor:
        """Image ``index``, uint8 or float32 ``[C, H, W]``."""
        image, _ = self._pair(index)
        return image_tensor(image, self.describe(index))

    def picture(self, index: int) -> Any:
        """The image as a transform gets it."""
        image, _ = self._pair(index)
        return picture_of(image, self.describe(index))

    def target(self, index: int) -> Any:
        """Its target, as the dataset has it."""
        return self._pair(index)[1]

    def describe(self, index: int) -> str:
        """What to call an item in messages."""
        return f"{self.place}, item {index}"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names that the dataset has for its classes, by index; None without any."""
        if self.columns is not None:
            features = getattr(self.dataset, "features", None) or {}
            return _texts(getattr(features.get(self.columns[1]), "names", None))
        named = (_texts(getattr(part, "classes", None)) for part in _nested(self.dataset))
        return next(filter(None, named), None)

    @property
    def carries_transform(self) -> bool:
        """Whether the dataset says that its images pass through a transform."""
        transforms = ("transform", "transforms")
        if any(getattr(part, name, None) is not None for part in _nested(self.dataset) for name in transforms):
            return True
        form = getattr(self.dataset, "format", None)
        return isinstance(form, Mapping) and form.get("type") == "custom"  # what set_transform of Hugging Face leaves

    def _pair(self, index: int) -> tuple[Any, Any]:
        item = self._item(index)
        try:
            image, target = item if self.columns is None else [item[name] for name in self.columns]
        except (KeyError, TypeError, ValueError) as error:
            expected = "a pair (image, target)" if self.columns is None else f"columns {' and '.join(self.columns)}"
            raise DataError(f"{self.describe(index)}: expected {expected}, got {type(item).__name__}") from error
        self._check_target(index, target)
        return image, target

    def _check_target(self, index: int, target: Any) -> None:
        """Refuse an item whose target is not the one that the dataset lists for it, which is trained on."""
        if self.listed is None:
            return
        expected = self.listed[index].numpy()
        try:
            same = np.array_equal(np.asarray(target, dtype=expected.dtype), expected)
        except (TypeError, ValueError):
            same = False
        if not same:
            raise DataError(
                f"{self.describe(index)}: expected target {expected}, as the dataset lists in its targets or labels, "
                f"got {target} from the item; let both be the same, or give that list another name"
            )

    def _item(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except DataError:
            raise
        except Exception as error:  # The dataset is the user's: anything may come of reading it.
            raise DataError(f"{self.describe(index)}: cannot be read ({type(error).__name__}: {error})") from error


def _columns(dataset: Any, first: Mapping[str, Any], place: str) -> tuple[str, str]:
    """The columns of image and target: by the features' types, else by their names."""
    features = getattr(dataset, "features", None) or {}
    kinds = {name: type(feature).__name__ for name, feature in dict(features).items()}
    return (
        _column(first, kinds, "Image", _IMAGE_COLUMNS, f"{place}: an image"),
        _column(first, kinds, "ClassLabel", _TARGET_COLUMNS, f"{place}: a target"),
    )


def _column(first: Mapping[str, Any], kinds: Mapping[str, str], kind: str, names: tuple[str, ...], what: str) -> str:
    typed = [name for name in first if kinds.get(name) == kind]
    found = typed if len(typed) == 1 else [name for name in names if name in (typed or first)][:1]
    if not found:
        raise DataError(f"{what}: expected a column {', '.join(names[:-1])} or {names[-1]}, got {', '.join(first)}")
    return found[0]


def _nested(dataset: Any) -> Iterator[Any]:
    """A dataset and those that it is made of, as Subset and ConcatDataset are."""
    yield dataset
    for inner in [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]:
        if inner is not None:
            yield from _nested(inner)


def _texts(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
