"""The least that a step takes, against counts by hand."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.works.row import Demand
from benchmarks.works.step_demands import step_demands

BATCH, SHOTS = 2, 8
IMAGES = 4 * 2 * 3 * 36  # bytes of two images [3, 6, 6]
FIVE = 4 * 2 * 5 * 36  # of five channels of that size


class Block(nn.Module):
    """Convolution, norm, ReLU, depthwise convolution, norm, and in `sums` the shortcut."""

    def __init__(self, *, sums: bool) -> None:
        super().__init__()
        self.sums = sums
        self.first = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5))
        self.relu = nn.ReLU()
        self.second = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False), nn.BatchNorm2d(5))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        second = self.second(self.relu(first))
        if self.sums:
            second = second + first
        return self.head(torch.flatten(self.pool(second), 1))


POOLED, CLASSES = 4 * 2 * 5, 4 * 2 * 4  # bytes
FIRST = 2 * IMAGES + 3 * FIVE, 2 * 2 * (2 * 5 * 36) * 3
SECOND = 2 * FIVE + FIVE + 3 * FIVE, 3 * 2 * (2 * 5 * 36) * 9
LINEAR = 3 * POOLED + 2 * CLASSES, 3 * 2 * (2 * 4) * 5
POOL = 2 * FIVE + 2 * POOLED, 0
PARAMETERS = 15 + 10 + 45 + 10 + 20 + 4


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        (False, [FIRST, SECOND, POOL, LINEAR]),
        # Both norms write, the second one the sum, for which it reads the first.
        (True, [FIRST, (5 * FIVE, 0), SECOND, (5 * FIVE, 0), (FIVE, 0), POOL, LINEAR]),
    ],
)
def test_counts_by_hand(sums: bool, expected: list[tuple[int, int]]) -> None:
    network = Block(sums=sums)
    found = step_demands(network, (3, 6, 6), BATCH, SHOTS)
    assert found == [Demand(*each) for each in (*expected, (4 * PARAMETERS * (5 * SHOTS + 1), 0))]
    assert network.training
    assert torch.equal(network.first[1].running_mean, torch.zeros(5))


def test_a_gradient_of_two_readers_is_written_once() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (nn.Conv2d(n, 5, 1, bias=False) for n in (3, 5, 5))

        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images)
            return self.left(stem) * self.right(stem)

    _, left, right, _ = step_demands(Fork(), (3, 6, 6), BATCH, SHOTS)
    assert (left.bytes, right.bytes) == (5 * FIVE, 4 * FIVE)


def test_what_cannot_be_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no count for Softmax"):
        step_demands(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Softmax(1)), (3, 6, 6), BATCH, SHOTS)
