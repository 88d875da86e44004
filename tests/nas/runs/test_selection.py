"""A method that selects several networks by a stage of its own: what a run makes of them, stopped and resumed, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kshot_ext.nas.commands.frame import EXIT_DONE, EXIT_INTERRUPTED
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.methods.selection import Selection
from kshot_ext.nas.networks.ensemble import Ensemble
from kshot_ext.nas.networks.evaluation import evaluate_network
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.supernet_job import load_data
from kshot_ext.nas.spaces.architecture import Architecture

OWN = """
from dataclasses import dataclass

from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.findings import Figure, Findings
from kshot_ext.nas.methods.method import MethodSettings
from kshot_ext.nas.methods.parts.path_method import PathMethod
from kshot_ext.nas.methods.selection import Selection
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Settings(MethodSettings):
    count: int = 3


class Some:
    def __init__(self, archive):
        self.archive = archive

    def state_dict(self):
        return self.archive.state_dict()

    def load_state_dict(self, state):
        self.archive.load_state_dict(state)


class DrawSome(Stage):
    unit = "draw"
    headline = ()

    def __init__(self, archive, method):
        super().__init__("draw", "draw some", Some(archive))
        self.method = method

    @property
    def total(self):
        return self.method.settings.count

    @property
    def done(self):
        return len(self.work.archive)

    def step(self, on_move):
        archive = self.work.archive
        archive.evaluate(archive.random(1))
        return {"drawn": len(archive)}


class Drawn(PathMethod[Settings]):
    summary, paper, Settings = "draws some", "none", Settings

    @property
    def score_network(self):
        return halved

    def selection(self, tools):
        return DrawSome(tools.archive, self)

    def selected(self, stage):
        best = tuple(result.architecture for result in stage.work.archive.best_first()[:2])
        return Selection(architectures=best, considered=stage.work.archive.history, ensemble=True)

    @property
    def findings(self):
        return Findings(heading="What was drawn", facts={"luck": "much"}, results={"luck": 7}, ranking={"luck": 8})

    def figures(self, architectures, records):
        steps = [(r["step"], r["drawn"]) for r in records if r["stage"] == "draw"]
        curves = {"drawn": steps}
        return [Figure("Drawn", f"{len(architectures)} drawn", curves_chart(curves, "step", "n"))]


def halved(network, validation):
    scores = evaluate_network(network, validation)
    return Scores(scores.accuracy / 2, scores.loss)
"""
SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 1
channels = 2
max_images = 200
epochs = 1
retrain_epochs = 2
[training]
batch_size = 32
[retrain]
batch_size = 16
"""


OWN_NAME = "drawn.py:Drawn"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a run that was never stopped, beside its method and its settings."""
    folder, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("drawn.py").write_text(OWN)
        Path("settings.toml").write_text(SETTINGS)
        assert search_command({"method": OWN_NAME, "out": "run"}, Path("settings.toml"), None) == EXIT_DONE
        yield folder / "run"
    torch.set_num_threads(threads)


def results_of(run: Path) -> dict[str, object]:
    results = json.loads((run / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("run", "seconds")}


def test_several_networks_are_retrained_described_and_kept(finished: Path) -> None:
    run = finished
    results = results_of(run)
    networks = results["networks"]
    assert [network["title"] for network in networks] == ["winner", "winner-2"]
    assert results["winner"] == networks[0]
    assert networks[0]["supernet_loss"] <= networks[1]["supernet_loss"]
    assert max(network["supernet_accuracy"] for network in networks) <= 0.5  # by the method's own score
    assert results["luck"] == 7
    stages = dict.fromkeys(json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines())
    assert list(stages) == ["supernet", "draw", "retrain-winner", "retrain-winner-2", "retrain-random"]
    models = [torch.load(run / f"model{suffix}.pt", weights_only=False).eval() for suffix in ("", "-2")]
    for suffix, model, network in zip(("", "-2"), models, networks):
        card = json.loads((run / f"architecture{suffix}.json").read_text())
        assert card["operations"] == network["architecture"]["operations"]
        assert sum(parameter.numel() for parameter in model.parameters()) == card["parameters"]
        assert (run / f"model{suffix}.safetensors").exists()
    _, splits = load_data(RunRecord(run).settings, ConsoleProgress(Console(quiet=True)))
    test = list(batches(splits.test, 64, mean=splits.mean, std=splits.std))
    expected = [evaluate_network(network, test).accuracy for network in (*models, Ensemble(models))]
    assert len(set(expected)) > 1
    assert [*(network["test_accuracy"] for network in networks), results["ensemble_accuracy"]] == expected
    page = (run / "report.html").read_text()
    for text in ("What was drawn", "much", "winner-2", "3 drawn", "test accuracy of the ensemble"):
        assert text in page


def test_a_selection_of_ones_own_goes_on_as_if_never_stopped(
    finished: Path, stop_before_saves: Callable[[Collection[int]], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    stop_before_saves({3, 9})  # in the selection, and as the second network is trained
    run = Path("stopped")
    assert search_command({"method": OWN_NAME, "out": "stopped"}, Path("settings.toml"), None) == EXIT_INTERRUPTED
    assert search_command({"method": OWN_NAME}, None, run) == EXIT_INTERRUPTED
    assert search_command({"method": OWN_NAME}, None, run) == EXIT_DONE
    assert "test accuracy of the ensemble" in capsys.readouterr().out
    assert results_of(run) == results_of(finished)
    assert (run / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    for name in ("model.pt", "model-2.pt"):
        ours, theirs = (torch.load(each / name, weights_only=False).state_dict() for each in (run, finished))
        assert all(map(torch.equal, ours.values(), theirs.values()))


def test_a_selection_of_nothing_or_of_one_twice_is_refused() -> None:
    one = Architecture((0, 1))
    assert replace(Selection(architectures=(one,)), ensemble=True).architectures == (one,)
    with pytest.raises(ValueError, match="expected one at the least to be selected, got none"):
        Selection(architectures=())
    with pytest.raises(ValueError, match="expected different ones, got 01, 01"):
        Selection(architectures=(one, one))
