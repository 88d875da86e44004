import pytest
import torch

from kshot_ext.nas.datasets.augmentation import Augmentation, Views


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


def test_a_view_of_the_whole_image_without_jitter_is_the_image() -> None:
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    views = Views(least_area=1.0, jitter=0.0)
    torch.testing.assert_close(views(images, views.draw(4, 3, torch.Generator().manual_seed(1))), images)


def test_half_of_the_views_are_mirrored_where_that_suits() -> None:
    images = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    views = Views(least_area=1.0, jitter=0.0, horizontal_flip=True)
    seen = views(images, views.draw(200, 1, torch.Generator().manual_seed(1)))
    plain = [torch.allclose(view, image, atol=1e-5) for view, image in zip(seen, images)]
    mirrored = [torch.allclose(view, image.flip(2), atol=1e-5) for view, image in zip(seen, images)]
    assert all(one != other for one, other in zip(plain, mirrored))
    assert 70 < sum(mirrored) < 130


def test_a_view_is_a_part_of_at_least_the_area_and_lies_inside_the_image() -> None:
    """Of an image whose value is the column in the first channel and the row in the second, each from -1 to 1."""
    side = 16
    middles = (torch.arange(side) + 0.5) * 2 / side - 1
    image = torch.stack([middles.expand(side, side), middles[:, None].expand(side, side)])
    views = Views(least_area=0.25, jitter=0.0)
    seen = views(image.expand(300, 2, side, side), views.draw(300, 2, torch.Generator().manual_seed(0)))
    assert seen.abs().max() <= 1
    columns, rows = seen[:, 0, 8], seen[:, 1, :, 8]
    # Away from the border, where interpolation ends, steps between neighbours are those of the part's scale.
    scales = torch.stack([line[:, 4:12].diff(dim=1).mean(dim=1) * side / 2 for line in (columns, rows)])
    torch.testing.assert_close(scales[0], scales[1], atol=0.02, rtol=0)
    assert scales.square().min() > 0.22
    assert scales.square().max() <= 1.01
    assert scales[0].square().mean() == pytest.approx(0.625, abs=0.05)  # areas are uniform from a quarter to one
    centres = seen[:, 0, :, 7:9].mean(dim=(1, 2))
    assert centres.max() > 0.25
    assert centres.min() < -0.25


def test_jitter_changes_contrast_and_brightness_of_each_channel_of_each_image() -> None:
    images = torch.randn(50, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    views = Views(least_area=1.0, jitter=0.4)
    seen = views(images, views.draw(50, 3, torch.Generator().manual_seed(1)))
    contrast = seen.std(dim=(2, 3)) / images.std(dim=(2, 3))
    brightness = seen.mean(dim=(2, 3)) - contrast * images.mean(dim=(2, 3))
    torch.testing.assert_close(contrast[..., None, None] * images + brightness[..., None, None], seen)
    for values, middle in ((contrast, 1.0), (brightness, 0.0)):
        assert values.min() >= middle - 0.401
        assert values.max() <= middle + 0.401
        assert values.std() > 0.15
        assert len(values.unique()) == 150


def test_views_of_a_part_of_a_batch_are_those_in_the_whole() -> None:
    images = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    views = Views()
    drawn = views.draw(6, 3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(views(images[2:4], drawn[2:4]), views(images, drawn)[2:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least_area": 0.0}, "least_area: expected a share above 0 and at most 1, got 0.0"),
        ({"jitter": 1.0}, "jitter: expected 0 or more and below 1, got 1.0"),
    ],
)
def test_views_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Views(**options)
