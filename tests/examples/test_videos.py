"""The rendered videos, and boxes in them."""

from __future__ import annotations

import pytest
import torch

from parts.videos import TEMPLATE, WINDOW, Videos, corners, overlap, random_pairs, window_side


@pytest.fixture
def videos() -> Videos:
    return Videos.random(torch.arange(5).expand(6, -1), torch.Generator().manual_seed(0))


def visible_box(image: torch.Tensor) -> torch.Tensor:
    """Corners of what is brighter than everything but the target, in parts of the image."""
    bright = (image > 20).any(dim=0)
    rows, columns = (bright.any(dim=dim).nonzero().flatten() for dim in (1, 0))
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / image.shape[-1]


def test_boxes_are_those_of_the_rendered_ellipse(videos: Videos) -> None:
    videos.textures[:, 0] = 20.0  # brighter than any other texture
    centre, side = torch.tensor([0.1, -0.2]).expand(6, 2), torch.full((6,), 2.4)
    for frame in range(5):
        images = videos.view(frame, centre, side, 240)
        true = (corners(videos.boxes[:, frame]) - centre.repeat(1, 2)) / side.unsqueeze(1) + 0.5
        for image, box in zip(images, true):
            torch.testing.assert_close(visible_box(image), box, atol=0.013, rtol=0)  # three pixels: edges are soft


def test_a_pair_shows_the_target_where_its_box_says() -> None:
    (templates, windows), boxes = random_pairs(40, torch.Generator().manual_seed(1))
    assert templates.shape == (40, 3, TEMPLATE, TEMPLATE)
    assert windows.shape == (40, 3, WINDOW, WINDOW)
    assert (corners(boxes) > -0.1).all()
    assert (corners(boxes) < 1.1).all()
    # The colours around the middle of the box are those around the middle of the template; textures are the same.
    places = (WINDOW * boxes[:, :2]).long().clamp(2, WINDOW - 3)
    found = torch.stack([w[:, y - 2 : y + 3, x - 2 : x + 3].mean(dim=(1, 2)) for w, (x, y) in zip(windows, places)])
    middle = slice(TEMPLATE // 2 - 3, TEMPLATE // 2 + 3)
    wanted = templates[:, :, middle, middle].mean(dim=(2, 3))
    own, others = (found - wanted).norm(dim=1).mean(), (found - wanted.roll(1, 0)).norm(dim=1).mean()
    assert own < 0.4 * others


def test_overlap_of_known_boxes() -> None:
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 1.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    torch.testing.assert_close(overlap(one, others), torch.tensor([1.0, 1 / 7, 0.5, 0.0]))


def test_a_window_around_a_square_is_four_times_as_wide() -> None:
    torch.testing.assert_close(window_side(torch.tensor([[0.0, 0.0, 0.3, 0.3]])), torch.tensor([1.2]))
