from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kshot_ext.nas.datasets import DataError, load_splits, memory, open_source
from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.settings import ImageSettings
from kshot_ext.nas.datasets.source import ImageSource, Part
from kshot_ext.nas.datasets.splits import DataSplits, channel_statistics


def _source(counts: tuple[int, ...], parts: tuple[Part, ...] | None = None) -> ImageSource:
    """Grey 8x8 images, image i having the value i everywhere."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return ImageSource(
        name="made",
        class_names=tuple("abcdefg"[: len(counts)]),
        labels=labels,
        parts=parts or (Part.TRAIN,) * len(labels),
        read=lambda index: torch.full((1, 8, 8), index, dtype=torch.uint8),
        describe=lambda index: f"image {index}",
    )


def _load(source: ImageSource, seed: int = 0, **options: object) -> DataSplits:
    return load_splits(source, generator=torch.Generator().manual_seed(seed), **options)


def _members(splits: DataSplits) -> list[list[int]]:
    return [part.images[:, 0, 0, 0].tolist() for part in (splits.train, splits.validation, splits.test)]


def test_missing_parts_are_split_off_the_training_images_class_by_class() -> None:
    splits = _load(_source((100, 50)))
    train, validation, test = _members(splits)
    assert sorted(train + validation + test) == list(range(150))
    assert splits.train.labels.bincount().tolist() == [60, 30]
    assert splits.validation.labels.bincount().tolist() == [20, 10]
    assert splits.test.labels.bincount().tolist() == [20, 10]
    for part in (splits.train, splits.validation, splits.test):
        assert torch.equal(part.labels, (part.images[:, 0, 0, 0] >= 100).long())


def test_given_parts_are_kept() -> None:
    parts = ((Part.TRAIN,) * 3 + (Part.TEST,) * 2) * 2
    train, validation, test = _members(_load(_source((5, 5), parts)))
    assert test == [3, 4, 8, 9]
    assert sorted(train + validation) == [0, 1, 2, 5, 6, 7]


def test_the_seed_decides_the_division() -> None:
    assert _members(_load(_source((50, 50)))) == _members(_load(_source((50, 50))))
    assert _members(_load(_source((50, 50)))) != _members(_load(_source((50, 50)), seed=1))


def test_a_subset_keeps_the_shares_of_the_classes() -> None:
    splits = _load(_source((100, 50, 50)), max_images=100)
    labels = torch.cat([part.labels for part in (splits.train, splits.validation, splits.test)])
    assert labels.bincount().tolist() == [50, 25, 25]


def test_only_chosen_images_are_decoded() -> None:
    progress: list[tuple[int, int]] = []
    _load(_source((100, 100)), max_images=40, on_image=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 40) for done in range(1, 41)]


def test_statistics_and_augmentation_are_those_of_the_training_images() -> None:
    splits = _load(_source((50, 50)))
    for got, expected in zip((splits.mean, splits.std), channel_statistics(splits.train.images)):
        assert torch.equal(got, expected)
    assert splits.augmentation == Augmentation(padding=1, horizontal_flip=False)
    assert splits.image_shape == (1, 8, 8)
    assert splits.num_classes == 2


def test_one_colour_image_makes_all_of_them_colour() -> None:
    def read(index: int) -> torch.Tensor:
        return torch.full((3 if index == 4 else 1, 8, 8), index, dtype=torch.uint8)

    splits = _load(replace(_source((5, 5)), read=read, class_names=("ant", "bee")))
    assert splits.image_shape == (3, 8, 8)
    parts = [part.images for part in (splits.train, splits.validation, splits.test)]
    assert all(torch.equal(images, images[:, :1, :1, :1].expand_as(images)) for images in parts)
    assert sorted(torch.cat(parts)[:, 0, 0, 0].tolist()) == list(range(10))
    assert splits.augmentation == Augmentation(padding=1, horizontal_flip=True)


def test_images_of_different_size_need_an_image_size() -> None:
    def read(index: int) -> torch.Tensor:
        return torch.full((1, 7 if index == 4 else 8, 9), index, dtype=torch.uint8)

    source = replace(_source((5, 5)), read=read)
    message = r"image 0 and image 4: expected one size, got .*\(8, 9\) and \(7, 9\); set an image size"
    with pytest.raises(DataError, match=message):
        _load(source)
    assert _load(source, image_size=6).image_shape == (1, 6, 6)


def test_rejects_a_class_with_too_few_images() -> None:
    with pytest.raises(DataError, match=r"made: class 'b': 2 images used, too few for a validation part"):
        _load(_source((10, 2)))
    with pytest.raises(DataError, match=r"class 'a': 2 images used"):
        _load(_source((100, 100)), max_images=4)
    with pytest.raises(DataError, match=r"20 images used, .* validation part, which gets a share of 0\.02 of"):
        _load(_source((20, 20)), held_out={Part.VALIDATION: 0.02})


def test_rejects_a_class_that_a_part_of_the_data_lacks() -> None:
    with pytest.raises(DataError, match=r"class 'b': 10 images used, none of them in the validation part"):
        _load(_source((10, 10), (Part.VALIDATION,) * 2 + (Part.TRAIN,) * 18))


def test_rejects_what_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 images of 64 bytes are held twice while they are divided."""
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 20 * 64)
    _load(_source((10, 10)))
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 20 * 64 - 1)
    with pytest.raises(DataError, match=r"made: too large for memory \(0\.00 GiB are needed, .* use fewer or smaller"):
        _load(_source((10, 10)), images=ImageSettings(keep="memory"))


def test_memory_is_asked_for_again_when_colour_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(index: int) -> torch.Tensor:
        return torch.full((3 if index == 4 else 1, 8, 8), index, dtype=torch.uint8)

    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 20 * 64)
    with pytest.raises(DataError, match="made: too large for memory"):
        _load(replace(_source((10, 10)), read=read), images=ImageSettings(keep="memory"))


def test_an_absurd_image_size_is_refused_before_anything_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**33)
    source = replace(_source((10, 10)), read=lambda index: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"made: too large for memory \(.* GiB are needed, 8\.00 GiB are available"):
        _load(source, image_size=60_000)


@pytest.mark.parametrize("part", [Part.TRAIN, Part.VALIDATION, Part.TEST])
def test_images_that_are_all_the_same_are_refused(part: Part) -> None:
    parts = (Part.TRAIN, Part.VALIDATION, Part.TEST) * 2
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)

    def read(index: int) -> torch.Tensor:
        return ramp if parts[index] is part else ramp + index

    with pytest.raises(DataError, match=f"made: {part.value} part: expected images that differ, got 2 times the same"):
        _load(replace(_source((3, 3), parts), read=read))


def test_notes_on_the_choice_of_images_are_kept() -> None:
    assert _load(replace(_source((10, 10)), notes=("left out 3 files",))).notes == ("left out 3 files",)


def test_the_digits_need_no_path() -> None:
    splits = _load(open_source(None))
    assert splits.class_names == tuple("0123456789")
    assert splits.image_shape == (1, 8, 8)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1078, 359, 360)
    assert splits.train.images.max() == 255
