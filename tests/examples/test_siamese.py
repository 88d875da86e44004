"""Trackers: their loss, and how they follow an object."""

from __future__ import annotations

import pytest
import torch

from parts.siamese import CELLS, USUAL_SIDE, average_overlap, track, tracking_loss
from parts.videos import Videos


def perfect_output(boxes: torch.Tensor) -> torch.Tensor:
    """What a network would put out that is sure of the middle of each box, and knows its sides."""
    output = torch.empty(len(boxes), 5, CELLS, CELLS)
    for sample, (x, y, width, height) in enumerate(boxes.tolist()):
        for row in range(CELLS):
            for column in range(CELLS):
                right, down = (column + 0.5) / CELLS - x, (row + 0.5) / CELLS - y
                central = max(abs(right) / width, abs(down) / height) < 0.25
                sides = [right + width / 2, down + height / 2, width / 2 - right, height / 2 - down]
                logarithms = [torch.tensor(max(side, 1e-3) / USUAL_SIDE).log() for side in sides]
                output[sample, :, row, column] = torch.tensor([20.0 if central else -20.0, *logarithms])
    return output


def test_the_loss_is_least_where_score_and_sides_are_right() -> None:
    boxes = torch.tensor([[0.4, 0.55, 0.3, 0.2], [0.6, 0.5, 0.25, 0.4]])
    output = perfect_output(boxes)
    assert tracking_loss(output, boxes) < 1e-4
    assert tracking_loss(output, boxes.roll(1, 0)) > 1
    too_large = output.clone()
    too_large[:, 1:] += torch.tensor(2.0).log()  # twice the sides, and so a quarter of the area in common
    torch.testing.assert_close(tracking_loss(too_large, boxes), torch.tensor(4.0).log(), rtol=1e-3, atol=0)


def test_a_tracker_that_is_always_right_keeps_its_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score map points at the true box of each frame, so boxes come back from the window to the frame."""
    videos = Videos.random(torch.arange(6).expand(3, -1), torch.Generator().manual_seed(0))
    seen = []

    class Knowing(torch.nn.Module):
        def embed(self, images):
            return images

        def match(self, template, window):
            centre, side = seen[-1]
            true = videos.boxes[:, len(seen) - 1]
            return perfect_output(torch.cat([(true[:, :2] - centre) / side + 0.5, true[:, 2:] / side], dim=1))

    def view(self, frame, centre, side, pixels):
        seen.append((centre, side.unsqueeze(1)))
        return torch.zeros(3, 3, pixels, pixels)

    monkeypatch.setattr(Videos, "view", view)
    found = track(Knowing(), videos)
    torch.testing.assert_close(found[..., :2], videos.boxes[..., :2], atol=1e-3, rtol=0)
    seen.clear()
    assert average_overlap(Knowing(), videos) > 0.85  # sizes follow by degrees
