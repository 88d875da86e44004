"""The images of a run out of a source: choose a subset, divide it, keep it, and say how it is normalised and varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kshot_ext.nas.datasets.keep import keep_images
from kshot_ext.nas.datasets.preparation import check_not_constant, image_statistics, suitable_augmentation
from kshot_ext.nas.datasets.settings import (
    AUGMENTATION_SETTINGS,
    IMAGE_SETTINGS,
    AugmentationSettings,
    ImageSettings,
)
from kshot_ext.nas.datasets.source import DataError, ImageSource, Part
from kshot_ext.nas.datasets.splits import DataSplits

HELD_OUT_SHARES: Mapping[Part, float] = {Part.VALIDATION: 0.2, Part.TEST: 0.2}
"""Share of the training images split off for each part, where the source has none."""


def load_splits(
    source: ImageSource,
    *,
    generator: torch.Generator,
    max_images: int | None = None,
    image_size: int | None = None,
    held_out: Mapping[Part, float] = HELD_OUT_SHARES,
    on_image: Callable[[int, int], None] | None = None,
    images: ImageSettings = IMAGE_SETTINGS,
    augmentation: AugmentationSettings | None = AUGMENTATION_SETTINGS,
) -> DataSplits:
    """Divide a source into training, validation and test images, decoded or ready to be streamed.

    A part that the source lacks is split off its training images, the same share of every class. Parts that
    ``held_out`` does not name are left out, and empty in the result.

    Args:
        source: what to load.
        generator: decides the subset and the division.
        max_images: most images to use, the same share of every class; default all.
        image_size: side in pixels to which every image is scaled and cut; default: as they are.
        held_out: share of the training images to split off for each part, where the source has none.
        on_image: called after each image with the number done and their total.
        images: how they are kept and normalised; default: in memory if they fit, by their own statistics.
        augmentation: how training images are varied; None not to vary them.

    Raises:
        DataError: if a class gets no image in some part, an image is damaged, sizes differ without
            ``image_size``, all images of a part are the same, or the images do not fit into memory and are not to be
            streamed.
    """
    parts = torch.tensor([list(Part).index(part) for part in source.parts])
    wanted = [index for index, part in enumerate(Part) if part is Part.TRAIN or part in held_out]
    groups = source.labels if source.task.has_classes else torch.zeros(len(source), dtype=torch.int64)
    chosen = _choose(groups, parts, wanted, max_images, generator)
    groups, parts = groups[chosen], parts[chosen]
    parts = _divide(groups, parts, held_out, generator)
    names = source.class_names if source.task.has_classes else (source.name,)
    _check_every_class_in_every_part(groups, parts, wanted, source, names, held_out)
    kept, notes = keep_images(source, chosen, source.labels[chosen], image_size, images, on_image)
    train, validation, test = (kept.subset((parts == part).nonzero()[:, 0]) for part in range(len(Part)))
    for part, held in zip(Part, (train, validation, test)):
        check_not_constant(held, f"{source.name}: {part.value} part")
    mean, std = image_statistics(train, images)
    splits = DataSplits(
        train, validation, test, source.class_names, mean, std, None, (*source.notes, *notes), source.task
    )
    return splits if augmentation is None else suitable_augmentation(splits, source.varies, augmentation)


def _group_quantiles(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Give the members of each group, in random order, the evenly spread ranks 1/2n, 3/2n, ..."""
    order = torch.randperm(len(groups), generator=generator)
    quantiles = torch.empty(len(groups), dtype=torch.float64)
    for group in groups.unique():
        members = order[groups[order] == group]
        quantiles[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return quantiles


def _choose(
    labels: Tensor, parts: Tensor, wanted: list[int], max_images: int | None, generator: torch.Generator
) -> Tensor:
    usable = torch.isin(parts, torch.tensor(wanted)).nonzero()[:, 0]
    if max_images is None or max_images >= len(usable):
        return usable
    quantiles = _group_quantiles((labels * len(Part) + parts)[usable], generator)
    return usable[quantiles.argsort(stable=True)[:max_images].sort().values]


def _divide(labels: Tensor, parts: Tensor, held_out: Mapping[Part, float], generator: torch.Generator) -> Tensor:
    in_train = (parts == list(Part).index(Part.TRAIN)).nonzero()[:, 0]
    quantiles = _group_quantiles(labels[in_train], generator)
    divided = parts.clone()
    start = 0.0
    for part, share in held_out.items():
        index = list(Part).index(part)
        if not (parts == index).any():
            divided[in_train[(quantiles >= start) & (quantiles < start + share)]] = index
            start += share
    return divided


def _check_every_class_in_every_part(
    labels: Tensor,
    parts: Tensor,
    wanted: list[int],
    source: ImageSource,
    names: Sequence[str],
    held_out: Mapping[Part, float],
) -> None:
    for label, name in enumerate(names):
        present = parts[labels == label]
        for index in wanted:
            part = list(Part)[index]
            if (present == index).any():
                continue
            if part in held_out and part not in source.parts:
                reason = f"too few for a {part.value} part, which gets a share of {held_out[part]:g} of each class"
            else:
                reason = f"none of them in the {part.value} part"
            raise DataError(f"{source.name}: class {name!r}: {len(present)} images used, {reason}")
