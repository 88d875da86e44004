"""The tree-structured Parzen estimator on a separable function, whose optimum is known."""

import logging
import sys

import pytest

from kshot_ext.nas.extras import MissingExtraError
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers import tpe
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.searchers.tpe import TreeStructuredParzenEstimator
from kshot_ext.nas.spaces.limits import SearchLimits

OPTIMUM = (2, 0, 1, 1, 2, 0, 2, 1)


def wrong_choices(architecture):
    """Each choice counts on its own: 0 at the optimum, 8 at most."""
    return sum(choice != best for choice, best in zip(architecture.operations, OPTIMUM))


def search(method, space, generator):
    settings = SearchSettings(population=15, generations=4, method=method)
    archive = Archive(lambda a: Scores(0.0, float(wrong_choices(a))), space, SearchLimits(), generator)
    whole = Generations(archive, settings)
    while not whole.finished:
        whole.step()
    return [wrong_choices(result.architecture) for result in archive.history]


def test_it_beats_random_search_in_sixty_evaluations(tiny_space, seeded):
    pytest.importorskip("optuna", reason="optuna is not installed")
    found = {method: [search(method, tiny_space, seeded(seed)) for seed in range(3)] for method in ("tpe", "random")}
    assert all(len(wrong) == 60 for runs in found.values() for wrong in runs)
    assert sum(min(wrong) for wrong in found["tpe"]) < sum(min(wrong) for wrong in found["random"])
    last = {method: sum(sum(wrong[-15:]) for wrong in runs) / 45 for method, runs in found.items()}
    assert last["random"] == pytest.approx(16 / 3, abs=0.5)  # two of three options of each of eight choices
    assert last["tpe"] < last["random"] - 1.5


def test_random_architectures_fill_up_what_the_model_does_not_propose(tiny_space, seeded, monkeypatch):
    pytest.importorskip("optuna", reason="optuna is not installed")
    monkeypatch.setattr(tpe, "_TRIES_PER_ARCHITECTURE", 0)
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, SearchLimits(), seeded(0))
    archive.evaluate(archive.random(12))
    asked = TreeStructuredParzenEstimator().ask(archive, 3)
    assert len(set(asked)) == 3
    assert not any(architecture in archive for architecture in asked)


def test_it_leaves_optunas_logging_as_it_was(tiny_space, seeded, caplog):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    archive = Archive(lambda a: Scores(0.0, 1.0), tiny_space, SearchLimits(), seeded(0))
    archive.evaluate(archive.random(12))
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with caplog.at_level(logging.INFO):
        assert len(TreeStructuredParzenEstimator().ask(archive, 3)) == 3
    assert caplog.records == []
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_without_optuna_the_cure_is_named_before_anything_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"optuna is needed here .* pip install 'kshot_ext\[tpe\]'"):
        SearchSettings(method="tpe").searcher()
