"""The tracker search: its costs, its loss, and a run of some seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

import light_track
from light_track import CELLS, KERNEL, NECK, TrackerSpace, tracking_loss
from videos import TEMPLATE, WINDOW

SPACE = TrackerSpace()


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_those_of_a_frame_without_the_unused_blocks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    path = SPACE.sample(generator)
    network = SPACE.new_network(path, generator)
    template = network.embed(torch.randn(1, 3, TEMPLATE, TEMPLATE))
    with FlopCounterMode(display=False) as counter:
        output = network.match(template, network.embed(torch.randn(1, 3, WINDOW, WINDOW)))
    correlation = KERNEL**2 * NECK * CELLS**2
    output.sum().backward()
    used = sum(weight.numel() for weight in network.parameters() if weight.grad is not None)
    assert SPACE.count_macs(path) == counter.get_total_flops() // 2 - correlation
    assert SPACE.count_parameters(path) == used


def test_no_tracker_costs_less_than_the_cheapest_or_more_than_the_largest() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = [SPACE.count_macs(SPACE.sample(generator)) for _ in range(200)]
    assert SPACE.count_macs(SPACE.cheapest()) <= min(costs)
    assert SPACE.count_macs(SPACE.largest()) >= max(costs)
    assert {SPACE.depth(SPACE.cheapest()), SPACE.depth(SPACE.largest())} == {2, 4}


def perfect_output(boxes: torch.Tensor) -> torch.Tensor:
    """What a network would put out that is sure of the middle of each box, and knows its sides."""
    output = torch.empty(len(boxes), 5, CELLS, CELLS)
    for sample, (x, y, width, height) in enumerate(boxes.tolist()):
        for row in range(CELLS):
            for column in range(CELLS):
                right, down = (column + 0.5) / CELLS - x, (row + 0.5) / CELLS - y
                central = max(abs(right) / width, abs(down) / height) < 0.25
                sides = [right + width / 2, down + height / 2, width / 2 - right, height / 2 - down]
                logarithms = [torch.tensor(max(side, 1e-3) / light_track.USUAL_SIDE).log() for side in sides]
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
    videos = light_track.Videos.random(torch.arange(6).expand(3, -1), torch.Generator().manual_seed(0))
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

    monkeypatch.setattr(light_track.Videos, "view", view)
    found = light_track.track(Knowing(), videos)
    torch.testing.assert_close(found[..., :2], videos.boxes[..., :2], atol=1e-3, rtol=0)
    seen.clear()
    assert light_track.average_overlap(Knowing(), videos) > 0.85  # sizes follow by degrees


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light_track")
    light_track.main(folder, seed=3, quick=True)
    return folder


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["average_overlap"]) == {"found", "hand-made", "random 1", "random"}
    assert all(0 <= value <= 1 for value in metrics["average_overlap"].values())
    assert metrics["macs"]["found"] <= metrics["macs"]["hand-made"] == SPACE.count_macs(SPACE.hand_made())
    assert abs(metrics["macs"]["random 1"] / metrics["macs"]["hand-made"] - 1) <= 0.05
    assert metrics["best_of_each_generation"] == sorted(metrics["best_of_each_generation"])
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_gives_the_same_numbers_again(run: Path, tmp_path: Path) -> None:
    light_track.main(tmp_path, seed=3, quick=True)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        light_track.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "mine")]
