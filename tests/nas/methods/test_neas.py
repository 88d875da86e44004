"""Ensembles are trained with a shared trunk, and operations that ensembles do without are dropped."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.neas import EnsembleSettings, disagreement
from kshot_ext.nas.methods.selection import SelectionTools
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs import supernet_job
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.settings import TrainingSettings

TRAINING = TrainingSettings(epochs=2, batch_size=8, held_out_share=0.25)


@pytest.fixture
def begin(tiny_space, tiny_splits):
    def make(settings=None, space=tiny_space, training=TRAINING, **options):
        return begin_training(settings or EnsembleSettings(), space, tiny_splits, training, **options)

    return make


@pytest.fixture
def batch(tiny_splits):
    return tiny_splits.train.images[:8].float() / 255, tiny_splits.train.labels[:8]


@pytest.mark.parametrize(("trunk", "shots"), [(0, 1), (3, 1), (8, 1), (3, 2)])
def test_a_step_has_each_networks_gradient_and_the_trunks_mean(begin, batch, trunk, shots):
    """Against each network run by itself as a path of its own supernet, whose trunk is the first one's."""
    training = replace(TRAINING, weight_decay=0.0, clip_norm=0.0, label_smoothing=0.0, equal_path_steps=False)
    codes = CodeSettings(start="count", free_share_at_start=0.0)
    method = (loop := begin(training=training, shots=shots, codes=codes)).method
    supernets = (method.supernet.eval(), method.branches[0].eval())  # each image by itself
    first, second = Architecture((1, 2, 1, 2, 1, 2, 1, 2)), Architecture((1, 2, 1, 1, 2, 1, 2, 1))
    ensemble = method.ensembles.of_members(trunk, (first, second))
    first, second = method.ensembles.members(ensemble)
    images, labels = batch
    expected = {}
    paths = [
        supernet.coded_path(member, method.simplex_net.code(member))
        for supernet, member in zip(supernets, (first, second))
    ]
    with paths[0] as one, paths[1] as other:
        networks = list(one), [*list(one)[: 1 + trunk], *list(other)[1 + trunk :]]
        for layers in networks:
            value = images
            for layer in layers:
                value = layer(value)
            F.cross_entropy(value, labels).backward()
        in_trunk = {p for layer in list(one)[: 1 + trunk] for p in layer.parameters()}
    for supernet in supernets:
        for parameter in supernet.parameters():
            if parameter.grad is not None:
                expected[parameter] = parameter.grad / 2 if parameter in in_trunk else parameter.grad
                parameter.grad = None
    step = method.train_paths([ensemble], images, labels, loop.do)
    found = {p: state["momentum_buffer"] for p, state in loop.optimizer.state.items() if "momentum_buffer" in state}
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)
    assert step.paths == (first, second)
    assert in_trunk
    assert len(expected) > len(in_trunk)


def test_each_networks_loss_counts_by_its_own_factor(begin, batch, monkeypatch):
    method = (loop := begin(training=replace(TRAINING, weight_decay=0.0))).method
    factors = iter((1.0, 0.0))
    monkeypatch.setattr(method._path_steps, "factor", lambda *_: next(factors))
    ensemble = method.ensembles.of_members(2, (Architecture((1,) * 8), Architecture((2,) * 8)))
    method.train_paths([ensemble], *batch, loop.do)
    for module, moves in ((method.supernet.head, True), (method.branches[0].head, False)):
        momenta = [loop.optimizer.state[p]["momentum_buffer"] for p in module.parameters()]
        assert any(bool(momentum.any()) for momentum in momenta) == moves


def test_the_ensemble_is_scored_as_the_mean_of_its_networks(begin, batch):
    method = begin().method
    ensemble = method.ensembles.of_members(2, (Architecture((1,) * 8), Architecture((2,) * 8)))
    method.supernet.eval()
    method.branches.eval()
    with torch.no_grad(), method.networks.network(ensemble) as network:
        one, other = network.members(batch[0])
        torch.testing.assert_close(network(batch[0]), (one + other) / 2)
    assert not torch.allclose(one, other)
    with torch.no_grad():
        torch.testing.assert_close(one, method.supernet(batch[0], Architecture((1,) * 8)))


