"""Stroke recovery: its lines, its losses, targets that adapt, and a run of some seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

import trace_strokes
from kshot_ext.nas.randomness import named_generator
from parts.strokes import ENDS, HEIGHT, SPACING, Line, Targets, random_lines, resampled, spoilt
from trace_strokes import BAND, FLAG_WEIGHT, START_WEIGHT, Pen, adapted, errors, trace_loss


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return random_lines(6, 96, torch.Generator().manual_seed(0))[1]


def test_points_lie_at_equal_distances_and_on_ink() -> None:
    images, lines = random_lines(6, 96, torch.Generator().manual_seed(0))
    corner = resampled(torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]]), 5)
    assert corner.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]
    for image, line in zip(images[:, 0], lines):
        for stroke in line.strokes:
            steps = (stroke[1:] - stroke[:-1]).norm(dim=1)
            assert steps.median() > 0.6 * SPACING  # shorter where it turns a corner
            assert (steps < 1.4 * SPACING).all()
            x, y = (stroke * HEIGHT).floor().long().T
            assert (image[y, x] > 0.4).all()
        assert (image < 0.4).float().mean() > 0.5


def test_strokes_are_spoilt_and_put_right_again(lines: list[Line]) -> None:
    stored = spoilt(lines * 50, 0.3, torch.Generator().manual_seed(1))
    assert 0.55 < sum(line.right_share() for line in stored) / len(stored) < 0.8
    line = lines[0]
    assert line.right_share() == 1
    assert line.flipped(1).flipped(1).points()[0].equal(line.points()[0])
    assert line.swapped(0).swapped(0).points()[0].equal(line.points()[0])
    assert not line.flipped(1).points()[0].equal(line.points()[0])
    last = len(line.order) - 1
    assert line.swapped(last).order == line.order


def test_starts_move_with_their_strokes(lines: list[Line]) -> None:
    targets = Targets.of([lines[0].swapped(0)])
    first, second = lines[0].strokes[:2]
    assert targets.points[0, 0].equal(second[0])
    assert torch.nonzero(targets.starts[0])[:2, 0].tolist() == [0, len(second)]
    assert targets.points[0, len(second)].equal(first[0])


def test_the_loss_of_perfect_predictions_is_that_of_their_flags() -> None:
    stroke = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    targets = Targets.of([Line([stroke, stroke + 5])])
    positions = targets.points[:, : 6 + 1]  # the last point and one of its copies, which no one can tell apart
    truth = torch.tensor([[1.0, 0, 0, 1, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 0, 0, 1, 1]])
    starts, ends = torch.zeros(2, 1, 7)
    expected = F.binary_cross_entropy_with_logits(starts, truth[0], pos_weight=torch.tensor(START_WEIGHT))
    expected = FLAG_WEIGHT * (expected + F.binary_cross_entropy_with_logits(ends, truth[1]))
    assert ENDS > 1
    torch.testing.assert_close(trace_loss((positions, starts, ends), targets, None), expected)
    assert trace_loss((positions, 40 * truth[0] - 20, 40 * truth[1] - 20), targets, None) < 1e-6


def test_what_fills_up_a_shorter_line_costs_nothing() -> None:
    stroke = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    targets = Targets.of([Line([stroke, stroke + 5]), Line([stroke, stroke + 5, stroke + 9])])
    positions = torch.stack([targets.points[0, :10], targets.points[1, [*range(9), 8]]])
    truth = torch.zeros(2, 2, 10)
    for row, starts, ends in ((0, [0, 3], [6, 7, 8, 9]), (1, [0, 3, 6], [8, 9])):
        truth[0, row, starts] = truth[1, row, ends] = 1
    assert trace_loss((positions, *(40 * truth - 20)), targets, None) < 1e-6


def test_of_predictions_aligned_with_a_start_the_first_is_one() -> None:
    stroke = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    targets = Targets.of([Line([stroke, stroke + 5])])
    positions = targets.points[:, [0, 1, 2, 2, 2, 3, 4]]  # three at the second stroke's start
    truth = torch.tensor([[1.0, 0, 1, 0, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 0, 0, 1, 1]])
    sure = trace_loss((positions, 40 * truth[0] - 20, 40 * truth[1] - 20), targets, None)
    assert sure < 1e-6


def test_a_reversed_and_two_exchanged_strokes_are_stored_right_again(lines: list[Line]) -> None:
    wrong = [line.flipped(1) if k % 2 else line.swapped(1) for k, line in enumerate(lines)]
    positions = torch.stack([resampled(line.points()[0], 60) for line in lines])
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        wrong = adapted(positions, wrong, generator)
    assert sum(line.right_share() for line in wrong) / len(wrong) > 0.9


def test_codes_are_those_of_the_image() -> None:
    """Each image gets what it gets alone, at any width."""
    network = Pen().eval()
    images = torch.randn(3, 1, HEIGHT, 48)
    together = network(images)
    for row in range(3):
        for one, other in zip(network(images[row : row + 1]), together):
            torch.testing.assert_close(one[0], other[row], rtol=1e-4, atol=1e-4)
    assert network(torch.randn(1, 1, HEIGHT, 80))[0].shape == (1, 40, 2)


@torch.no_grad()
def test_positions_are_sums_of_steps() -> None:
    """At first they cross the image at half its height."""
    x, y = Pen().eval()(torch.zeros(1, 1, HEIGHT, 96))[0][0].unbind(1)
    assert (x[1:] > x[:-1]).all()
    assert float(x[-1]) == pytest.approx(96 / HEIGHT, rel=0.3)
    assert float(y.mean()) == pytest.approx(0.5, abs=0.3)


def test_positions_learn_along_the_alignment_and_flags_do_not_move_them() -> None:
    stroke = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    targets = Targets.of([Line([stroke, stroke + 5])])
    positions = (targets.points[:, :7] + 0.1).requires_grad_()
    starts, ends = torch.zeros(2, 1, 7).requires_grad_().unbind()
    trace_loss((positions, starts, ends), targets, None).backward()
    assert positions.grad is not None
    torch.testing.assert_close(positions.grad[0, :5], torch.full((5, 2), 1 / float(targets.lengths)))
    assert (positions.grad[0, 5:] > 0).all()  # the last point and its copies


class Told(nn.Module):
    """Gives the positions, starts and ends that it was told."""

    def __init__(self, positions: Tensor, starts: Tensor) -> None:
        super().__init__()
        ends = torch.full((len(positions),), -1.0)
        ends[-1] = 1.0
        self.outputs = positions[None], starts[None].float() - 0.5, ends[None]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.outputs


def test_errors_of_what_is_known(lines: list[Line]) -> None:
    """They do not depend on how many points are predicted, and half of a line is near to it but not it to the half."""
    line, images = lines[0], torch.zeros(1, 1, HEIGHT, 96)
    truth = Targets.of([line], ends=0)
    points, starts = truth.points[0], truth.starts[0]
    found = errors(Told(points, starts), images, [line])
    assert found == {"aligned": 0, "nearest": pytest.approx(0, abs=1e-3), "strokes_too_many_or_few": 0}
    twice = F.interpolate(points.T[None], 2 * len(points) - 1, mode="linear", align_corners=True)[0].T
    assert errors(Told(twice, torch.zeros(len(twice))), images, [line]) == {
        "aligned": pytest.approx(0, abs=1e-5),
        "nearest": pytest.approx(float(torch.cdist(twice, points).min(1).values.mean()) / 2, abs=1e-3),
        "strokes_too_many_or_few": len(line.order),
    }
    beside = errors(Told(points + torch.tensor([0.03, 0.04]), starts), images, [line])
    assert beside["aligned"] == pytest.approx(0.05, rel=0.1)
    half = points[: len(points) // 2]
    far = float(torch.cdist(points, half).min(1).values.mean()) / 2
    assert errors(Told(half, starts[: len(half)]), images, [line])["nearest"] == pytest.approx(far, abs=1e-3)


@dataclass
class Trained:
    """What one call for losses was given, and the network's weights at that time."""

    network: Pen
    begins: dict[str, Tensor]
    data: trace_strokes.Data
    band: int | None
    adaptive: bool


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trained]]:
    folder, trained, losses = tmp_path_factory.mktemp("trace_strokes"), [], trace_strokes.losses

    def record(network: Pen, data: trace_strokes.Data, band: int | None, adaptive: bool = False, **how: Any) -> Any:
        begins = {name: value.clone() for name, value in network.state_dict().items()}
        trained.append(Trained(network, begins, data, band, adaptive))
        return losses(network, data, band, adaptive=adaptive, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_strokes, "losses", record)
        trace_strokes.main(folder, seed=3, quick=True)
    return folder, trained


