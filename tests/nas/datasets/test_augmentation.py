import pytest
import torch

from kshot_ext.nas.datasets.augmentation import Augmentation


def _images(batch: int = 64) -> torch.Tensor:
    pixels = torch.randperm(batch * 3 * 5 * 7, generator=torch.Generator().manual_seed(1)) % 255 + 1
    return pixels.reshape(batch, 3, 5, 7).to(torch.uint8)


def _windows(image: torch.Tensor, padding: int, flip: bool) -> list[torch.Tensor]:
    _, height, width = image.shape
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    windows = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return windows + [window.flip(2) for window in windows] if flip else windows


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_becomes_one_of_its_windows_and_all_windows_occur(flip: bool) -> None:
    images = _images()[:1].expand(400, -1, -1, -1)
    varied = Augmentation(padding=1, horizontal_flip=flip)(images, torch.Generator().manual_seed(0))
    windows = _windows(images[0], 1, flip)
    seen = {next(i for i, window in enumerate(windows) if torch.equal(window, image)) for image in varied}
    assert seen == set(range(len(windows)))


def test_each_image_is_varied_by_itself() -> None:
    images = _images()
    varied = Augmentation(padding=2, horizontal_flip=True)(images, torch.Generator().manual_seed(0))
    for before, after in zip(images, varied):
        assert any(torch.equal(after, window) for window in _windows(before, 2, True))


def test_nothing_to_do_leaves_the_images() -> None:
    assert torch.equal(Augmentation()(_images(), torch.Generator()), _images())


def test_the_seed_decides() -> None:
    def vary(seed: int) -> torch.Tensor:
        return Augmentation(padding=2)(_images(), torch.Generator().manual_seed(seed))

    assert torch.equal(vary(3), vary(3))
    assert not torch.equal(vary(3), vary(4))


def test_rejects_negative_padding() -> None:
    with pytest.raises(ValueError, match="padding: expected 0 or more pixels, got -1"):
        Augmentation(padding=-1)
