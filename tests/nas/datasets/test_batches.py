import pytest
import torch

from kshot_ext.nas.datasets.augmentation import Augmentation
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import channel_statistics


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(10))


def _labels(images: ImageSet, **options: object) -> list[list[int]]:
    mean, std = channel_statistics(images.images)
    return [labels.tolist() for _, labels in batches(images, 4, mean=mean, std=std, **options)]


def test_batches_are_normalised_and_channels_last(images: ImageSet) -> None:
    mean, std = channel_statistics(images.images)
    pixels = torch.cat([batch for batch, _ in batches(images, 4, mean=mean, std=std)])
    expected = (images.images / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(pixels, expected)
    first, _ = next(batches(images, 4, mean=mean, std=std))
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_without_generator_the_order_is_kept(images: ImageSet) -> None:
    assert _labels(images) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_drop_last_leaves_out_the_smaller_batch(images: ImageSet) -> None:
    assert _labels(images, drop_last=True) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_shuffling_keeps_every_image_with_its_label(images: ImageSet) -> None:
    mean, std = channel_statistics(images.images)
    plain = torch.cat([batch for batch, _ in batches(images, 4, mean=mean, std=std)])
    shuffled = list(batches(images, 4, mean=mean, std=std, generator=torch.Generator().manual_seed(0)))
    labels = torch.cat([labels for _, labels in shuffled])
    assert labels.tolist() != list(range(10))
    assert sorted(labels.tolist()) == list(range(10))
    assert torch.equal(torch.cat([batch for batch, _ in shuffled]), plain[labels])


def test_the_generator_decides(images: ImageSet) -> None:
    def run(seed: int) -> list[list[int]]:
        return _labels(images, generator=torch.Generator().manual_seed(seed), augment=Augmentation(1, True))

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_rejects_an_empty_batch_and_randomness_without_generator(images: ImageSet) -> None:
    mean, std = channel_statistics(images.images)
    with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
        batches(images, 0, mean=mean, std=std)
    with pytest.raises(ValueError, match="augment: random variation needs a generator"):
        batches(images, 2, mean=mean, std=std, augment=Augmentation())
