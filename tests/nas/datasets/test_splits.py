import pytest
import torch

from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import channel_statistics


def test_statistics_equal_those_of_the_float_copy() -> None:
    images = torch.randint(256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(mean, pixels.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, pixels.std((0, 2, 3), correction=0).float())


def test_a_constant_channel_has_standard_deviation_one() -> None:
    assert channel_statistics(torch.full((4, 1, 2, 2), 9, dtype=torch.uint8))[1].item() == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.float64),
            torch.zeros(2, dtype=torch.int64),
            r"images: expected uint8 or float32 .* got torch.float64",
        ),
        (
            torch.zeros(2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            r"images: .* \[2, 4, 4\]",
        ),
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            r"labels: expected int64 \[2\]",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), r"labels: .* got torch.float32"),
    ],
)
def test_rejects_other_shapes_and_types(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels)
