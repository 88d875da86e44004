"""``nas.load_run``: a run folder gives what the run did, and keeps as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from kshot_ext import nas
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.networks.classifier import Classifier
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.run_folder import RunFolderError
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture


@pytest.fixture(scope="module")
def splits(run: nas.SearchRun) -> DataSplits:
    return load_data(run.settings, ConsoleProgress(Console(quiet=True)))[1]


@pytest.fixture
def loaded(run: nas.SearchRun) -> nas.SearchRun:
    found = nas.load_run(run.path)
    assert isinstance(found, nas.SearchRun)
    return found


def scores_of(classifier: Classifier, images: ImageSet) -> tuple[float, float]:
    """Accuracy and loss by the images as they are kept, 8 bits each."""
    with torch.no_grad():
        logits = classifier(images.images)
    loss = torch.nn.functional.cross_entropy(logits, images.labels).item()
    return (logits.argmax(dim=1) == images.labels).double().mean().item(), loss


def test_the_history_has_names_costs_and_scores(loaded: nas.SearchRun) -> None:
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=2)
    names = ("identity", "mb3_k3", "mb6_k5")
    history = loaded.history
    assert [network.number for network in history] == [*range(len(history))]
    assert len({network.key for network in history}) == len(history) > 4
    for network in history:
        assert network.operations == tuple(names[int(digit)] for digit in network.key)
        assert network.architecture == Architecture(tuple(map(int, network.key)))
        assert (network.macs, network.parameters) == (
            space.count_macs(network.architecture),
            space.count_parameters(network.architecture),
        )
    lines = [line for line in loaded.metrics if line["stage"] == "search"]
    assert lines[-1]["best_loss"] == min(network.supernet_loss for network in history)


def test_the_front_is_what_nothing_else_beats(loaded: nas.SearchRun) -> None:
    def beaten(one: object, other: object) -> bool:
        ours, theirs = ((network.macs, network.supernet_loss) for network in (one, other))
        return ours != theirs and theirs[0] <= ours[0] and theirs[1] <= ours[1]

    left = [one for one in loaded.history if not any(beaten(one, other) for other in loaded.history)]
    assert list(loaded.front) == sorted(left, key=lambda network: network.macs)


def test_the_comparison_is_of_the_trainings(loaded: nas.SearchRun) -> None:
    winner, rivals = loaded.winner, loaded.rivals
    assert [network.title for network in loaded.networks] == ["winner", "random", "random-2"]
    assert len(winner.test_accuracies) == 2
    assert winner.test_accuracies[0] == winner.test_accuracy
    trainings = [loaded._record.load_checkpoint(f"retrain-winner{suffix}") for suffix in ("", "-seed-2")]
    first, second = (training.state["network"]["head.3.weight"] for training in trainings if training is not None)
    assert not torch.equal(first, second)
    accuracies = [rival.test_accuracy for rival in rivals]
    comparison = loaded.comparison
    assert comparison is not None
    assert comparison.winner.mean == pytest.approx(sum(winner.test_accuracies) / 2)
    assert comparison.rivals.deviation == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    squares = (comparison.winner.deviation or 0) ** 2 / 2 + (comparison.rivals.deviation or 0) ** 2 / 2
    assert comparison.standard_error == pytest.approx(squares**0.5)
    assert comparison.to_json() == loaded.results["comparison"]


@pytest.mark.parametrize("title", ["winner", "random-2"])
def test_trained_networks_reach_what_was_told(loaded: nas.SearchRun, splits: DataSplits, title: str) -> None:
    network = loaded.network(title)
    (described,) = (network for network in loaded.networks if network.title == title)
    assert network.weights == "trained"
    assert network.class_names == splits.class_names
    assert scores_of(network, splits.test)[0] == pytest.approx(described.test_accuracy)


def test_inherited_networks_score_as_in_the_search(loaded: nas.SearchRun, splits: DataSplits) -> None:
    for considered in (loaded.history[0], loaded.history[-1]):
        network = loaded.network(considered.number, weights="inherited")
        assert network.weights == "inherited"
        accuracy, loss = scores_of(network, splits.validation)
        assert accuracy == pytest.approx(considered.supernet_accuracy)
        assert loss == pytest.approx(considered.supernet_loss, rel=1e-4)
    assert loaded.network(loaded.winner.key, "inherited").weights == "inherited"
    assert loaded.network(loaded.winner.architecture).weights == "trained"


def test_architectures_are_named_in_any_way(loaded: nas.SearchRun) -> None:
    third = loaded.history[3]
    for name in (3, "3", third.key, third.architecture):
        assert loaded.architecture(name) == third.architecture
    assert loaded.architecture("winner") == loaded.winner.architecture
    assert loaded.architecture("00000001").operations[-1] == 1  # of the space, though it was not evaluated
    with pytest.raises(ValueError, match=r"expected one of the \d+ that were evaluated, from 0, or a key, got '999'"):
        loaded.architecture("999")
    with pytest.raises(ValueError, match=r"or a title \(winner, random, random-2\), got 'best'"):
        loaded.architecture("best")
    with pytest.raises(ValueError, match="has not been trained from scratch; do it by kshot-ext retrain"):
        loaded.network("00000001", "trained")


@pytest.mark.parametrize("which", [True, None, 1.0, [0]])
def test_what_names_no_architecture_is_refused(run: nas.SearchRun, which: Any) -> None:
    for ask in (run.architecture, run.network, run.export, partial(run.retrain, progress=False)):
        with pytest.raises(ValueError, match=r"architecture: expected a key, a place in the history, .* got "):
            ask(which)


def test_the_supernet_is_the_trained_one(loaded: nas.SearchRun, splits: DataSplits) -> None:
    saved = nas.load_run(loaded.path)._record.load_checkpoint("supernet")
    weights = loaded.supernet().supernet.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in saved.state["supernet"].items())
    with loaded.supernet().network(loaded.history[0].architecture) as network:
        assert network.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_results_of_the_first_format_are_read(run: nas.SearchRun, tmp_path: Path) -> None:
    """They had one rival, no test accuracies of several trainings, and neither front nor history."""
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    new = json.loads((folder / "results.json").read_text())
    winner, rival = (
        {k: v for k, v in n.items() if k not in ("key", "test_accuracies")}
        for n in new["networks"][:1] + new["rivals"][:1]
    )
    kept = ("run", "ensemble_accuracy", "max_macs", "max_bit_operations", "score", "seconds", "codes")
    old = {"winner": winner, "random": rival, "networks": [winner], **{name: new[name] for name in kept}}
    (folder / "results.json").write_text(json.dumps(old))
    loaded = nas.load_run(folder)
    assert isinstance(loaded, nas.SearchRun)
    assert loaded.history == run.history  # of the checkpoint
    assert loaded.winner.key == run.winner.key
    assert loaded.winner.test_accuracies == (run.winner.test_accuracy,)
    assert [rival.title for rival in loaded.rivals] == ["random"]
    assert loaded.comparison is not None
    assert loaded.comparison.standard_error is None
    (folder / "results.json").write_text(json.dumps(new | {"format": 3}))
    with pytest.raises(RunFolderError, match="expected format 2 or older, got 3; read it by a newer version"):
        _ = nas.load_run(folder).results


def test_runs_begun_before_keep_one_rival_and_one_training(run: nas.SearchRun, tmp_path: Path) -> None:
    """Their settings say neither."""
    from kshot_ext.nas.runs.run_card import _settings_digest
    from kshot_ext.nas.runs.run_folder import RunRecord
    from kshot_ext.nas.tables import as_table, to_toml

    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    table = as_table(run.settings)
    del table["rivals"], table["retrain"]["seeds"]
    (folder / "settings.toml").write_text(to_toml(table))
    card = asdict(run.card) | {"settings": _settings_digest(table)}
    (folder / "run.json").write_text(json.dumps(card))
    settings = RunRecord(folder).settings
    assert (settings.rivals, settings.retrain.seeds) == (1, 1)


def test_looking_reads_no_pickle_and_changes_nothing(run: nas.SearchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> dict[Path, str]:
        found = (path for path in run.path.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle is loaded")

    before = files()
    monkeypatch.setattr(torch, "load", refuse)
    loaded = nas.load_run(run.path)
    assert isinstance(loaded, nas.SearchRun)
    assert loaded.network("winner").weights == "trained"
    assert loaded.network(0, "inherited").weights == "inherited"
    assert files() == before


def test_no_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        nas.load_run(tmp_path)