def test_equal_networks_differ_by_their_own_weights(begin, batch):
    """Else an ensemble of one architecture twice could not disagree."""
    method = begin().method
    twice = method.ensembles.of_members(4, [method.space.largest()] * 2)
    with torch.no_grad(), method.networks.network(twice) as network:
        one, other = network.members(batch[0])
    assert disagreement([one, other]) > 0.01


def test_disagreement_is_the_mean_distance_of_probabilities():
    scores = [torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])]
    # (1/4, 3/4) and (3/4, 1/4) for the first image: a distance of sqrt(1/2); none for the second.
    assert disagreement(scores).item() == pytest.approx(math.sqrt(0.5) / 2)
    assert disagreement([scores[0]] * 3).item() == 0
    assert disagreement([scores[0], scores[0], scores[1]]).item() == pytest.approx(math.sqrt(0.5) / 3)


def test_an_operations_worth_is_that_of_the_ensembles_that_have_it(begin, monkeypatch):
    loop = begin(EnsembleSettings(judged_ensembles=30))
    method, measured = loop.method, {}

    def measure(ensemble, *_):
        measured[ensemble] = (float(len(measured)), float(len(measured)) ** 2)
        return measured[ensemble]

    monkeypatch.setattr(method, "_measure", measure)
    accuracy, disagreement_found = method.judge(loop.do)
    assert len(measured) == 30
    for layer in range(8):
        for operation in range(3):
            having = [
                values
                for ensemble, values in measured.items()
                if any(member.operations[layer] == operation for member in method.ensembles.members(ensemble))
            ]
            assert accuracy[layer, operation] == pytest.approx(sum(v for v, _ in having) / len(having))
            assert disagreement_found[layer, operation] == pytest.approx(sum(v for _, v in having) / len(having))
    firsts = [method.ensembles.members(ensemble)[0].operations for ensemble in measured]
    for column in zip(*firsts):
        assert [column.count(operation) for operation in range(3)] == [10, 10, 10]


@pytest.mark.parametrize(("diversity", "dropped"), [(0.0, [(0, 0), (1, 1)]), (10.0, [(6, 2), (7, 2)])])
def test_the_operations_of_least_worth_are_dropped(begin, monkeypatch, diversity, dropped):
    loop = begin(EnsembleSettings(diversity=diversity))
    method = loop.method
    accuracy = {(layer, operation): 0.5 + layer / 100 for layer in range(8) for operation in range(3)}
    accuracy |= {(0, 0): 0.1, (0, 1): 0.11, (1, 1): 0.2}  # two of layer 0, which has to keep two
    disagreements = dict.fromkeys(accuracy, 1.0) | {(7, 2): 0.1, (6, 2): 0.2}
    monkeypatch.setattr(method, "judge", lambda do: (accuracy, disagreements))
    method.shrink(22, loop.do)
    gone = [(layer, o) for layer, kept in enumerate(method.ensembles.kept) for o in range(3) if o not in kept]
    assert gone == dropped


def test_the_space_shrinks_over_the_training_and_to_no_less_than_is_to_be_kept(begin):
    settings = EnsembleSettings(shrinks=3, kept_operations=2, judged_ensembles=6)
    loop = begin(settings, training=replace(TRAINING, epochs=6))
    kept, paths = [], []
    train = loop.method.train_paths
    loop.method.train_paths = lambda chosen, *rest: paths.append(chosen[0]) or train(chosen, *rest)
    while not loop.finished:
        before = [set(operations) for operations in loop.method.ensembles.kept]
        paths.clear()
        kept.append(loop.train_epoch().numbers["kept_operations"])
        for member in (member for path in paths for member in loop.method.ensembles.members(path)):
            assert all(operation in legal for operation, legal in zip(member.operations, before))
    assert kept == [24, 21, 18, 18, 16, 16]  # after epochs 1.5, 3, 4.5: 24 - 8/3, 24 - 16/3, 24 - 8
    assert [len(operations) for operations in loop.method.ensembles.kept] == [2] * 8


