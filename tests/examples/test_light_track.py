"""The tracker search: its costs, and a run of some seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

import light_track
from light_track import NECK, TrackerSpace
from parts.siamese import CELLS, KERNEL
from parts.videos import TEMPLATE, WINDOW

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
