"""The targets of a dataset's items, as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kshot_ext.nas.datasets.items import Items
from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.task import Task

_COMPARED = 32
_EXPECTED = "expected whole numbers (classes), numbers, or as many numbers for every item"


def targets_of(items: Items) -> Tensor:
    """All targets of a dataset.

    Those that the dataset lists are taken if they are those of some of its items, and then are those of all, or an item
    that is read later is an error; else every item is read now.

    Returns:
        int64 ``[N]`` of whole numbers; float32 ``[N]`` of others; float32 ``[N, T]`` of several numbers for each item.

    Raises:
        DataError: if they have no such form.
    """
    places = sorted({round(place) for place in np.linspace(0, len(items) - 1, _COMPARED).tolist()})
    listed = _listed(items.dataset, items.columns)
    if listed is not None and len(listed) == len(items):
        try:
            targets = as_targets(listed, items.place)
            seen = as_targets([items.target(index) for index in places], items.place)
        except DataError:
            pass
        else:
            if targets.dtype == seen.dtype and torch.equal(targets[places], seen):
                items.listed = targets
                return targets
    return as_targets([items.target(index) for index in range(len(items))], items.place)


def as_targets(values: Any, place: str) -> Tensor:
    """Targets as a tensor, see :func:`targets_of`.

    Args:
        values: a tensor, an array, or a list of numbers or of rows of them.
        place: where they are, for messages.

    Example:
        >>> as_targets([1, 0, 2], "data").dtype, as_targets([[True, False], [False, True]], "data").tolist()
        (torch.int64, [[1.0, 0.0], [0.0, 1.0]])
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        values = [value.detach().cpu().numpy() if isinstance(value, Tensor) else value for value in values]
        try:
            values = np.array(values)
        except ValueError as error:
            raise DataError(f"{place}: targets: {_EXPECTED}, got rows of different lengths") from error
    if values.dtype.kind not in "biuf" or values.ndim not in (1, 2) or 0 in values.shape:
        got = f"{values.dtype} {list(values.shape)}"
        if values.dtype.kind not in "biuf":
            got = f"{type(values.flat[0]).__name__}, such as {values.flat[0]!r:.40}" if values.size else "nothing"
        raise DataError(f"{place}: targets: {_EXPECTED}, got {got}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
        raise DataError(f"{place}: targets: expected finite numbers, got {values[bad]} for item {bad}")
    if values.ndim == 1 and values.dtype.kind in "biu":
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(values.astype(np.float32))


def prepared(targets: Tensor, task: Task, place: str) -> Tensor:
    """Targets in the form that a task gets them in.

    Raises:
        DataError: if they are not for it.
    """
    try:
        return task.prepared(targets)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def class_indices(
    labels: Tensor, names: Sequence[str] | None, place: str
) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Class indices 0, 1, ... of those classes that occur.

    Args:
        labels: int64 ``[N]``, any numbers.
        names: of classes by index; None to call them by their numbers.
        place: where they are, for messages.

    Returns:
        int64 ``[N]``; the names of the classes; and the names of those without images.

    Raises:
        DataError: if there are fewer than two, or numbers that have no name.

    Example:
        >>> class_indices(torch.tensor([7, 3, 7]), None, "data")
        (tensor([1, 0, 1]), ('3', '7'), ())
    """
    values, indices = labels.unique(return_inverse=True)
    least, most = int(values[0]), int(values[-1])
    if names is not None and not 0 <= least <= most < len(names):
        got = f"got {least if least < 0 else most}"
        got += ", which usually means that there is no label; leave that part out" if least == -1 else ""
        raise DataError(f"{place}: targets: expected classes from 0 to {len(names) - 1}, by their names, {got}")
    if len(values) < 2:
        only = str(least) if names is None else repr(names[least])
        raise DataError(f"{place}: targets: expected at least 2 classes, got only {only}")
    numbers = values.tolist()
    used = tuple(str(number) if names is None else names[number] for number in numbers)
    unused = () if names is None else tuple(name for index, name in enumerate(names) if index not in set(numbers))
    return indices, used, unused


def _listed(dataset: Any, columns: tuple[str, str] | None) -> Any:
    """The targets that a dataset lists without reading its images; None if it lists none, or changes them."""
    if columns is not None:
        try:
            return list(dataset[columns[1]])
        except Exception:  # A list of mappings has no columns.
            return None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    inner, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and indices is not None:  # a Subset
        listed = _listed(inner, None)
        return None if listed is None else [listed[int(index)] for index in indices]
    if (several := getattr(dataset, "datasets", None)) is not None:  # a ConcatDataset
        lists = [_listed(one, None) for one in several]
        return None if any(one is None for one in lists) else [value for one in lists for value in one]
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 2:  # a TensorDataset
        return tensors[1]
    found = next((value for name in ("targets", "labels") if (value := getattr(dataset, name, None)) is not None), None)
    return found if hasattr(found, "__len__") and hasattr(found, "__getitem__") else None