@pytest.mark.parametrize(
    ("left", "is_limited", "searched"), [((1, 2), False, (1, 2)), ((1, 2), True, (0, 1, 2)), ((2,), False, (0, 2))]
)
def test_the_search_gets_back_what_its_limits_and_its_population_need(begin, seeded, left, is_limited, searched):
    """Of one operation a layer there are nine ensembles, by their trunks; a population has twelve."""
    method = begin().method
    ensembles, everything = method.ensembles, [(0, 1, 2)] * 8
    ensembles.keep([left] * 8)
    limits = SearchLimits(ensembles.count_macs(ensembles.cheapest()) - 1 if is_limited else None)

    def after_training():
        ensembles.keep(everything)
        archive = Archive(lambda path: Scores(0.5, float(sum(path.operations))), ensembles, limits, seeded(0))
        settings = SearchSettings(population=12, generations=3)
        stage = method.selection(SelectionTools(archive=archive, settings=settings, loop=None))
        ensembles.keep([left] * 8)
        return stage

    whole = after_training()
    whole.step(lambda position: None)
    state = copy.deepcopy(whole.work.state_dict())
    while whole.done < whole.total:
        numbers = whole.step(lambda position: None)
    assert numbers["kept_operations"] == 8 * len(searched)
    assert all(limits.admit(ensembles, result.architecture) for result in whole.work.archive.history)
    resumed = after_training()
    resumed.work.load_state_dict(state)
    while resumed.done < resumed.total:
        resumed.step(lambda position: None)
    assert resumed.work.archive.history == whole.work.archive.history
    ended = after_training()
    ended.work.load_state_dict(whole.work.state_dict())
    assert method.selected(ended) == method.selected(whole)
    assert ensembles.kept == [searched] * 8


def test_all_is_kept_without_shrinking(begin, tiny_splits):
    for settings in (EnsembleSettings(shrinks=0), EnsembleSettings(kept_operations=3)):
        loop = begin(settings)
        assert not loop.method.needs_held_out
        assert [loop.train_epoch().numbers["kept_operations"] for _ in range(2)] == [24, 24]


def test_what_it_cannot_do_is_refused_before_training(begin, tiny_splits):
    cells = create_space("nas-bench-201", image_shape=(1, 8, 8), num_classes=3, channels=2, cells=1)
    with pytest.raises(ValueError, match="networks are a chain of layers; got nas-bench-201"):
        begin(space=cells)
    with pytest.raises(ValueError, match="path_sampling: expected uniform, as method neas draws ensembles, got 'fair'"):
        begin(training=replace(TRAINING, path_sampling="fair"))
    with pytest.raises(ValueError, match=r"judged_ensembles: expected at least the 3 operations of a layer.*, got 2"):
        begin(EnsembleSettings(judged_ensembles=2))
    for options, message in (
        ({"heads": 1}, "heads: expected at least 2, got 1"),
        ({"heads": 17}, "heads: expected at most 16, got 17"),
        ({"shrinks": -1}, "shrinks: expected at least 0"),
        ({"kept_operations": 0}, "kept_operations: expected at least 1"),
        ({"diversity": -0.5}, "diversity: expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            EnsembleSettings(**options)


def test_more_networks_than_fit_are_refused_before_training(tiny_splits, monkeypatch):
    settings = RunSettings(
        method=EnsembleSettings(heads=16), shots=1, budget="20%", channels=2, training=TrainingSettings(epochs=1)
    )
    with pytest.raises(ValueError, match="no architecture of space ensembles of 16 in nas-bench-macro has at most"):
        SearchJob(settings, tiny_splits)
    two = replace(settings, method=EnsembleSettings(heads=2), budget="60%")
    space = SearchJob(two, tiny_splits).space
    of_four = 4 * 2 * 4 * space.count_parameters(space.largest())  # weights and momentum, of four bytes each
    monkeypatch.setattr(supernet_job, "available_memory", lambda: of_four)
    SearchJob(two, tiny_splits)
    with pytest.raises(ValueError, match=r"shots: 16 copies of the weights are .*; use fewer, or fewer channels"):
        SearchJob(settings, tiny_splits)
