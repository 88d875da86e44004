"""Control through frozen perception: its arms, what stable-baselines3 is given, and a run of some seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from stable_baselines3.common.vec_env import VecMonitor
from typer.testing import CliRunner

import mid_level_control
from kshot_ext.nas.randomness import named_generator
from mid_level_control import Arm, SeenFeatures, SeenRooms, arms
from parts.perception import CELLS, CHANNELS, TARGETS, Perception, as_inputs
from parts.rooms import LEFT, Rooms, Scenes

FEATURES = CHANNELS * CELLS**2


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.random(3, 3, np.random.default_rng(0))


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception(len(TARGETS), named_generator(0, "perception")).requires_grad_(False)


def test_arms_see_what_their_names_say(perception: Perception, scenes: Scenes) -> None:
    images = Rooms(scenes, "reach", 2).reset(seed=0)[0]
    found = arms(perception, as_inputs(images), (1, 3), seed=0)
    seen = {}
    for title, arm in found.items():
        rooms = SeenRooms(Rooms(scenes, "reach", 2), arm, seed=0)
        first = rooms.reset()
        assert rooms.observation_space.contains(first[0])
        assert first.dtype == np.float32
        seen[title] = torch.from_numpy(first)
    alone = {name: perception(as_inputs(images), (k,)) for k, name in enumerate(TARGETS)}
    assert list(found) == [
        *("blind", "pixels", "random encoder"),
        *TARGETS,
        *("all, mixed", "cover, mixed", "cover, joined"),
    ]
    torch.testing.assert_close(seen["pixels"], as_inputs(images))
    for name in TARGETS:
        torch.testing.assert_close(seen[name], alone[name])
    torch.testing.assert_close(seen["all, mixed"], torch.cat([*alone.values()], dim=1))
    cover = torch.cat([alone["normals"], alone["mask"]], dim=1)
    torch.testing.assert_close(seen["cover, joined"], cover)
    torch.testing.assert_close(seen["cover, mixed"], cover)
    assert torch.equal(seen["blind"][0], seen["blind"][1])
    assert not torch.equal(seen["random encoder"][0], seen["random encoder"][1])
    policies = {
        title: SeenFeatures(SeenRooms(Rooms(scenes, "reach", 2), arm, 0).observation_space, arm)
        for title, arm in found.items()
    }
    assert {title for title, seen in policies.items() if seen.features_dim != FEATURES} == {"cover, joined"}
    trained = {title: sum(weight.numel() for weight in seen.parameters()) for title, seen in policies.items()}
    assert {title: count for title, count in trained.items() if count} == {
        "pixels": sum(weight.numel() for weight in found["pixels"].perception.parameters()),
        "all, mixed": 5,
        "cover, mixed": 2,
    }


def test_mixed_features_are_the_convex_combination_under_the_code(perception: Perception) -> None:
    arm = Arm(perception, (0, 2, 3), mixed=True)
    views = torch.randn(4, 3, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    seen = SeenFeatures(
        SeenRooms(Rooms(Scenes.random(1, 1, np.random.default_rng(0)), "reach", 1), arm, 0).observation_space, arm
    )
    with torch.no_grad():
        seen.logits.copy_(torch.tensor([0.5, 0.3, 0.2]).log() + 1)
    wanted = 0.5 * views[:, 0] + 0.3 * views[:, 1] + 0.2 * views[:, 2]
    torch.testing.assert_close(seen(views), wanted.flatten(1))
    seen(views).square().sum().backward()
    assert seen.logits.grad.abs().min() > 0
    joined = SeenFeatures(
        SeenRooms(Rooms(Scenes.random(1, 1, np.random.default_rng(0)), "reach", 1), arm, 0).observation_space,
        Arm(perception, (0, 2, 3)),
    )
    torch.testing.assert_close(joined(views), views.flatten(1))


def test_a_cut_off_episode_tells_its_last_view(perception: Perception, scenes: Scenes) -> None:
    rooms = Rooms(scenes, "explore", 3, horizon=2)
    seen = VecMonitor(SeenRooms(rooms, Arm(perception, (1,)), seed=0))
    seen.reset()
    _, given, done, infos = seen.step(np.full(3, LEFT))
    assert not done.any()
    assert infos == [{}, {}, {}]
    rooms.times[0] = 0
    first = rooms.images(np.arange(3))
    new, more, done, infos = seen.step(np.full(3, LEFT))
    assert done.tolist() == [False, True, True]
    for walker in (1, 2):
        assert infos[walker]["TimeLimit.truncated"]
        assert infos[walker]["episode"]["r"] == pytest.approx(given[walker] + more[walker], abs=1e-5)
        assert not np.allclose(infos[walker]["terminal_observation"], new[walker])
    assert infos[0] == {}
    # The view after the second turn, not the one before it.
    before = perception(as_inputs(first), (1,)).numpy()
    assert not np.allclose(infos[1]["terminal_observation"], before[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mid_level_control")
    mid_level_control.main(folder, seed=3, quick=True)
    return folder


def test_a_quick_run_writes_its_numbers_and_a_picture(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["results"]) == ["reach", "explore"]
    for arms_of_task in metrics["results"].values():
        assert len(arms_of_task) == 11
        for result in arms_of_task.values():
            assert -0.64 <= min(result["curve"]) <= result["area"] <= max(result["curve"]) <= 1
            assert all(-0.64 <= result[name] <= 1 for name in ("few", "unseen"))
        code = arms_of_task["all, mixed"]["code"]
        assert list(code) == list(TARGETS)
        assert sum(code.values()) == pytest.approx(1)
        assert len(set(code.values())) == 5  # it has learnt
        assert list(arms_of_task["cover, mixed"]["code"]) == metrics["cover"]
    assert metrics["cover_distance"]["exact"] <= metrics["cover_distance"]["greedy"]
    assert (run / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_perception_stays_as_it_was(perception: Perception, scenes: Scenes) -> None:
    images = as_inputs(Rooms(scenes, "reach", 2).reset(seed=0)[0])
    before = {name: value.clone() for name, value in perception.state_dict().items()}
    scale = mid_level_control.QUICK
    some = {"few": scenes, "unseen": scenes}
    found = arms(perception, images, (0, 1), seed=0)
    pixels = {name: value.clone() for name, value in found["pixels"].perception.state_dict().items()}
    for title in ("all, mixed", "pixels"):
        watch = mid_level_control.Returns(
            mid_level_control.ConsoleProgress(mid_level_control.Console(quiet=True)), title, scale
        )
        mid_level_control.learn(found[title], "reach", some, scale, 0, watch)
    for state, network in ((before, perception), (pixels, found["pixels"].perception)):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_policy_learns_in_the_few_scenes_and_is_tried_in_both(
    perception: Perception, scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[Scenes] = []

    def enter(these: Scenes, *others: Any) -> Rooms:
        entered.append(these)
        return Rooms(these, *others)

    monkeypatch.setattr(mid_level_control, "Rooms", enter)
    unseen = Scenes.random(3, 3, np.random.default_rng(1))
    bar = mid_level_control.ConsoleProgress(mid_level_control.Console(quiet=True))
    watch = mid_level_control.Returns(bar, "depth", mid_level_control.QUICK)
    some = {"few": scenes, "unseen": unseen}
    mid_level_control.learn(Arm(perception), "reach", some, mid_level_control.QUICK, 0, watch)
    assert [these is scenes for these in entered] == [True, True, False]
    assert entered[2] is unseen


def test_a_seed_gives_the_same_numbers_again(run: Path, tmp_path: Path) -> None:
    mid_level_control.main(tmp_path, seed=3, quick=True)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(typer.BadParameter, match=r"exists already; move it away or choose another folder"):
        mid_level_control.main(tmp_path, quick=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "mine")]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses_is_refused_at_once(seed: int, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(mid_level_control.main)
    result = CliRunner().invoke(app, ["--quick", "--seed", str(seed), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "--seed" in result.output
    assert not (tmp_path / "run").exists()