@pytest.fixture
def run(recorded: tuple[Path, list[Trained]]) -> Path:
    return recorded[0]


def test_arms_begin_alike_and_differ_in_what_they_are_named_for(recorded: tuple[Path, list[Trained]]) -> None:
    folder, trained = recorded
    by_index, by_index_more, common, aligned, adaptive = trained
    assert [each.band for each in trained] == [0, 0, BAND, BAND, BAND]
    assert [each.adaptive for each in trained] == [False, False, False, False, True]

    def alike(one: Trained, other: Trained) -> bool:
        return all(torch.equal(value, other.begins[name]) for name, value in one.begins.items())

    assert alike(by_index, common)
    assert alike(aligned, adaptive)
    assert not alike(common, aligned)
    assert not alike(by_index, by_index_more)
    assert len({id(each.data) for each in trained[:4]}) == 1
    # Targets adapt in a copy, from which the numbers come.
    metrics = json.loads((folder / "metrics.json").read_text())
    assert adaptive.data is not aligned.data
    shares = {"as stored": aligned.data.right_share(), "adapted": adaptive.data.right_share()}
    assert metrics["right_strokes"] == shares
    assert shares["as stored"] != shares["adapted"]
    cost = trace_strokes.stored_cost(adaptive.network, adaptive.data)
    assert metrics["cost_of_stored_targets"]["adaptive"] == pytest.approx(cost)
    fresh = trace_strokes.Data(trace_strokes.QUICK.lines, named_generator(3, "lines"))
    assert aligned.data.right_share() == fresh.right_share()


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["errors"]) == ["index-matched", "aligned", "adaptive"]
    for by_width in metrics["errors"].values():
        assert list(by_width) == ["128", "160"]
        assert all(
            0 < value < 5 for of_width in by_width.values() for value in (of_width["aligned"], of_width["nearest"])
        )
    assert 0.4 < metrics["right_strokes"]["as stored"] < 1
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_gives_the_same_numbers_again(run: Path, tmp_path: Path) -> None:
    trace_strokes.main(tmp_path, seed=3, quick=True)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        trace_strokes.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("picture.png", "mine")]
