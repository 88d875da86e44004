"""Images of a Python program: datasets of torch and torchvision, their loaders, Hugging Face's, and parts of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kshot_ext.nas.datasets.items import Items
from kshot_ext.nas.datasets.layout import examples
from kshot_ext.nas.datasets.part_names import LEFT_OUT, role_of
from kshot_ext.nas.datasets.source import DataError, ImageSource, Part
from kshot_ext.nas.datasets.targets import class_indices, prepared, targets_of
from kshot_ext.nas.randomness import everything_seeded
from kshot_ext.nas.task import CLASSIFICATION, Task

_ACCEPTED = (
    "a path, a map-style torch.utils.data.Dataset of pairs (image, target), a DataLoader of one, a Dataset of Hugging "
    "Face's datasets, or parts of such, as a mapping by name or a tuple (train, validation, test)"
)
_LOOKED_AT = 8


def open_object(data: Any, task: Task = CLASSIFICATION) -> ImageSource:
    """Return the images of a Python object; see `open_source` for what it may be.

    Targets are taken from the dataset's ``targets`` or ``labels`` where these agree with some of its items, else from
    the items, which then are all read once. Every item that is read later is held to such a list. A dataset that
    carries a transform, or gives another image when it is asked again, is marked as one that varies.

    Args:
        data: the object.
        task: what its targets mean.

    Raises:
        DataError: if the object, an item or a target is of no known form, is not for the task, there are fewer than
            two classes, or parts name them differently.
    """
    datasets, notes = _parts(data)
    items = {part: Items(dataset, _place(part, len(datasets))) for part, dataset in datasets.items()}
    targets = [targets_of(part_items) for part_items in items.values()]
    if len({(part_targets.dtype, part_targets.shape[1:]) for part_targets in targets}) > 1:
        forms = "; ".join(f"{part.value}: {t.dtype} {list(t.shape)}" for part, t in zip(items, targets))
        raise DataError(f"data: expected targets of one form in all parts, got {forms}")
    labels = prepared(torch.cat(targets), task, "data")
    class_names: tuple[str, ...] = ()
    if task.has_classes:
        labels, class_names, unused = class_indices(labels, _class_names(items), "data")
        notes += [f"left out {len(unused)} classes without images: {examples(unused)}"] if unused else []
    joined = _Joined(tuple(items.values()))
    return ImageSource(
        name=_name(next(iter(datasets.values()))),
        class_names=class_names,
        labels=labels,
        parts=tuple(part for part, part_items in items.items() for _ in range(len(part_items))),
        read=joined,
        describe=joined.describe,
        notes=tuple(notes),
        varies=any(_varies(part_items) for part_items in items.values()),
        picture=joined.picture,
        task=task,
    )


def _class_names(items: Mapping[Part, Items]) -> tuple[str, ...] | None:
    """The names of classes by index, of the parts that have them; by other names the same number is another class."""
    named = {part: names for part, part_items in items.items() if (names := part_items.class_names) is not None}
    if len(set(named.values())) > 1:
        told = "; ".join(f"{part.value}: {examples(names)}" for part, names in named.items())
        raise DataError(
            f"data: expected the same classes in the same order in all parts, got {told}; "
            "a folder or zip given by its path is read by names"
        )
    return next(iter(named.values()), None)


@dataclass(frozen=True)
class _Joined:
    """The items of all parts, one after the other."""

    parts: tuple[Items, ...]

    def __call__(self, index: int) -> Tensor:
        part, index = self._find(index)
        return part.image(index)

    def picture(self, index: int) -> Any:
        part, index = self._find(index)
        return part.picture(index)

    def describe(self, index: int) -> str:
        part, index = self._find(index)
        return part.describe(index)

    def _find(self, index: int) -> tuple[Items, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


def _parts(data: Any) -> tuple[dict[Part, Any], list[str]]:
    """The dataset of each part, and what is to be said of them; those of loaders, and none without items."""
    named, notes = _named_parts(data)
    parts = {}
    for part, dataset in named.items():
        place = _place(part, len(named))
        if isinstance(dataset, DataLoader):
            dataset = dataset.dataset
            notes.append(
                f"{place}: the dataset of the DataLoader is used; its batch size, sampler and collate_fn are not"
            )
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        ):
            raise DataError(f"{place}: expected {_ACCEPTED}, got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise DataError(f"{place}: expected images, got a dataset of none")
        parts[part] = dataset
    return parts, notes


def _named_parts(data: Any) -> tuple[dict[Part, Any], list[str]]:
    if isinstance(data, Mapping):
        return _parts_of_mapping(data)
    if isinstance(data, (tuple, list)):
        if not 2 <= len(data) <= len(Part):
            raise DataError(f"data: expected a tuple (train, validation, test) of two or three parts, got {len(data)}")
        parts = {part: dataset for part, dataset in zip(Part, data) if dataset is not None}
        if Part.TRAIN not in parts:
            raise DataError("data: expected a part to train on, got None in its place")
        return parts, []
    return {Part.TRAIN: data}, []


def _parts_of_mapping(data: Mapping[Any, Any]) -> tuple[dict[Part, Any], list[str]]:
    parts: dict[Part, Any] = {}
    left_out = []
    for name, dataset in data.items():
        role = role_of(name) if isinstance(name, str) else None
        if role is None:
            raise DataError(f"data: expected parts named train, validation and test, got {name!r}")
        if role is LEFT_OUT:
            left_out.append(str(name))
        elif role in parts:
            raise DataError(f"data: expected one {role.value} part, got several: {', '.join(map(repr, data))}")
        else:
            parts[role] = dataset
    if Part.TRAIN not in parts:
        raise DataError(f"data: expected a part named train, got {', '.join(map(repr, data)) or 'none'}")
    return parts, [f"left out {len(left_out)} parts: {examples(left_out)}"] if left_out else []


def _place(part: Part, count: int) -> str:
    return "data" if count == 1 else f"data, {part.value} part"


def _name(dataset: Any) -> str:
    """What to call the images: a Hugging Face dataset's name, or that of the innermost dataset's class."""
    info = getattr(getattr(dataset, "info", None), "dataset_name", None)
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return info if isinstance(info, str) and info else type(dataset).__name__.lower()


def _varies(items: Items) -> bool:
    if items.carries_transform:
        return True
    for index in range(min(len(items), _LOOKED_AT)):
        seen = []
        for seed in (0, 1):
            with everything_seeded(seed):
                seen.append(items.image(index))
        if seen[0].shape != seen[1].shape or not torch.equal(*seen):
            return True
    return False
