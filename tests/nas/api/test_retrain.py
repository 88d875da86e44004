"""``run.retrain``: any architecture of a search trained from scratch, in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from kshot_ext import nas
from kshot_ext.nas.runs.run_folder import RunFolder, RunFolderError


@pytest.fixture
def own_run(run: nas.SearchRun, tmp_path: Path) -> nas.SearchRun:
    """A copy of the search, to be added to."""
    found = nas.load_run(shutil.copytree(run.path, tmp_path / "run"))
    assert isinstance(found, nas.SearchRun)
    return found


def weights_of(trained: nas.RetrainedRun) -> dict[str, torch.Tensor]:
    return trained.network().network.state_dict()


def equal(one: nas.RetrainedRun, other: nas.RetrainedRun) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_point_of_the_front_is_trained_once(own_run: nas.SearchRun) -> None:
    point = own_run.front[0]
    before = (own_run.path / "results.json").read_bytes()
    events: list[Any] = []
    trained = own_run.retrain(point.number, settings={"epochs": 2}, on_epoch=events.append, progress=False)
    assert trained.path == own_run.path / "retrained" / point.key
    assert [(event.stage, event.step) for event in events] == [("retrain-network", 1), ("retrain-network", 2)]
    described = trained.described
    assert (described.key, described.operations, described.macs) == (point.key, point.operations, point.macs)
    assert described.supernet_loss == point.supernet_loss
    assert trained.network().weights == "trained"
    again = own_run.retrain(point.key, settings={"epochs": 2}, on_epoch=events.append, progress=False)
    assert (again.path, len(events)) == (trained.path, 2)
    assert [one.path for one in nas.load_run(own_run.path).retrained] == [trained.path]
    assert (own_run.path / "results.json").read_bytes() == before
    loaded = nas.load_run(trained.path)
    assert isinstance(loaded, nas.RetrainedRun)
    assert equal(loaded, trained)


def test_other_seeds_and_settings_have_folders_of_their_own(own_run: nas.SearchRun) -> None:
    key = own_run.winner.key
    runs = [
        own_run.retrain("winner", progress=False, **options)
        for options in ({}, {"seed": 1}, {"settings": {"learning_rate": 0.01}})
    ]
    assert [trained.path.name for trained in runs] == [key, f"{key}-seed-1", f"{key}-2"]
    assert not any(equal(runs[0], other) for other in runs[1:])
    with pytest.raises(RunFolderError, match="training_seed is 0 in the run, 2 asked; choose another folder"):
        own_run.retrain("winner", seed=2, out=runs[0].path, progress=False)


def test_an_interrupted_training_goes_on_to_the_same_bits(
    own_run: nas.SearchRun,
    tmp_path: Path,
    stop_before_saves: Callable[[Collection[int]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"settings": {"epochs": 3}, "progress": False}
    with monkeypatch.context():
        saves = stop_before_saves({3})
        with pytest.raises(KeyboardInterrupt) as ended:
            own_run.retrain(0, **options)
        shown = [
            *getattr(ended.value, "__notes__", ()),
            *capsys.readouterr().err.splitlines(),
        ]  # before 3.11 the latter
        assert f"safe in {own_run.path}/retrained/" in shown[0]
        stopped = own_run.retrain(0, **options)
    assert len(saves) == 4  # two, the one that was not, and its second try
    whole = own_run.retrain(0, out=tmp_path / "whole", **options)
    assert equal(stopped, whole)
    assert stopped.described == whole.described


def test_a_search_that_goes_on_leaves_trainings_beside_it_alone(own_run: nas.SearchRun) -> None:
    """Another process may be writing there."""
    unfinished = own_run.path / "retrained" / "01" / ".unfinished-x"
    unfinished.mkdir(parents=True)
    (own_run.path / "checkpoints" / ".unfinished-x").mkdir()
    RunFolder(own_run.path, "search").close()
    assert unfinished.exists()
    assert not (own_run.path / "checkpoints" / ".unfinished-x").exists()


def test_what_was_trained_after_the_search_is_used_and_exported(own_run: nas.SearchRun) -> None:
    titles = {network.key for network in own_run.networks}
    point = next(network for network in own_run.history if network.key not in titles)
    assert own_run.network(point.key).weights == "inherited"
    with pytest.raises(ValueError, match=f"do it by kshot-ext retrain .* --architecture {point.key}"):
        own_run.network(point.key, "trained")
    trained = own_run.retrain(point.key, progress=False)
    loaded = nas.load_run(own_run.path)
    assert isinstance(loaded, nas.SearchRun)
    images = torch.randint(256, (3, *own_run.card.image_shape), dtype=torch.uint8)
    expected = trained.network()(images)
    for weights in (None, "trained"):
        found = loaded.network(point.number, weights)
        assert found.weights == "trained"
        torch.testing.assert_close(found(images), expected, rtol=0, atol=0)
    for exported in (loaded.export(point.key), trained.export()):
        assert exported.weights == "trained"
        torch.testing.assert_close(torch.export.load(exported.path).module()(images), expected)
    assert loaded.network(point.key, "inherited").weights == "inherited"
    other = own_run.retrain(point.key, seed=1, progress=False)
    with pytest.raises(ValueError, match=f"trained 2 times after the search.*{other.path}"):
        loaded.network(point.key)
    assert loaded.network("winner").weights == "trained"
