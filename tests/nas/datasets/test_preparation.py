"""How training images are varied and normalised by default, and as settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot_ext.nas.datasets import DataError, load_splits
from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.settings import AugmentationSettings, ImageSettings
from kshot_ext.nas.datasets.source import ImageSource, Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.task import Regression

PIXELS = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def source(pixels: Tensor = PIXELS, names: Sequence[str] = ("cat", "dog"), **changes: Any) -> ImageSource:
    return ImageSource(
        **{
            "name": "made",
            "class_names": tuple(names),
            "labels": torch.arange(40) % 2,
            "parts": (Part.TRAIN,) * 40,
            "read": pixels.__getitem__,
            "describe": lambda index: f"image {index}",
            **changes,
        }
    )


def load(which: ImageSource, images: ImageSettings | None = None, **varied: Any) -> DataSplits:
    return load_splits(
        which,
        generator=torch.Generator().manual_seed(0),
        images=images or ImageSettings(workers=0),
        augmentation=AugmentationSettings(**varied),
    )


def an_epoch(splits: DataSplits, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    options = {"mean": splits.mean, "std": splits.std, "augment": splits.augmentation}
    return list(batches(splits.train, 8, generator=generator, **options))


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (("cat", "dog"), True),
        (("0", "1"), False),
        (("12", "130"), False),
        (("A", "b"), False),
        (("three", "Seven"), False),
        (("3", "cat"), True),
    ],
)
def test_digits_and_letters_are_not_mirrored(names: tuple[str, ...], mirrored: bool) -> None:
    splits = load(source(names=names))
    assert splits.augmentation == Augmentation(padding=2, horizontal_flip=mirrored)
    told = [note for note in splits.notes if "augmentation.flip = true mirrors them" in note]
    assert len(told) == (not mirrored)
    grey = load(source(PIXELS[:, :1], names))
    assert grey.augmentation == Augmentation(padding=2)
    assert grey.notes == ()


def test_settings_decide_crops_and_flips() -> None:
    assert load(source(), crop=0, flip=False).augmentation == Augmentation()
    assert load(source(PIXELS[:, :1]), crop=5, flip=True).augmentation == Augmentation(5, True)
    assert load(source(varies=True)).augmentation == Augmentation()
    assert load(source(varies=True), crop=1, flip=True).augmentation == Augmentation(1, True)


def test_given_statistics_normalise_images() -> None:
    splits = load(source(), ImageSettings(mean="0.1,0.2,0.3", std="0.5"))
    torch.testing.assert_close(splits.mean, torch.tensor([0.1, 0.2, 0.3]))
    assert splits.std.tolist() == [0.5, 0.5, 0.5]
    image, _ = next(batches(splits.train, 1, mean=splits.mean, std=splits.std))
    expected = (splits.train.images[:1].float() / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5
    torch.testing.assert_close(image, expected)
    with pytest.raises(DataError, match=r"images.mean: expected 1 number or 3, one for each channel, got 2"):
        load(source(), ImageSettings(mean="0.1,0.2", std="1"))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ImageSettings, {"keep": "disk"}, "keep: expected one of auto, memory, stream, got 'disk'"),
        (ImageSettings, {"workers": -1}, "workers: expected 0 or more"),
        (ImageSettings, {"mean": "0.5"}, "std: expected numbers beside mean, got none"),
        (ImageSettings, {"mean": "a", "std": "1"}, "mean: expected numbers such as 0.485,0.456,0.406, got 'a'"),
        (ImageSettings, {"mean": "0", "std": "0"}, "std: expected numbers above 0, got '0'"),
        (AugmentationSettings, {"crop": -1}, "crop: expected 0 or more"),
        (AugmentationSettings, {"erasing": 1.5}, "erasing: expected a probability, 0 to 1, got 1.5"),
        (AugmentationSettings, {"erasing": float("nan")}, "erasing: expected a probability"),
        (AugmentationSettings, {"mixup": -0.1}, "mixup: expected 0 or more"),
        (AugmentationSettings, {"rand_augment": 20}, "rand_augment: expected 0 or more and below 17"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_mixtures_are_for_classes_only() -> None:
    numbers = source(labels=torch.rand(40, 1), class_names=(), task=Regression())
    with pytest.raises(DataError, match=r"augmentation.mixup: expected 0, .* there are none in regression"):
        load(numbers, mixup=0.2)


class TestWithTorchvision:
    """What torchvision's transforms do; needs torchvision."""

    @pytest.fixture(autouse=True)
    def torchvision(self) -> None:
        pytest.importorskip("torchvision", reason="torchvision is not installed")

    def test_erasing_puts_the_mean_colour_on_a_rectangle_of_each_image(self) -> None:
        splits = load(source(), crop=0, flip=False, erasing=1.0)
        colour = (splits.mean * 255).round()
        for (images, _), (same, _) in zip(an_epoch(splits), an_epoch(splits), strict=True):
            assert torch.equal(images, same)
            pixels = ((images * splits.std[:, None, None] + splits.mean[:, None, None]) * 255).round()
            erased = (pixels == colour[:, None, None]).all(dim=1)
            for one in erased:
                rows, columns = one.any(dim=1).nonzero()[:, 0], one.any(dim=0).nonzero()[:, 0]
                assert len(rows) * len(columns) == int(one.sum()) > 0
        assert len({tuple(one.flatten().tolist()) for one in erased}) > 1

    def test_every_image_gets_operations_of_its_own(self) -> None:
        splits = load(source(), crop=0, flip=False, rand_augment=2, rand_augment_magnitude=9)
        plain = load(source(), crop=0, flip=False)
        changed = [a[0] != b[0] for a, b in zip(an_epoch(splits, 3), an_epoch(splits, 4))]
        assert any(bool(each.any()) for each in changed)
        assert all(a[0].shape == b[0].shape for a, b in zip(an_epoch(splits), an_epoch(plain), strict=True))
        with pytest.raises(DataError, match=r"rand_augment: expected 0, .* got 2 channels of torch.uint8"):
            load(source(PIXELS[:, :2]), rand_augment=1)

    def test_variation_is_the_same_streamed_and_in_memory(self) -> None:
        held = load(source(), rand_augment=2, erasing=0.5, mixup=0.3)
        for workers in (0, 2):
            streamed = load(
                source(), ImageSettings(keep="stream", workers=workers), rand_augment=2, erasing=0.5, mixup=0.3
            )
            for pair, other in zip(an_epoch(held), an_epoch(streamed), strict=True):
                assert torch.equal(pair[0], other[0])
                assert torch.equal(pair[1], other[1])

    def test_mixtures_are_of_images_and_classes_alike(self) -> None:
        plain, mixed = load(source(), crop=0, flip=False), load(source(), crop=0, flip=False, mixup=1.0)
        shares = []
        for (images, labels), (mixture, probabilities) in zip(an_epoch(plain), an_epoch(mixed)):
            own = torch.nn.functional.one_hot(labels, 2).float()
            others, other_classes = images.roll(1, 0), own.roll(1, 0)
            share = ((mixture - others) / (images - others)).nanmedian()
            torch.testing.assert_close(mixture, share * images + (1 - share) * others, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(probabilities, share * own + (1 - share) * other_classes, atol=1e-4, rtol=1e-4)
            shares.append(float(share))
            break  # the next batch's generator has moved on
        assert 0 < shares[0] < 1
