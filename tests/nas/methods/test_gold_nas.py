"""Gradual pruning: shares, pressure, guards and the series of results, against values by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.gold_nas import GoldNASSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = TrainingSettings(epochs=3, batch_size=8, held_out_share=0.25)


@pytest.fixture
def cells():
    return create_space("nas-bench-201", image_shape=(1, 8, 8), num_classes=3, channels=2, cells=1)


def begin(space, splits, training=TRAINING, **own):
    return begin_training(GoldNASSettings(**own), space, splits, training)


def logit(share):
    return math.log(share / (1 - share))


def test_shares_and_resources_by_hand(cells, tiny_splits):
    """Node 2 of a cell, whose edges 1 and 2 keep three operations of strengths 0.5, 0.2 and 0.1."""
    method = begin(cells, tiny_splits, least_share=0.15 / 8, operation_cost=1.0).method
    relaxation = method.relaxation
    assert not relaxation.kept[:, 0].any()  # "none" is no operation that is weighed
    relaxation.kept[1:3] = False
    for cell, strength in {(1, 2): 0.5, (1, 4): 0.2, (2, 1): 0.1}.items():
        relaxation.kept[cell] = True
        relaxation.logits.data[cell] = logit(strength)
    shares = method.shares()
    assert shares[1:3].flatten().tolist() == pytest.approx([0, 0, 0.625, 0, 0.25, 0, 0.125, 0, 0, 0])
    assert shares[0].tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25])
    assert shares[3:].sum().item() == pytest.approx(1)
    node_two = math.log1p(3 * 0.625) + math.log1p(3 * 0.25) + math.log1p(3 * 0.125)
    expected = 4 * math.log1p(4 / 4) + 12 * math.log1p(12 / 12) + node_two
    assert method.resources().item() == pytest.approx(expected, rel=1e-5)
    method.settings = GoldNASSettings(least_share=0.2, prunable_share=0.2)  # now two of the three are above
    changed = math.log1p(2 * 0.625) + math.log1p(2 * 0.25) + math.log1p(2 * 0.125)
    expected = 4 * math.log1p(4 / 4) + 12 * math.log1p(0) + changed
    assert method.resources().item() == pytest.approx(expected, rel=1e-5)


def test_the_pressure_presses_the_logits_of_a_step(tiny_space, tiny_splits):
    """The gradient under pressure is that without, and the pressure times that of the resources."""
    loop = begin(tiny_space, tiny_splits)
    method, found = loop.method, []
    logits = method.relaxation.logits
    logits.data.normal_(generator=torch.Generator().manual_seed(1))
    method.resources().backward()
    expected = 3.0 * logits.grad

    def keep(optimizer, **options):
        if optimizer is method.optimizers["logits"]:
            found.append(logits.grad.clone())
        optimizer.zero_grad()

    loop.do.apply = keep
    images, labels = next(iter(loop.random_batches(loop.images, torch.Generator().manual_seed(0))))
    method.optimizers["logits"].zero_grad()
    for method.pressure in (0.0, 3.0):
        method.step(images, labels, loop.do)
    assert expected.abs().min() > 0
    torch.testing.assert_close(found[1] - found[0], expected, rtol=1e-4, atol=1e-6)


def test_costs_count_operations_and_multiply_accumulates(tiny_space, tiny_splits):
    method = begin(tiny_space, tiny_splits, operation_cost=2.0, mac_cost=3.0).method
    macs = torch.tensor([[tiny_space.layer_cost(layer, o).macs for o in range(3)] for layer in range(8)]).float()
    torch.testing.assert_close(method._costs, 2 + 3 * macs / macs.mean())


def test_a_round_prunes_the_smallest_and_steers_the_pressure(tiny_space, tiny_splits):
    method = begin(tiny_space, tiny_splits, prunings=1, pressure=1.0, pressure_factor=2.0).method
    for rise in (2, 4):  # nothing to prune: the rise doubles
        before = method.pressure
        method.end_round()
        assert method.pressure == before + rise
    method.relaxation.logits.data[0, 1] = logit(0.02)  # shares 0.0196 and 0.49: prunable
    method.relaxation.logits.data[1, 1] = logit(0.03)
    method.relaxation.logits.data[2, 0] = logit(0.004)  # below the least share
    method.end_round()  # the smallest one, and then no other but those below the least share
    assert method.current == method.result_space.of_sets([{0, 1, 2}] * 2 + [{1, 2}] + [{0, 1, 2}] * 5)
    assert method.pressure == 6 / 2
    method.end_round()
    assert method.current == method.result_space.of_sets([{0, 2}, {0, 1, 2}, {1, 2}] + [{0, 1, 2}] * 5)
    assert method.pressure == 6 / 4
    method.end_round()
    assert method.result_space.sets(method.current)[1] == (0, 2)
    method.end_round()
    assert method.pressure == 6 / 8 + 2  # the rise began anew


def test_stable_architectures_are_results_once_pruning_goes_on(tiny_space, tiny_splits):
    method = begin(tiny_space, tiny_splits, stable=1, pressure=0.0).method
    prune = iter(range(tiny_space.num_layers))

    def rounds(quiet: int) -> None:
        """So many rounds in which nothing is pruned, and one in which a layer loses an operation."""
        for _ in range(quiet):
            method.end_round()
        method.relaxation.logits.data[next(prune), 1] = logit(0.004)
        method.end_round()

    rounds(quiet=2)
    assert method.found == []  # nothing had been chosen before
    stable = method.current
    rounds(quiet=2)
    assert method.found == [stable]  # as it was before
    rounds(quiet=1)
    assert method.found == [stable]  # too soon after the last
    assert method.result_space.sets(method.current)[:3] == ((0, 2), (0, 2), (0, 2))


def test_of_many_results_some_are_trained_anew_evenly_and_the_last(tiny_space, tiny_splits):
    method = begin(tiny_space, tiny_splits, results=4).method
    method.found = [tiny_space.cheapest().with_operation(layer, 1) for layer in range(8)]
    method.found.append(tiny_space.cheapest())
    assert method.series == [method.found[index] for index in (2, 4, 6, 8)]
    method.found = method.found[:4]
    assert method.series == method.found


def test_no_node_loses_all_operations(cells, tiny_space, tiny_splits):
    for space in (cells, tiny_space):
        loop = begin(space, tiny_splits, pressure=100.0, prune_every=0.1, prunings=50, prunable_share=0.9)
        while not loop.finished:
            loop.train_epoch()
        method = loop.method
        sets = method.result_space.sets(method.current)
        for layers in space.sums:
            names = [space.operations(layer)[choice] for layer in layers for choice in sets[layer]]
            assert sum(name != "none" for name in names) == 1
        assert method.pressure == 0  # there is nothing left to press for
        assert method.found[-1] == method.current
        with method.networks.network(method.current) as network:
            assert network(torch.zeros(2, 1, 8, 8)).isfinite().all()


def test_pruning_ends_at_the_least_cost(tiny_space, tiny_splits):
    options = {"pressure": 100.0, "prune_every": 0.1, "prunings": 1, "prunable_share": 0.9}
    loop = begin(tiny_space, tiny_splits, least_macs=0.5, **options)
    whole = loop.method.result_space.count_macs(loop.method.current)
    costs = []
    while not loop.finished:
        loop.train_epoch()
        costs.append(loop.method.result_space.count_macs(loop.method.current))
    assert costs == sorted(costs, reverse=True)
    assert 0.25 * whole < costs[-1] <= 0.5 * whole


def test_networks_are_those_of_sets_and_of_single_operations(tiny_space, tiny_splits):
    method = begin(tiny_space, tiny_splits).method
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    path = tiny_space.largest()
    half = [[torch.tensor(0.5) if o == chosen else None for o in range(3)] for chosen in path.operations]
    with method.networks.network(path) as single, method.supernet.coded_mixture(half) as expected:
        torch.testing.assert_close(single(images), expected(images))
    with (
        method.networks.network(method.current) as whole,
        method.supernet.coded_mixture([[torch.tensor(0.5)] * 3] * 8) as expected,
    ):
        torch.testing.assert_close(whole(images), expected(images))


def test_shares_that_would_prune_all_are_refused(cells, tiny_splits):
    with pytest.raises(ValueError, match=r"a node of space nas-bench-201 has 12 operations.*below 0.0833, got 0.1"):
        begin(cells, tiny_splits, least_share=0.1, prunable_share=0.2)
    with pytest.raises(ValueError, match="prunable_share"):
        GoldNASSettings(least_share=0.1, prunable_share=0.05)
